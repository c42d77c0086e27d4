"""Runs that diverged: which and how many, and an exit code if no other was made.

A divergence is a result, so the exit code stays 0 as long as one run has finished; it is 1 if all
that are reported have diverged, as there is no number then that means anything.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import typer

from benchmarks.cli.output import say

if TYPE_CHECKING:
    from benchmarks.runs.run import Result


class Counted(NamedTuple):
    """How many of the reported runs of something diverged."""

    what: str
    diverged: int
    of: int


def count(results: "Iterable[Result]") -> list[Counted]:
    """Count the diverged runs for each method and activation, without the runs of sweeps."""
    found: dict[str, list[bool]] = {}
    for result in results:
        if result.run.kind == "final":
            what = f"{result.run.method} with {result.run.activation}"
            found.setdefault(what, []).append(result.diverged)
    return [Counted(what, sum(diverged), len(diverged)) for what, diverged in found.items()]


def tell(every: Iterable[Counted]) -> None:
    """Say in one line which runs diverged, if any did."""
    counted = list(every)
    bad = [f"{one.what} ({one.diverged} of {one.of} runs)" for one in counted if one.diverged]
    if bad:
        whole = "all runs " if all(one.diverged == one.of for one in counted) else ""
        say(f"warning: {whole}diverged: {', '.join(bad)}; a smaller learning rate may help")


def leave_if_nothing_finished(every: Iterable[Counted]) -> None:
    """Exit with 1 if there are runs, and all of them diverged."""
    counted = list(every)
    if counted and all(one.diverged == one.of for one in counted):
        raise typer.Exit(1)
