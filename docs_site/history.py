"""The page of the ratios that asv has measured over the project's history, for whom asv is new."""

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from benchmarks.performance.gate import Name, ratios_of, units_of
from docs_site.links import ROOT

RESULTS = ROOT / "benchmarks" / "asv" / "results"
TEXT = """\
# Ratios over the history

Each number is the cost of a training step of LFP over that of SGD, measured in turn in one process:
1 is as fast, or as small, as SGD. A row is a device with a network or an activation, and the size
of the batch or what else the table names; columns are commits, the oldest first. Ratios of one
machine can be compared; times of two machines cannot, so there are none here.
[Where the time goes](performance.md#history) says how this is measured, and how to measure a commit
of your own; `lfp-bench perf dashboard` makes a site of it with every time.
"""
#: What a benchmark of the suite compares, by its name there.
TITLES = {
    "ratios.Models.track_time": "Time, by network",
    "ratios.Activations.track_time": "Time of LeNet, by activation",
    "ratios.Models.track_memory": "Peak memory, by network",
    "ratios.Activations.track_memory": "Peak memory of LeNet, by activation",
    "spiking.Spiking.track_ratio": "Time of a spiking network over BPTT, by time steps",
    "scaling.Batch.track_ratio": "Time, by the size of the batch",
    "scaling.Depth.track_ratio": "Time, by depth",
    "scaling.Width.track_ratio": "Time, by width",
}


class Measured(NamedTuple):
    """The ratios of a commit."""

    commit: str
    day: str
    ratios: dict[Name, float]


def page(results: Path = RESULTS) -> str:
    """Return the page on what is stored of all machines."""
    machines = sorted(path.parent for path in results.glob("*/machine.json"))
    return "\n".join([TEXT, *(line for machine in machines for line in _of_machine(machine))])


def _of_machine(folder: Path) -> Iterator[str]:
    history = measured(folder)
    if not history:
        return
    yield f"## On {folder.name}\n"
    for benchmark, title in TITLES.items():
        points = dict.fromkeys(n[1:] for one in history for n in one.ratios if n[0] == benchmark)
        if points:
            yield f"### {title}\n"
            head = ["", *(f"`{one.commit[:8]}` {one.day}" for one in history)]
            yield f"| {' | '.join(head)} |"
            yield f"|{' --- |' * len(head)}"
            for point in points:
                values = (one.ratios.get((benchmark, *point)) for one in history)
                shown = ("-" if value is None else f"{value:.2f}" for value in values)
                yield f"| {' '.join(part.strip(chr(39)) for part in point)} | {' | '.join(shown)} |"
            yield ""


def measured(folder: Path) -> list[Measured]:
    """Return what is stored of a machine, in the order of the commits' dates."""
    units, found = units_of(folder.parent), []
    for path in folder.glob("*-*.json"):
        content = json.loads(path.read_text())
        commit, seconds = content["commit_hash"], content["date"] / 1000
        ratios = {name: value for name, (_, value) in ratios_of(path, units, commit).items()}
        day = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")
        found.append((seconds, Measured(commit, day, ratios)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]
