"""What this process may use of the machine: CPUs and memory, within the limits that are set for it.

The machine may have 64 CPUs, and this process one of them: by its affinity (``taskset``, SLURM), by
the quota of a control group (containers, systemd), or by what the environment says. Control groups
are read from Linux's files, of version 1 and 2; elsewhere no such limit is known.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

#: How many threads a process is to have, by whoever started it.
THREADS = "OMP_NUM_THREADS"
#: How many CPUs a scheduler has given to it.
ALLOCATED = ("SLURM_CPUS_PER_TASK",)

PROCESSES = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")
#: What version 1 has for "no limit": the largest number of pages.
UNLIMITED = 2**60


def usable_cpus() -> int:
    """Return on how many CPUs this process can work at once; at least 1.

    The least of its affinity, the quota of its control group, and what a scheduler gave it.
    """
    if hasattr(os, "sched_getaffinity"):
        cpus: float = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    given = [number for name in ALLOCATED if (number := _number(os.environ.get(name)))]
    return max(int(min(cpus, cpu_quota(), *given, math.inf)), 1)


def threads_for(jobs: int) -> int:
    """Return how many threads each of so many processes is best given, of the usable CPUs.

    One CPU is left to the rest of the machine, if all of them are this process's: threads wait for
    the slowest of them. More than `OMP_NUM_THREADS` are never given.
    """
    cpus = usable_cpus()
    if cpus == os.cpu_count():
        cpus = max(cpus - 1, 1)
    most = _number(os.environ.get(THREADS)) or cpus
    return max(min(cpus // jobs, most), 1)


def cpu_quota() -> float:
    """Return how many CPUs' time the control groups of this process allow; infinity if any."""
    found = [math.inf]
    for folder in _groups("cpu"):
        if (limit := _read(folder / "cpu.max").split()) and limit[0].isdigit():  # version 2
            found.append(int(limit[0]) / int(limit[1]))
        quota, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit():  # version 1, where -1 is no limit
            found.append(int(quota) / int(period))
    return min(found)


def available_memory() -> float:
    """Return how many bytes this process can take without swapping, or being killed for it.

    What the machine has available, or is left of a control group's limit; infinity if unknown. Of a
    group, the files that are cached count as free, as the kernel drops them.
    """
    found = [math.inf]
    fields = _fields(PROCESSES / "meminfo")
    if "MemAvailable" in fields:
        found.append(1024 * fields["MemAvailable"])
    for folder in _groups("memory"):
        for names in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = (_read(folder / name) for name in names)
            if limit.isdigit() and used.isdigit() and int(limit) < UNLIMITED:
                files = _fields(folder / "memory.stat")
                cached = files.get("total_inactive_file", files.get("inactive_file", 0))
                found.append(max(int(limit) - int(used) + cached, 0))
    return min(found)


def memory_limit() -> float:
    """Return the smallest limit, in bytes, of the control groups of this process, or infinity."""
    names = ("memory.max", "memory.limit_in_bytes")
    texts = [_read(folder / name) for folder in _groups("memory") for name in names]
    limits = [int(text) for text in texts if text.isdigit()]
    return min((limit for limit in limits if limit < UNLIMITED), default=math.inf)


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups that this process is in, and of those around them.

    In a container the path of its group may not be there, as its own group is mounted as the root.
    """
    for line in _read(PROCESSES / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            root = GROUPS
        elif controller in controllers.split(","):
            root = next(
                (r for r in (GROUPS / controllers, GROUPS / controller) if r.exists()), GROUPS
            )
        else:
            continue
        group = root / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _fields(path: Path) -> Mapping[str, int]:
    """Return the numbers of a file with a name and a number in each line."""
    pairs = [line.replace(":", " ").split() for line in _read(path).splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}


def _read(path: Path) -> str:
    """Return the text of a file; nothing if there is none to be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(text: str | None) -> int:
    """Return the number that a variable has, of which OpenMP allows a list; 0 if it has none."""
    first = (text or "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0
