"""Where the time of a step goes: its parts against what the machine can do at best."""
