"""Files, checkpoints and records of runs, and what a result depends on; imports no other room."""
