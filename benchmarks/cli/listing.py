"""The commands that tell which studies there are, and how far one is."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli import completion
from benchmarks.cli.app import app, refusing
from benchmarks.cli.options import AsJson, Results, StoredSize, study_folder
from benchmarks.cli.output import print_json, print_table
from benchmarks.storage.files import StoreError
from benchmarks.studies.written import SIZES, Written, names, path_of, read_as


@app.command("list")
def list_studies(
    runs: Annotated[
        bool,
        typer.Option(
            "--runs", help="Count the runs of each size too, as JSON always does: it takes seconds."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the studies that are written down, with their sizes."""
    with refusing(ValueError):
        plans = {name: read_as(Written, name) for name in names()}
        counts = {name: _runs(name) for name in plans} if runs or as_json else {}
    if as_json:
        found = [
            {"study": name, "title": plan.title, "source": plan.source, "runs": counts[name]}
            for name, plan in plans.items()
        ]
        print_json({"studies": found})
    elif runs:
        header = ("study", "title", *(f"runs, {size}" for size in SIZES))
        lines = [
            (name, plan.title, *(str(counts[name].get(size, "-")) for size in SIZES))
            for name, plan in plans.items()
        ]
        print_table((header, lines), [])
    else:
        rows = [(name, plan.title, ", ".join(plan.sizes)) for name, plan in plans.items()]
        print_table((("study", "title", "sizes"), rows), [])


def _runs(name: str) -> dict[str, int]:
    """Return how many runs each size of a study has."""
    from benchmarks.studies.plan import read  # noqa: PLC0415  (slow)

    plan = read(name)
    return {str(size): sum(map(plan.kind.runs, plan.studies(size).values())) for size in plan.sizes}


@app.command()
def status(
    name: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help="Study as it was given to `run`.",
            autocompletion=completion.study,
        ),
    ],
    size: StoredSize = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Show how far a study is: runs that are done, have diverged, and are under way."""
    with refusing(ValueError):
        path_of(name)  # before what is slow to import
    from benchmarks.experiments.conduct import status as tell  # noqa: PLC0415
    from benchmarks.studies.collect import stored_size  # noqa: PLC0415
    from benchmarks.studies.plan import read  # noqa: PLC0415

    with refusing(ValueError, StoreError, OSError):
        plan, found = read(name), []
        size = stored_size(name, size, results, plan.sizes)
        folder = study_folder(results, f"{Path(name).stem}-{size}")
        for part, options in plan.studies(size).items():
            told = tell(plan.kind, options, folder / part)
            found.append(
                {
                    "part": part,
                    "done": told.done,
                    "of": plan.kind.runs(options),
                    "diverged": told.diverged,
                    "under way": told.under_way,
                    "of other code": told.of_other_code,
                    "of other options": told.of_other_options,
                }
            )
    if as_json:
        print_json({"study": name, "size": size, "parts": found})
    else:
        header = tuple(found[0])
        print_table((header, [tuple(map(str, part.values())) for part in found]), [])
