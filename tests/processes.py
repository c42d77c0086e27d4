"""Which processes a process has begun, as Linux tells it."""

from contextlib import suppress
from pathlib import Path


def children(process: int) -> list[int]:
    """Return the processes whose parent that is."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(status.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(status.parent.name))
    return found


def descendants(process: int) -> list[int]:
    """Return all processes that a process has begun: its children, and what works for it."""
    return [*children(process), *workers(process)]


def workers(process: int) -> list[int]:
    """Return the processes that work for it, which another child of it has forked."""
    return [worker for child in children(process) for worker in children(child)]
