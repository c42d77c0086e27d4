"""The report of a whole study: one page, and its tables as Markdown, LaTeX and CSV.

`lfp-bench report` writes `report.html`, `report.md`, `report.tex` and `tables/` into the folder of
the study. A chapter has the sections that the kind of experiment makes of what is stored of a part
(:meth:`benchmarks.experiments.base.Experiment.sections`); the files in the part's own folder are
made of the same sections.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.analysis.statistics import FEWEST_SEEDS
from benchmarks.experiments.comparison.choosing import outcome
from benchmarks.experiments.comparison.experiment import Options
from benchmarks.experiments.comparison.study import Study
from benchmarks.experiments.comparison.summary import summarise
from benchmarks.rendering import document
from benchmarks.rendering.document import Chapter, Document, Section, Table
from benchmarks.rendering.text import mean_and_deviation, origins
from benchmarks.storage.files import StoreError, remove_leftovers, write_all
from benchmarks.studies.collect import Collection, Description, Part

FEW = " Fewer than three seeds allow no test."
#: The page on several reports, beside the folders of their studies.
INDEX = "index.html"
#: Lists in the folder of a study which files its report has.
REPORTED = ".reported"
TITLE = "Layer-wise Feedback Propagation: {}"


def write_page(collection: Collection) -> list[Path]:
    """Write the report of a study into its folder.

    Returns:
        The paths, the page first.

    Raises:
        StoreError: no run of the study is stored, or a part's file is not readable.
    """
    return write_document(report(collection), collection.folder)


def write_document(one: Document, folder: Path) -> list[Path]:
    """Write a report into the folder of its study, in place of an earlier one.

    The page leads to the page on several reports, if there is one that leads to it.

    Returns:
        The paths, the page first.
    """
    index = folder.parent / INDEX
    linked = index.exists() and f'href="{link_to(folder)}"' in index.read_text(encoding="utf-8")
    written = document.files(replace(one, index=f"../{INDEX}" if linked else ""))
    remove_leftovers(folder)
    write_all(folder, written, REPORTED)
    return [folder / path for path in written]


def link_to(folder: Path) -> str:
    """Return where a report is, seen from the page on several."""
    return f"{folder.name}/report.html"


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
    commands = dict.fromkeys(description.command for description in begun)
    environments = [one for part in parts for one in part.found.environments]
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
    study = _comparison(part)
    return part.folder.name if study is None else f"{study.dataset}, {study.model}"


def _comparison(part: Part) -> Study | None:
    """Return the study that a part is, if it is a comparison."""
    options = None if part.description is None else part.description.options
    return options.study() if type(options) is Options else None


def chapter(part: Part) -> Chapter:
    """Return what there is of a part; one that was not begun has no sections."""
    title = part.name or part.folder.name
    if part.description is None:
        return Chapter(part.name, title, ["Not begun."], [])
    if not part.found.runs:
        return Chapter(part.name, title, ["Begun, but no run is done."], [])
    kind, options = part.description.kind, part.description.options
    try:
        sections = kind.sections(options, part.found)
    except ValueError as error:
        return Chapter(part.name, title, [f"Nothing can be said of it: {error}."], [])
    verdict_first = sorted(sections, key=lambda section: not section.verdict)
    told = warnings(part, part.description)
    return Chapter(part.name, title, told, verdict_first, run_files(part))


def run_files(part: Part) -> dict[str, str]:
    """Return where the files of runs are, seen from the page, by the runs' ids.

    There are none of runs that are packed, nor of those that several versions of the code made.
    """
    files: dict[str, list[str]] = {}
    for path in sorted((part.folder / "runs").glob("*.json")):
        name = "/".join(filter(None, (part.name, "runs", path.name)))
        files.setdefault(path.stem.partition("-")[0], []).append(name)
    return {run: found[0] for run, found in files.items() if len(found) == 1}


def warnings(part: Part, description: Description) -> list[str]:
    """Return why a part may mislead: it lacks runs, or they are of several versions of code."""
    done, of = len(part.found.runs), description.kind.runs(description.options)
    found = []
    if done < of:
        few = "" if getattr(description.options, "seeds", 0) >= FEWEST_SEEDS else FEW
        found.append(
            f"Only partly done: {done} of {of} runs are stored. Numbers are of these.{few}"
        )
    versions = {stored.environment.get("code") for stored in part.found.runs.values()}
    if len(versions) > 1:
        found.append(
            f"These runs were made with {len(versions)} versions of the code, so they may differ "
            "in more than their configuration; see the commits under “Every run”."
        )
    return found


def _grid(collection: Collection) -> Chapter | None:
    """Return the accuracies of a study over its grid, the last field of which is across."""
    assert collection.plan is not None
    assert collection.size is not None
    options = collection.plan.options(collection.size)
    *down, across = collection.plan.grid
    rows = []
    for part in collection.parts:
        study = _comparison(part)
        if study is None or part.name not in options or not part.found.runs:
            continue
        point = {field: options[part.name][field] for field in (*down, across)}
        suffix = "-".join(f"{field}-{value}" for field, value in point.items())
        for row in summarise(outcome(study, part.found)).to_dict("records"):
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
