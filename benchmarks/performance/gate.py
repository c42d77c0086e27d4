"""The gate of performance: no ratio to SGD may grow by more than a tenth.

``lfp-bench perf gate`` measures two commits one after the other on this host, or compares what
``lfp-bench perf history`` stored of them, host by host; by the median ratios alone, as times depend
on what else the machine does, and ratios much less.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.rendering.text import Lines
from benchmarks.storage.files import read_json

#: The beginning of the unit of a ratio ("times SGD"), whatever it is to.
RATIO = "times "
#: The benchmarks that are ratios, as patterns.
RATIOS = [r"ratios\.", r"track_ratio", r"launches\."]

Name = tuple[str, ...]  # of a number: benchmark and values of its parameters


class GateError(ValueError):
    """There is nothing to compare."""


@dataclass(frozen=True)
class Comparison:
    """A ratio at two commits; None at HEAD if it was not measured, as nothing could be.

    A benchmark that measures something else than it did has other numbers, which is no change.
    """

    machine: str
    environment: str
    name: Name
    base: float
    head: float | None

    @property
    def change(self) -> float | None:
        """The relative change from base to head; None where there is no head."""
        return None if self.head is None else self.head / self.base - 1

    def regressed(self, threshold: float) -> bool:
        """Return whether the ratio grew by more than the threshold, or is gone."""
        return self.change is None or self.change > threshold


def compare(results: Path, base: str, head: str) -> list[Comparison]:
    """Return the ratios of two commits (full hashes), machine by machine.

    Raises:
        GateError: no machine has a ratio of both, or a file is not asv's.
    """
    units = units_of(results)
    found = []
    for path in sorted(results.glob(f"*/{base[:8]}-*.json")):
        other = path.with_name(path.name.replace(base[:8], head[:8], 1))
        before, after = ratios_of(path, units, base), ratios_of(other, units, head)
        for name, (version, value) in before.items():
            new_version, new = after.get(name, (version, None))
            if after and new_version == version:
                machine, environment = path.parent.name, path.stem.partition("-")[2]
                found.append(Comparison(machine, environment, name, value, new))
    if not found:
        raise GateError(f"{results}: no machine has ratios of both {base[:8]} and {head[:8]}")
    return found


def measured(base: str, head: str, bench: Sequence[str]) -> list[Comparison]:
    """Measure the ratios of two commits (full hashes) on this host, and compare them.

    Args:
        base: the commit that is compared with.
        head: the commit that is judged.
        bench: patterns of benchmarks; by default those that are ratios.

    Returns:
        The ratios, as :func:`compare` does.

    Raises:
        GateError: nothing of both could be measured.
    """
    from benchmarks.performance.history import measure  # noqa: PLC0415  (asv is an extra)

    with TemporaryDirectory() as folder:
        # asv's exit code is 2 where a benchmark failed, which the comparison shows as well.
        measure([base, head], list(bench) or RATIOS, results=Path(folder))
        return compare(Path(folder), base, head)


def units_of(results: Path) -> dict[str, str]:
    """Return the unit of every benchmark."""
    try:
        described = read_json(results / "benchmarks.json") or {}
        return {name: one["unit"] for name, one in described.items() if name != "version"}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GateError(f"{results / 'benchmarks.json'}: not a file of asv ({error!r})") from None


def ratios_of(path: Path, units: dict[str, str], commit: str) -> dict[Name, tuple[str, float]]:
    """Return version and value of all ratios in a file of asv's that are numbers, if it is there.

    asv writes NaN for n/a, and null for what failed.

    Raises:
        GateError: the file is not one of asv's, or of another commit.
    """  # noqa: DOC501  (the others are caught)
    try:
        if not path.exists():
            return {}
        content: dict[str, Any] = json.loads(path.read_bytes())
        if content["commit_hash"] != commit:
            raise GateError(f"{path}: of {content['commit_hash']}, not of {commit}")
        columns = content["result_columns"]
        result, params, version = (columns.index(c) for c in ("result", "params", "version"))
        found = {}
        for benchmark, row in content["results"].items():
            if units.get(benchmark, "").startswith(RATIO):
                for point, value in zip(product(*row[params]), row[result] or [], strict=False):
                    if value is not None and math.isfinite(value):
                        found[(benchmark, *point)] = row[version], float(value)
        return found
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, GateError):
            raise
        raise GateError(f"{path}: not a file of asv ({error!r})") from None


def lines(found: Sequence[Comparison], threshold: float) -> Lines:
    """Return a row for each ratio, the largest growth first."""
    header = ("ratio", "machine", "environment", "base", "head", "change", "verdict")
    ordered = sorted(found, key=lambda c: math.inf if c.change is None else c.change, reverse=True)
    return header, [
        (
            " ".join(part.strip("'") for part in comparison.name),
            comparison.machine,
            comparison.environment,
            f"{comparison.base:.2f}",
            "-" if comparison.head is None else f"{comparison.head:.2f}",
            "-" if comparison.change is None else f"{100 * comparison.change:+.0f}%",
            "worse" if comparison.regressed(threshold) else "",
        )
        for comparison in ordered
    ]
