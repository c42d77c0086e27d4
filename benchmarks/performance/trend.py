"""The ratios that asv has measured over the history, as tables: a row a case, a column a commit."""

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from benchmarks.performance.gate import Name, ratios_of, units_of
from benchmarks.rendering.text import Lines
from benchmarks.storage.files import read_json

#: What a benchmark of the suite compares, by its name there: first what matters most.
TITLES = {
    "ratios.Models.track_time": "Time, by network",
    "ratios.SamePooling.track_time": "Time, by network, with the same max-pooling on both sides",
    "ratios.Activations.track_time": "Time of LeNet, by activation",
    "ratios.Models.track_memory": "Peak memory, by network",
    "ratios.Activations.track_memory": "Peak memory of LeNet, by activation",
    "launches.Launched.track_launches": "Launched kernels, by network",
    "spiking.Spiking.track_ratio": "Time of a spiking network over BPTT, by time steps",
    "scaling.Batch.track_ratio": "Time, by the size of the batch",
    "scaling.Depth.track_ratio": "Time, by depth",
    "scaling.Width.track_ratio": "Time, by width",
}
#: What a reader has to know of the tables.
EXPLAINED = (
    "Each number is the cost of a training step of LFP over that of SGD, measured in turn in one "
    "process: 1 is as fast, or as small, as SGD. A column is a commit, the newest first. Ratios of "
    "one machine can be compared; times of two machines cannot, so there are none here."
)


class Measured(NamedTuple):
    """The ratios of a commit."""

    commit: str
    day: str
    ratios: dict[Name, float]


class Trend(NamedTuple):
    """A table of one benchmark, the newest commit first.

    Attributes:
        benchmark: its name in the suite.
        title: what is compared, and what is the same in all rows.
        lines: header and rows.
    """

    benchmark: str
    title: str
    lines: Lines


def machines(results: Path) -> list[Path]:
    """Return the folders of the machines that have results."""
    return sorted(path.parent for path in results.glob("*/machine.json"))


def measured(folder: Path) -> list[Measured]:
    """Return what is stored of a machine, by the dates of the commits, the newest first.

    Raises:
        GateError: a file is not asv's.
    """
    units, found = units_of(folder.parent), []
    for path in folder.glob("*-*.json"):
        content = json.loads(path.read_bytes())  # asv writes NaN, which strict JSON has not
        commit, seconds = content["commit_hash"], content["date"] / 1000
        ratios = {name: value for name, (_, value) in ratios_of(path, units, commit).items()}
        day = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")
        found.append((seconds, Measured(commit, day, ratios)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0], reverse=True)]


def trends(folder: Path) -> Iterator[Trend]:
    """Yield a table for each benchmark that has a ratio on this machine; raises as `measured`."""
    history = measured(folder)
    named = read_json(folder.parent / "benchmarks.json") or {}
    for benchmark, title in TITLES.items():
        points = dict.fromkeys(n[1:] for m in history for n in m.ratios if n[0] == benchmark)
        if not points:
            continue
        parameters = named[benchmark]["param_names"]
        first = next(iter(points))
        everywhere = range(len(parameters))
        varied = [i for i in everywhere if len({point[i] for point in points}) > 1]
        varied = varied or [everywhere[-1]]
        same = [f"{parameters[i]} {_bare(first[i])}" for i in everywhere if i not in varied]
        columns = [f"{one.commit[:8]} {one.day}" for one in history]
        header = [", ".join(parameters[i] for i in varied), *columns]
        rows = []
        for point in points:
            values = (_shown(one, (benchmark, *point)) for one in history)
            rows.append([" ".join(_bare(point[i]) for i in varied), *values])
        yield Trend(benchmark, f"{title} ({', '.join(same)})" if same else title, (header, rows))


def _bare(value: str) -> str:
    """Return a value of a parameter, of which asv stores the representation."""
    return value.strip("'")


def _shown(one: Measured, name: Name) -> str:
    return f"{one.ratios[name]:.2f}" if name in one.ratios else "-"
