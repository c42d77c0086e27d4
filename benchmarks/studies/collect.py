"""What a study has stored so far, without making a run: all of it, or a part."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.costs.step import Cost
from benchmarks.experiments.comparison.study import Cell, Outcome, Study
from benchmarks.runs.store import Store, Stored
from benchmarks.runs.tuning import Choice, choose
from benchmarks.storage.files import StoreError, read_json
from benchmarks.studies.plan import Plan, read

#: Reads the configuration that `study.json` has of a comparison.
STUDY = TypeAdapter(Study)


@dataclass(frozen=True)
class Part:
    """One part of a study, as far as it is made.

    Attributes:
        name: of the part; empty for a study of one.
        folder: where it is or will be.
        description: its `study.json`; None if it was not begun.
        outcome: what is stored, if it is a comparison.
    """

    name: str
    folder: Path
    description: dict[str, Any] | None
    outcome: Outcome | None


@dataclass(frozen=True)
class Collection:
    """A study with all of its parts; `plan` and `size` are of one that is written down."""

    name: str
    folder: Path
    parts: tuple[Part, ...]
    plan: Plan | None = None
    size: str | None = None


def find(name: str, size: str, results: Path) -> Collection:
    """Return what there is of a study in the folder `results`.

    Args:
        name: of a folder there with a `study.json`, or else as `lfp-bench run` takes it.
        size: of the latter.
        results: where the studies are.

    Raises:
        ValueError: there is no such study.
        StoreError: nothing of it was begun, or a file cannot be read.
    """
    if re.fullmatch(r"\w[\w.-]*", name) and (results / name / "study.json").exists():
        return Collection(name, results / name, (_part("", results / name),))
    plan = read(name)
    folder = results / f"{Path(name).stem}-{size}"
    begun = sorted(path.parent.name for path in folder.glob("*/study.json"))
    if not begun:
        raise StoreError(f"{folder}: nothing of this study is stored there")
    parts = dict.fromkeys([*plan.options(size), *begun])  # what the plan no longer has comes last
    return Collection(name, folder, tuple(_part(p, folder / p) for p in parts), plan, size)


def _part(name: str, folder: Path) -> Part:
    path = folder / "study.json"
    try:
        described = read_json(path)
        if described is None or described.get("experiment", "comparison") != "comparison":
            return Part(name, folder, described, None)
        study = STUDY.validate_python(described["configuration"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise StoreError(f"{path}: not a description that this harness wrote ({told})") from None
    return Part(name, folder, described, collect(study, Store(folder)))


def collect(study: Study, store: Store) -> Outcome:
    """Return what is stored of the study: a choice where a sweep is whole, the runs that follow it.

    Of results of the same run with other versions of the code, the latest counts. Raises
    `StoreError` if a file cannot be read.
    """
    by_date = sorted(store.all(), key=lambda found: str(found.environment.get("date")))
    stored = {found.result.run: found for found in by_date}
    results: list[Stored] = []
    choices: dict[Cell, Choice] = {}
    for cell in study.trained:
        sweep = study.sweep(cell)
        tried = [stored[run] for run in sweep if run in stored]
        results += tried
        rate = study.fixed_rate(cell.method)
        if rate is not None:
            choices[cell] = Choice(rate)
        elif len(tried) == len(sweep):
            choices[cell] = choose(found.result for found in tried)
        else:
            continue
        final = study.final(cell, choices[cell].learning_rate)
        results += [stored[run] for run in final if run in stored]
    environments = [found.environment for found in results]
    costs: dict[Cell, Cost] = {}
    for cell, cost, environment in _costs(study, store):
        costs[cell] = cost
        environments.append(environment)
    return Outcome(study, results, choices, costs, environments)


def _costs(study: Study, store: Store) -> Iterator[tuple[Cell, Cost, dict[str, Any]]]:
    """Yield the costs of steps that are the study's, whatever machine they were measured on."""
    for measurement, stored in store.all_costs():
        workload = measurement.workload
        if (workload.model, workload.batch_size) != (study.model, study.batch_size):
            continue
        for cost in stored.costs:
            cell = Cell(workload.activation, cost.method)
            if cell in study.trained:
                yield cell, cost, stored.environment
