"""The commands that keep what studies have stored."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from benchmarks.cli.app import app, refusing
from benchmarks.cli.options import AsJson
from benchmarks.cli.output import print_json, print_table, say
from benchmarks.storage.files import StoreError

if TYPE_CHECKING:
    from benchmarks.runs.run import Result

Folder = Annotated[Path, typer.Argument(help="Folder of a study, with all of its parts.")]


def parts_of(folder: Path) -> list[Path]:
    """Return the folders with a `study.json`; raises `ValueError` if there is none."""
    found = sorted(path.parent for path in folder.rglob("study.json"))
    if not found:
        raise ValueError(f"folder: {folder} holds no study.json; allowed: one with a study")
    return found


@app.command()
def migrate(folder: Folder) -> None:
    """Bring results of an older version to the present form; nothing is deleted."""
    from benchmarks.runs.store import Store  # noqa: PLC0415  (slow, as what follows)
    from benchmarks.studies.migration import migrate as bring_on  # noqa: PLC0415

    with refusing(ValueError, StoreError, OSError):
        for part in parts_of(folder):
            with Store(part).locked():
                say(f"{part}: {bring_on(part)} runs")


@app.command()
def clean(
    folder: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted.")] = False,
) -> None:
    """Delete what a study no longer needs: results of other code, and states of runs that are done.

    Packed results and reports stay.
    """
    from benchmarks.runs.store import Store  # noqa: PLC0415  (slow, as what follows)
    from benchmarks.studies.collect import described  # noqa: PLC0415

    with refusing(ValueError, StoreError, OSError):
        total = 0
        for part in parts_of(folder):
            description = described(part / "study.json")
            assert description is not None  # the file is there
            store = Store(part, description.kind.code)
            with store.locked():
                for path in store.unneeded():
                    size = path.stat().st_size
                    total += size
                    say(f"{'would delete' if dry_run else 'deleted'} {path} ({size} bytes)")
                    if not dry_run:
                        path.unlink()
    say(f"{total} bytes in all")


@app.command()
def diff(
    one: Annotated[Path, typer.Argument(help="Folder of a part of a study.")],
    other: Annotated[Path, typer.Argument(help="Folder of another part.")],
    as_json: AsJson = False,
) -> None:
    """Compare the results of the runs that two folders have in common.

    Where several versions of the code made a run, the latest result counts. Times and environments
    are not compared. The exit code is 1 if one of the runs differs.
    """  # noqa: DOC501  (a command says nothing of exceptions)
    with refusing(ValueError, StoreError, OSError):
        for part in (one, other):
            if not (part / "study.json").exists():
                raise ValueError(f"folder: {part} holds no study.json; allowed: a part of a study")
        found = compared(one, other)
    if as_json:
        print_json({"one": str(one), "other": str(other), **found._asdict()})
    else:
        rows = [(run, label, str(a), str(b)) for run, label, a, b in found.different]
        print_table((("run", "of", "metric in one", "in the other"), rows), [found.told])
    if found.different:
        raise typer.Exit(1)


class Differences(NamedTuple):
    """The runs of two folders: how many are in one alone, and in both with equal measurements."""

    equal: int
    only_in_one: int
    only_in_other: int
    different: list[tuple[str, str, float | None, float | None]]

    @property
    def told(self) -> str:
        """The counts in words."""
        return (
            f"Of the runs that both have {self.equal} are equal and {len(self.different)} differ; "
            f"{self.only_in_one} are in one folder alone and {self.only_in_other} in the other."
        )


def compared(one: Path, other: Path) -> Differences:
    """Compare what is stored in two folders; raises `StoreError` if a file cannot be read."""
    from benchmarks.runs.store import Store  # noqa: PLC0415  (slow)

    ours, theirs = ({s.run: s.result for s in Store(part).all()} for part in (one, other))
    different, equal = [], 0
    for run in ours.keys() & theirs.keys():
        if measured(ours[run]) == measured(theirs[run]):
            equal += 1
        else:
            a, b = (r.validation if r.test is None else r.test for r in (ours[run], theirs[run]))
            different.append((run.id, f"{run.label}, seed {run.seed}", a, b))
    alone = len(ours.keys() - theirs.keys()), len(theirs.keys() - ours.keys())
    return Differences(equal, *alone, sorted(different, key=lambda row: row[1]))


def measured(result: "Result") -> tuple[object, ...]:
    """Return all that a run measured but for times."""
    history = tuple(replace(epoch, seconds=None) for epoch in result.history)
    return history, result.divergence, result.steps, result.spikes, repr(result.details)


@app.command()
def pack(folder: Folder) -> None:
    """Pack the results of a study into one small file for each part.

    All commands read them there. Packing a study again adds new results to them.
    """
    from benchmarks.runs.store import PACKED, Store  # noqa: PLC0415  (slow)

    with refusing(ValueError, StoreError, OSError):
        parts = parts_of(folder)
        for part in parts:  # before any of them is packed
            Store(part).loose()
        for part in parts:
            with Store(part).locked():
                Store(part).pack()
            say(f"{part / PACKED}: {(part / PACKED).stat().st_size} bytes")
