"""The commands that keep what studies have stored."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.app import app, refusing
from benchmarks.cli.output import say
from benchmarks.runs.store import PACKED, Store
from benchmarks.storage.files import StoreError

Folder = Annotated[Path, typer.Argument(help="Of a study, with all of its parts.")]


def parts_of(folder: Path) -> list[Path]:
    """Return the folders with a `study.json`; raises `ValueError` if there is none."""
    found = sorted(path.parent for path in folder.rglob("study.json"))
    if not found:
        raise ValueError(f"folder: {folder} holds no study.json; allowed: one with a study")
    return found


@app.command()
def migrate(folder: Folder) -> None:
    """Bring what an older version has stored to the present form; nothing is deleted."""
    from benchmarks.studies.migration import migrate as bring_on  # noqa: PLC0415  (slow)

    with refusing(ValueError, StoreError, OSError):
        for part in parts_of(folder):
            with Store(part).locked():
                say(f"{part}: {bring_on(part)} runs")


@app.command()
def pack(folder: Folder) -> None:
    """Put the results of a study that is to be kept into one small file for each part.

    They are found there as before, and new ones are added to them when it is packed again.
    """
    with refusing(ValueError, StoreError, OSError):
        for part in parts_of(folder):
            with Store(part).locked():
                Store(part).pack()
            say(f"{part / PACKED}: {(part / PACKED).stat().st_size} bytes")
