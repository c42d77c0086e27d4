"""The command that tells which models the engine trains, with exit code 1 if any is a fault."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.cli import completion
from benchmarks.cli.app import app, refusing
from benchmarks.cli.extras import EXTRAS, way_out
from benchmarks.cli.options import AsJson, Jobs, Results, Threads, parse_whole, prepare, split
from benchmarks.cli.output import print_json, print_table, progress, say
from benchmarks.rendering import text
from benchmarks.storage.files import read_json, write, write_json

#: Those of :mod:`validation.coverage.suite`, which imports whole zoos.
GROUPS = ("nn", "torchvision", "timm", "transformers")


@app.command()
def coverage(
    context: typer.Context,
    group: Annotated[
        str,
        typer.Option(
            help="Groups of models: 'all', or some of nn,torchvision,timm,transformers.",
            autocompletion=completion.some_of(lambda: GROUPS),
        ),
    ] = "all",
    name: Annotated[
        str,
        typer.Option(
            metavar="PATTERN",
            help="Run only models of such a name, like 'resnet*', and store nothing.",
        ),
    ] = "*",
    jobs: Jobs = 1,
    threads: Threads = None,
    limit: Annotated[
        int,
        typer.Option(parser=parse_whole, help="Most seconds that a model may take in one mode."),
    ] = 600,
    results: Results = Path("results"),
    document: Annotated[Path, typer.Option(help="Page to write from all stored groups.")] = Path(
        "docs/coverage.md"
    ),
    as_json: AsJson = False,
) -> None:
    """Run the modules of torch.nn and zoos of models; exit code 1: one fails without a reason."""
    from benchmarks.experiments.options import chosen  # noqa: PLC0415  (slow, as what follows)
    from benchmarks.storage.provenance import describe  # noqa: PLC0415
    from validation.coverage import suite  # noqa: PLC0415
    from validation.coverage.document import summary_lines  # noqa: PLC0415
    from validation.coverage.records import Record, faults, summaries, worst  # noqa: PLC0415

    with refusing(ValueError):
        groups = _installed(chosen("group", split(group), suite.GROUPS), suite.GROUPS)
        plan = {one: suite.select(one, name) for one in groups}
        if not any(plan.values()):
            raise ValueError(f"name: {name!r} matches nothing in {', '.join(groups)}")
        device = prepare("cpu", threads, [], jobs)
    folder, command = results / "coverage", shlex.join(["lfp-bench", *context.obj])
    found: list[Record] = []
    with refusing(OSError):
        if name == "*":  # whose results are kept, so that nothing is run in vain
            folder.mkdir(parents=True, exist_ok=True)
    with refusing(OSError), progress(sum(map(len, plan.values()))) as tick:
        environment = describe(device)
        for one, names in plan.items():
            by_name: dict[str, list[Record]] = {}
            for examined, records in suite.run(one, names, jobs, limit):
                by_name[examined] = records
                tick(f"{one} {examined}"[:40])
                if not sys.stderr.isatty():  # where the bar is only shown at the end
                    say(f"{one} {examined}: {worst(records).verdict}")
            in_order = [record for examined in names for record in by_name[examined]]
            found += in_order
            if name == "*":
                content = [asdict(record) for record in in_order]
                description = {"command": command, "environment": environment, "records": content}
                write_json(folder / f"{one}.json", description)
    wrong = faults(found)
    if as_json:
        print_json(
            {
                "summaries": [
                    {"group": s.group, "counted": s.counted, **s.verdicts} for s in summaries(found)
                ],
                "faults": wrong,
                "records": [asdict(record) for record in found],
                "environment": environment,
            }
        )
    else:
        print_table(summary_lines(found), wrong)
    for summary in summaries(found):
        say(str(summary))
    if name == "*":
        with refusing(OSError, ValueError):
            _write_document(folder, suite.GROUPS, document)
        say(f"{document} is written from what is stored in {folder}")
    if wrong:
        raise typer.Exit(1)


def _installed(names: Sequence[str], groups: Mapping[str, Any]) -> list[str]:
    """Return the groups whose packages are there, and tell which are left out."""
    missing = {name: groups[name].missing for name in names if groups[name].missing}
    for name, package in missing.items():
        way = way_out(package) if package in EXTRAS else f"pip install {package}"
        say(f"{name} is left out, as {package} is not installed ({way})")
    if len(missing) == len(names):
        raise ValueError(f"group: {', '.join(missing)} cannot be run without their packages")
    return [name for name in names if name not in missing]


def _write_document(folder: Path, groups: Mapping[str, Any], path: Path) -> None:
    """Write the document from the stored records of all groups."""
    from validation.coverage.document import document  # noqa: PLC0415
    from validation.coverage.records import Record  # noqa: PLC0415

    stored = [content for one in groups if (content := read_json(folder / f"{one}.json"))]
    records = [Record.from_json(r) for content in stored for r in content["records"]]
    origins = text.origins([content["environment"] for content in stored])
    write(path, document(records, [f"Made on: {origin}." for origin in origins]).encode())
