"""Studies that are written down: their files, what is stored of them, and the report of one."""
