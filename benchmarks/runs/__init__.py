"""Training runs: what identifies one, how it is executed and where, and what is stored of it."""
