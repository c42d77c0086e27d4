"""What is concluded from runs and networks: tests, times to a target, slopes, and pruning."""
