"""The command that writes reports: pages on what is stored of studies."""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.cli import completion
from benchmarks.cli.app import app, refusing
from benchmarks.cli.options import AsJson, Results, Show, StoredSize
from benchmarks.cli.output import print_json, say
from benchmarks.rendering.text import counted
from benchmarks.storage.files import StoreError


@app.command()
def report(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY]...",
            help="Studies as given to `run`, or folders in that of all; by default all of these.",
            autocompletion=completion.study,
        ),
    ] = None,
    size: StoredSize = None,
    results: Results = Path("results"),
    show: Show = False,
    as_json: AsJson = False,
) -> None:
    """Write a page on what is stored of a study, and its tables as Markdown, LaTeX and CSV.

    Of several studies there is a page each, and a page `index.html` that leads to them.
    """  # noqa: DOC501  (a command says nothing of exceptions)
    from benchmarks.data import DataError  # noqa: PLC0415  (slow, as what follows)
    from benchmarks.studies.collect import find, find_all  # noqa: PLC0415
    from benchmarks.studies.index import write_pages  # noqa: PLC0415
    from benchmarks.studies.page import write_page  # noqa: PLC0415

    with refusing(ValueError, StoreError, DataError, OSError):
        if size is not None and not names:
            raise ValueError(f"size: {size!r}; allowed: with the name of a study")
        if names and len(names) == 1:
            first, *others = write_page(find(names[0], size, results))
            found: dict[str, Any] = {
                "study": names[0],
                "files": [str(path) for path in (first, *others)],
            }
            beside = f"report.md, report.tex and {counted(len(others) - 2, 'table')} in tables"
        else:
            studies = [find(name, size, results) for name in names or ()] or find_all(results)
            first, pages = write_pages(studies, results)
            reports = [{"folder": p[0].parent.name, "files": [str(f) for f in p]} for p in pages]
            found = {"index": str(first), "reports": reports}
            beside = f"{counted(len(pages), 'report')}, each report.html in the folder of its study"
    if as_json:
        print_json(found)
    else:
        print(first)
        say(f"Beside it: {beside}")
    if show:
        _open(first)


def show_report(folder: str, results: Path) -> None:
    """Write the report on the study in a folder of `results`, and open it."""
    from benchmarks.data import DataError  # noqa: PLC0415  (slow, as what follows)
    from benchmarks.studies.collect import find  # noqa: PLC0415
    from benchmarks.studies.page import write_page  # noqa: PLC0415

    with refusing(ValueError, StoreError, DataError, OSError):
        page, *_ = write_page(find(folder, None, results))
    _open(page)


def _open(page: Path) -> None:
    """Open a page in the browser, if this machine has one; say where it is."""
    opened = typer.launch(str(page.absolute())) == 0
    say(f"{page} is opened" if opened else f"{page} cannot be opened here: there is no browser")
