"""Runs that diverged: which and how many, and an exit code if no other was made.

A divergence is a result, so the exit code stays 0 as long as one run has finished; it is 1 if all
that are reported have diverged, as there is no number then that means anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import typer

from benchmarks.cli.output import say


class Counted(NamedTuple):
    """How many of the reported runs of something diverged."""

    what: str
    diverged: int
    of: int


def count(rows: Iterable[Mapping[str, Any]]) -> list[Counted]:
    """Return what was made, by method and activation, of the rows of a report.

    A row has runs of several seeds, or is one run that tells whether it diverged.
    """
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row.get("diverged") is None:
            continue
        run = row.get("run")
        of_run = {**run, **row} if isinstance(run, Mapping) else row
        names = [str(of_run[key]) for key in ("method", "activation") if of_run.get(key)]
        several = row.get("seeds")
        runs = several if isinstance(several, int) and not isinstance(several, bool) else 1
        diverged, of = found.get(what := " with ".join(names) or "a run", (0, 0))
        found[what] = diverged + int(row["diverged"]), of + runs
    return [Counted(what, diverged, of) for what, (diverged, of) in found.items() if of]


def tell(rows: Iterable[Mapping[str, Any]]) -> None:
    """Say in one line which runs diverged, if any did."""
    every = count(rows)
    bad = [f"{one.what} ({one.diverged} of {one.of} runs)" for one in every if one.diverged]
    if bad:
        whole = "all runs " if all(one.diverged == one.of for one in every) else ""
        say(f"warning: {whole}diverged: {', '.join(bad)}; a smaller learning rate may help")


def leave_if_nothing_finished(parts: Sequence[Mapping[str, Any]]) -> None:
    """Exit with 1 if there are runs in the parts of a study, and all of them diverged."""
    every = [one for part in parts for one in count(part["rows"])]
    if every and all(one.diverged == one.of for one in every):
        raise typer.Exit(1)
