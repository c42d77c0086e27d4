"""What a training step costs: its time, its peak memory, and its multiply-accumulates."""
