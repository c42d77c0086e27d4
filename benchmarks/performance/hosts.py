"""Which host numbers were measured on: hosts are told apart, and nothing says whose they are.

Two hosts of one kind of processor, as clouds call it, can differ by a fifth. So the name of a host
has the generation of its processor, and beside its results lies a calibration: how long three small
pieces of work take there. A host that needs other times is another one, with a number behind the
name. What is stored of a host is written once, and no later run changes it.
"""

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.storage import provenance
from benchmarks.storage.files import read_json, write_json
from benchmarks.storage.provenance import processor

#: Files in the folder of a host: ours, and asv's own.
CALIBRATION, MACHINE = "calibration.json", "machine.json"
#: Largest relative difference of two calibrations of one host.
TOLERANCE = 0.15
REPEATS = 30  # of which the fastest counts: what else the machine does makes others slow

Seconds = Mapping[str, float]


def machine_name(device: torch.device) -> str:
    """Return a name that tells what the machine is, and not whose: asv's own is the host's."""
    name = processor(device)
    if device.type == "cpu":
        name = "-".join([f"{os.cpu_count()}-core", name, *_generation()])
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _generation() -> Iterator[str]:
    """Yield family, model and stepping of an x86 processor, whose names hide them in clouds."""
    info = provenance.CPUS.read_text(errors="replace") if provenance.CPUS.exists() else ""
    for field in ("cpu family", "model", "stepping"):
        if found := re.search(rf"^{field}\s*:\s*(\d+)$", info, re.MULTILINE):
            yield found[1]


def calibrate() -> Seconds:
    """Return the seconds of a product of matrices, a copy in memory, and a loop of Python."""
    matrix, block = torch.ones(256, 256), torch.ones(2**21)

    def loop() -> None:
        total = 0
        for number in range(50_000):
            total += number

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "product": _fastest(lambda: matrix @ matrix),
            "copy": _fastest(block.clone),
            "loop": _fastest(loop),
        }
    finally:
        torch.set_num_threads(threads)


def _fastest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of many repeats."""
    seconds = []
    for _ in range(REPEATS):
        started = perf_counter()
        work()
        seconds.append(perf_counter() - started)
    return min(seconds)


def identify(results: Path, device: torch.device) -> str:
    """Return the name of this host among those that results are stored of, or a new one.

    A new host's file for asv and its calibration are written.

    Raises:
        ValueError: a file there is not JSON.
    """
    name, seconds = machine_name(device), calibrate()
    number, host = 1, name
    while True:
        stored = read_json(results / host / CALIBRATION)
        if stored is not None and agree(stored, seconds):
            return host
        # A folder without a calibration may be of any host.
        if stored is None and not (results / host).exists():
            write_json(results / host / CALIBRATION, seconds)
            write_json(results / host / MACHINE, _described(host, device))
            return host
        number += 1
        host = f"{name}-host-{number}"


def agree(one: Seconds, other: Seconds) -> bool:
    """Return whether two calibrations can be of one host."""
    return one.keys() == other.keys() and all(
        1 / (1 + TOLERANCE) <= one[name] / other[name] <= 1 + TOLERANCE for name in one
    )


def _described(host: str, device: torch.device) -> dict[str, str | int]:
    """Return what asv stores of a machine, without what changes from day to day."""
    return {
        "arch": platform.machine(),
        "cpu": processor(device),
        "machine": host,
        "num_cpu": str(os.cpu_count()),
        "os": platform.system(),
        "ram": "",
        "version": 1,
    }
