"""The report of a whole study: one page, and its tables as Markdown, LaTeX and CSV.

`lfp-bench report` writes `report.html`, `report.md`, `report.tex` and `tables/` into the folder of
the study, from what is stored there. A part that is a comparison has the sections of
:mod:`benchmarks.experiments.comparison.sections`. A part of any other kind contributes what it has
written into its own folder beside `study.json`:

    table.md      tables and remarks, as :func:`benchmarks.rendering.text.document` writes them; a
                  line that begins with # is the caption of the next table
    NAME.png      figures, in alphabetical order, with the name as caption (hyphens for spaces)

That is all that a new kind of experiment has to do to be in the report.
"""

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.experiments.comparison import sections
from benchmarks.experiments.comparison.summary import summarise
from benchmarks.rendering import document
from benchmarks.rendering.document import Chapter, Document, Figure, Section, Table
from benchmarks.rendering.text import mean_and_deviation, origins, parse
from benchmarks.storage.files import StoreError, write
from benchmarks.studies.collect import Collection, Part

TITLE = "Layer-wise Feedback Propagation: {}"


def write_page(collection: Collection) -> list[Path]:
    """Write the report of a study into its folder.

    Returns:
        The paths, the page first.

    Raises:
        StoreError: no run of the study is stored, or a part's file is not readable.
    """
    written = document.files(report(collection))
    for path, content in written.items():
        write(collection.folder / path, content)
    return [collection.folder / path for path in written]


def report(collection: Collection) -> Document:
    """Return the report of what is stored; raises as :func:`write_page`."""
    plan, parts = collection.plan, collection.parts
    found = [chapter(part) for part in parts]
    if not any(one.sections for one in found):
        raise StoreError(f"{collection.folder}: no run of this study is stored there")
    done = f"{sum(bool(one.sections) for one in found)} of {len(found)} with results"
    if plan is not None and plan.grid and (overview := _grid(collection)):
        found.insert(0, overview)
    begun = [part.description for part in parts if part.description is not None]
    commands = dict.fromkeys(str(described.get("command")) for described in begun)
    environments = [described["environment"] for described in begun if "environment" in described]
    facts = [
        *([("Source", plan.source)] if plan and plan.source else []),
        *([("Size", collection.size)] if collection.size else []),
        *([("Parts", done)] if plan else []),
        *(("Command", command) for command in commands),
        *(("Environment", origin) for origin in origins(environments)),
    ]
    name = plan.title if plan else _title(parts)
    return Document(TITLE.format(name), [], facts, found)


def _title(parts: Iterable[Part]) -> str:
    """Return what a study without a file of its own is about."""
    (part,) = parts
    if part.outcome is None:
        return part.folder.name
    study = part.outcome.study
    return f"{study.dataset}, {study.model}"


def chapter(part: Part) -> Chapter:
    """Return what there is of a part; one that was not begun has no sections."""
    title = part.name or part.folder.name
    if part.description is None:
        return Chapter(part.name, title, ["Not begun."], [])
    if part.outcome is None:
        return Chapter(part.name, title, [], [_other(part)])
    if not part.outcome.results:
        return Chapter(part.name, title, ["Begun, but no run is done."], [])
    text = sections.warnings(part.outcome)
    return Chapter(part.name, title, text, sections.sections(part.outcome))


def _other(part: Part) -> Section:
    """Return what a part that is no comparison has written."""
    path = part.folder / "table.md"
    try:
        tables = parse(path.read_text()) if path.exists() else []
    except ValueError as error:
        raise StoreError(f"{path}: not tables that this harness wrote ({error})") from None
    figures = sorted(part.folder.glob("*.png"))
    found = [
        Table(
            name=f"table-{number}",
            caption=caption or f"Table {number}",
            lines=lines,
            frame=pd.DataFrame(lines[1], columns=list(lines[0])),
            notes=remarks,
        )
        for number, (caption, lines, remarks) in enumerate(tables, start=1)
    ]
    images = [Figure(f.stem.replace("-", " "), f.read_bytes(), "png") for f in figures]
    text = [] if found or images else ["Begun, but nothing is written yet."]
    return Section(str((part.description or {}).get("experiment")), text, found, images)


def _grid(collection: Collection) -> Chapter | None:
    """Return the accuracies of a study over its grid, the last field of which is across."""
    assert collection.plan is not None
    assert collection.size is not None
    options = collection.plan.options(collection.size)
    *down, across = collection.plan.grid
    rows = []
    for part in collection.parts:
        if part.outcome is None or part.name not in options or not part.outcome.results:
            continue
        point = {field: options[part.name][field] for field in (*down, across)}
        suffix = "-".join(f"{field}-{value}" for field, value in point.items())
        for row in summarise(part.outcome).to_dict("records"):
            if row["seeds"]:
                names = {"part": part.name.removesuffix(suffix).rstrip("-")}
                cell = {"activation": row["activation"], "method": row["method"]}
                numbers = ("test_accuracy_mean", "test_accuracy_std", "seeds", "diverged")
                rows.append({**names, **cell, **point, **{f: row[f] for f in numbers}})
    if not rows:
        return None
    frame = pd.DataFrame(rows)
    keys = [k for k in ("part", "activation", "method", *down) if k in down or frame[k].any()]
    values = list(dict.fromkeys(frame[across]))
    lines, heat = [], []
    for key, of_key in frame.groupby(keys, sort=False):
        at = {row[across]: row for row in of_key.to_dict("records")}
        cells = [_cell(at[value]) if value in at else "-" for value in values]
        lines.append((*map(str, key), *cells))
        means = [at[value]["test_accuracy_mean"] if value in at else None for value in values]
        heat.append([*[None] * len(keys), *means])
    header = (*keys, *(f"{across} = {value}" for value in values))
    notes = ["Test accuracy in %, mean ± sample standard deviation over seeds."]
    if frame["diverged"].any():
        notes.append("✗ k/n: k of n runs diverged, and count with the last accuracy they reached.")
    caption = f"Test accuracy over {', '.join((*down, across))}"
    one = Table("grid", caption, (header, lines), frame, notes, heat)
    return Chapter("", "Over the grid", [], [Section("Accuracy", tables=[one])])


def _cell(row: Mapping[Hashable, Any]) -> str:
    told = mean_and_deviation(row["test_accuracy_mean"], row["test_accuracy_std"])
    return f"{told} ✗ {row['diverged']}/{row['seeds']}" if row["diverged"] else told
