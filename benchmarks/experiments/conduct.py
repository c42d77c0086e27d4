"""How every experiment is carried out, collected and written: none of its runs is made twice."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel

from benchmarks.costs.step import Cost, measure
from benchmarks.costs.workloads import Measurement
from benchmarks.experiments.base import Experiment, Found, Results
from benchmarks.rendering import document
from benchmarks.rendering.document import Section
from benchmarks.rendering.text import remarks
from benchmarks.runs.executors import Executor, Worker, get_or_make
from benchmarks.runs.run import Run
from benchmarks.runs.store import Store, Stored, StoredCosts
from benchmarks.storage.files import write_all
from benchmarks.storage.provenance import describe

Plan = Callable[[Results], Sequence[Run]]
#: How far the quartiles of a time ratio may lie apart, over the ratio, on a quiet machine.
STEADY = 0.3
TRIES = 3
#: Lists in the folder of a part which tables and figures were written there.
WRITTEN = ".written"
FEW = 10  # repeats, of which quartiles say nothing
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where an experiment is made; what it measures does not depend on it, but for time.

    Attributes:
        device: of the runs, and of what is measured in this process.
        advance: moves the progress on by one of :meth:`Experiment.steps`, and says what was done.
        executor: makes the runs.
        command: that is at work, to be quoted in reports.
    """

    device: torch.device
    advance: Callable[[str], None]
    executor: Executor
    command: str


class Done(NamedTuple):
    """What was carried out.

    Attributes:
        found: all runs and costs.
        sections: the report on them.
        files: the names of the tables and figures that were written.
    """

    found: Found
    sections: Sequence[Section]
    files: Sequence[str]


def carry_out(kind: Experiment[Any], options: BaseModel, folder: Path, place: Place) -> Done:
    """Make what the folder does not have of an experiment, and write its report there.

    Each run is stored when it is done, so that a kill loses no other.

    Returns:
        All runs and costs, and the report that was written.

    Raises:
        ValueError, StoreError, ExecutorError, DataError, OSError: the user's to solve.
    """
    store = Store(folder, kind.code)
    threads = torch.get_num_threads()
    worker = Worker(folder.absolute(), place.device.type, threads, kind.make, kind.code)

    def plan(results: Results) -> Sequence[Run]:
        return kind.plan(options, results)

    runs = made(plan, store, worker, place.executor, place.advance)
    costs = [(one, measured(one, store, place)) for one in kind.measurements(options, place.device)]
    found = Found(runs, costs)
    sections = kind.sections(options, found)
    files = write_part(folder, sections, found.environments, place.command)
    return Done(found, sections, files)


def made(
    plan: Plan,
    store: Store,
    worker: Worker,
    executor: Executor,
    advance: Callable[[str], None],
) -> dict[Run, Stored]:
    """Return the results of a plan, in its order, after making those that are not stored."""
    found: dict[Run, Stored] = {}
    while missing := [run for run in plan(found) if run not in found]:
        for stored in get_or_make(missing, store, worker, executor):
            found[stored.run] = stored
            advance(stored.run.label)
    return {run: found[run] for run in plan(found)}


def measured(measurement: Measurement, store: Store, place: Place) -> StoredCosts:
    """Return costs; measure and store them if they are missing.

    Where other work disturbs it, the measurement is repeated, and the steadiest one kept.
    """
    found = store.load_costs(measurement)
    if found is None:
        tries = [measure(measurement, place.device)]
        most = TRIES if measurement.repeats >= FEW else 1
        while scatter(tries[-1]) > STEADY and len(tries) < most:
            tries.append(measure(measurement, place.device))
        best = min(tries, key=scatter)
        if len(tries) > 1 and scatter(best) > STEADY:
            log.warning(
                "%s: time ratios scatter by %.0f%% within one measurement, after %d tries; other "
                "work disturbs it",
                measurement.workload.activation,
                100 * scatter(best),
                TRIES,
            )
        found = StoredCosts(best, describe(place.device))
        store.save_costs(measurement, found)
    place.advance(f"{measurement.workload.activation} cost")
    return found


def scatter(costs: Iterable[Cost]) -> float:
    """Return the largest distance of the quartiles of a time ratio, over the ratio."""
    spreads = ((c.time_ratio_high - c.time_ratio_low) / c.time_ratio for c in costs)
    return max(spreads, default=0.0)


def collect(plan: Plan, stored: Iterable[Stored]) -> dict[Run, Stored]:
    """Return what is stored of a plan, in its order; of results of one run, the last one counts."""
    every = {one.run: one for one in stored}
    found: dict[Run, Stored] = {}
    while True:
        runs = plan(found)
        new = {run: every[run] for run in runs if run in every and run not in found}
        if not new:
            return {run: found[run] for run in runs if run in found}
        found |= new


def find(kind: Experiment[Any], options: BaseModel, folder: Path) -> Found:
    """Return what is stored of an experiment, whatever code and machine it is of.

    Raises:
        StoreError: a file cannot be read.
    """
    store = Store(folder, kind.code)
    return Found(
        collect(lambda results: kind.plan(options, results), store.all()), store.all_costs()
    )


class Status(NamedTuple):
    """How far a study is.

    Attributes:
        done: runs of the present plan that this code has made.
        diverged: those of them that diverged.
        under_way: runs that were begun.
        of_other_code: results that other code has made
            (:func:`benchmarks.storage.provenance.code_version`).
        of_other_options: results of this code that the present plan does not ask for.
    """

    done: int
    diverged: int = 0
    under_way: int = 0
    of_other_code: int = 0
    of_other_options: int = 0


def status(kind: Experiment[Any], options: BaseModel, folder: Path) -> Status:
    """Return how far an experiment is; raises `ValueError` or `StoreError` if unreadable."""
    store = Store(folder, kind.code)
    names, ours = store.names(), store.own()  # in this order, as runs may be stored meanwhile
    found = collect(lambda results: kind.plan(options, results), ours)
    return Status(
        done=len(found),
        diverged=sum(one.result.diverged for one in found.values()),
        under_way=len(list((folder / "checkpoints").glob("*.pt"))),
        of_other_code=len(names - {store.path(one.run).stem for one in ours}),
        of_other_options=len(ours) - len(found),
    )


def write_part(
    folder: Path, sections: Sequence[Section], environments: Iterable[dict[str, Any]], command: str
) -> list[str]:
    """Write the tables and figures of an experiment into its folder, in place of earlier ones.

    Returns:
        Their names.
    """
    files = document.part_files(sections, remarks(environments, command))
    write_all(folder, files, WRITTEN)
    return sorted(map(str, files))
