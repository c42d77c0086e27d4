"""Carries out studies in this process, as the command line does."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from baselines import Settings
from benchmarks.experiments.base import Found
from benchmarks.experiments.comparison.choosing import outcome, plan
from benchmarks.experiments.comparison.experiment import Comparison
from benchmarks.experiments.comparison.sections import sections
from benchmarks.experiments.comparison.study import Outcome, Study, measurements
from benchmarks.experiments.conduct import Place, made, measured, write_part
from benchmarks.runs.executors import Here, Worker
from benchmarks.runs.run import Run
from benchmarks.runs.store import Store

CPU = torch.device("cpu")
#: A run that takes a fraction of a second.
SHORT = Run(
    kind="final",
    dataset="blobs",
    model="toy-mlp",
    method="lfp",
    activation="relu",
    seed=0,
    epochs=2,
    batch_size=256,
    settings=Settings(learning_rate=0.1),
)


def ignore(description: str) -> None:
    """Show no progress."""


def place(advance: Callable[[str], None] = ignore) -> Place:
    """Return this process."""
    return Place(CPU, advance, Here(), "the command")


def carry_out(study: Study, folder: Path, advance: Callable[[str], None] = ignore) -> Outcome:
    """Make a comparison, and return what it found."""
    kind, here = Comparison(), place(advance)
    store = Store(folder, kind.code)
    worker = Worker(folder, "cpu", torch.get_num_threads(), kind.make, kind.code)
    runs = made(partial(plan, study), store, worker, here.executor, advance)
    costs = [(one, measured(one, store, here)) for one in measurements(study, CPU)]
    return outcome(study, Found(runs, costs))


def write_report(folder: Path, found: Outcome) -> None:
    """Write the files of a comparison."""
    write_part(folder, sections(found), found.environments, "the command")
