"""The gate of performance: no ratio to SGD may grow by more than a tenth.

``python -m benchmarks.performance.gate BASE [HEAD]`` compares what `benchmarks.performance.history`
stored of two commits, by the median ratios alone: times depend on what else the machine does,
ratios much less. Exit codes: 0, 1 for a ratio that grew or is gone, 2 where there is nothing to
compare.
"""

import math
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.performance.history import resolved
from benchmarks.storage.files import read_json
from benchmarks.storage.provenance import ROOT

RESULTS = ROOT / "benchmarks" / "asv" / "results"
THRESHOLD = 0.1
#: The beginning of the unit of a ratio ("times SGD"), whatever it is to.
RATIO = "times "

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
        """Relative."""
        return None if self.head is None else self.head / self.base - 1

    def regressed(self, threshold: float) -> bool:
        """Return whether the ratio grew by more than the threshold, or is gone."""
        return self.change is None or self.change > threshold


def compare(results: Path, base: str, head: str) -> list[Comparison]:
    """Return the ratios of two commits (full hashes), machine by machine.

    Raises:
        GateError: no machine has a ratio of both, or a file is not asv's.
    """
    units = _units(results)
    found = []
    for path in sorted(results.glob(f"*/{base[:8]}-*.json")):
        other = path.with_name(path.name.replace(base[:8], head[:8], 1))
        before, after = _ratios(path, units, base), _ratios(other, units, head)
        for name, (version, value) in before.items():
            new_version, new = after.get(name, (version, None))
            if after and new_version == version:
                machine, environment = path.parent.name, path.stem.partition("-")[2]
                found.append(Comparison(machine, environment, name, value, new))
    if not found:
        raise GateError(f"{results}: no machine has ratios of both {base[:8]} and {head[:8]}")
    return found


def _units(results: Path) -> dict[str, str]:
    """Return the unit of every benchmark."""
    try:
        described = read_json(results / "benchmarks.json") or {}
        return {name: one["unit"] for name, one in described.items() if name != "version"}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GateError(f"{results / 'benchmarks.json'}: not a file of asv ({error!r})") from None


def _ratios(path: Path, units: dict[str, str], commit: str) -> dict[Name, tuple[str, float]]:
    """Return version and value of all ratios in a file of asv's that are numbers, if it is there.

    asv writes NaN for n/a, and null for what failed.
    """
    try:
        content: dict[str, Any] | None = read_json(path)
        if content is None:
            return {}
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


def shown(found: list[Comparison], threshold: float) -> Table:
    """Return a table for the terminal, the largest growth first."""
    table = Table("ratio", "machine", "environment", box=SIMPLE)
    for column in ("base", "head", "change", ""):
        table.add_column(column, justify="right")
    ordered = sorted(found, key=lambda c: math.inf if c.change is None else c.change, reverse=True)
    for comparison in ordered:
        table.add_row(
            " ".join(part.strip("'") for part in comparison.name),
            comparison.machine,
            comparison.environment,
            f"{comparison.base:.2f}",
            "-" if comparison.head is None else f"{comparison.head:.2f}",
            "-" if comparison.change is None else f"{100 * comparison.change:+.0f}%",
            "worse" if comparison.regressed(threshold) else "",
        )
    return table


def main(
    base: Annotated[str, typer.Argument(help="A commit or tag, like that of the last release.")],
    head: Annotated[str, typer.Argument(help="The commit that must not be slower.")] = "HEAD",
    threshold: Annotated[float, typer.Option(help="Largest relative growth.")] = THRESHOLD,
    results: Annotated[Path, typer.Option(help="asv's folder of results.")] = RESULTS,
) -> None:
    """Compare the stored ratios of two commits; exit code 1: one grew by more than allowed."""
    try:
        if not 0 <= threshold < math.inf:
            raise GateError(f"threshold: {threshold}; allowed: finite, 0 and above")
        found = compare(results, resolved(base), resolved(head))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    Console(width=None if sys.stdout.isatty() else 130).print(shown(found, threshold))
    worse = sum(c.regressed(threshold) for c in found)
    print(f"{worse} of {len(found)} ratios grew by more than {threshold:.0%} or are gone")
    raise typer.Exit(int(worse > 0))


if __name__ == "__main__":
    typer.run(main)
