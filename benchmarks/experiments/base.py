"""What an experiment is to the harness: what a study file asks for and `lfp-bench run` makes.

A kind of experiment is a class (made without arguments) that is entered in
:mod:`benchmarks.experiments.kinds` under the name that a study file gives as `experiment`. It says
which runs its options ask for, how one is made, and what is reported of them::

    class Options(BaseModel):                 # the keys of a part in the file
        model_config = STRICT
        methods: list[str]
        seeds: int = 3

    @dataclass(frozen=True, kw_only=True)
    class Pruned(Run):                        # what identifies a run, besides what all have
        task = Task("pruning", "cross-entropy", "accuracy")
        share: float

    def train_and_prune(run: Pruned, device: torch.device, checkpoint: Checkpoint | None) -> Result:
        ...

    class Pruning(Experiment[Options]):
        schema = Options
        make = staticmethod(train_and_prune)

        def runs(self, options: Options) -> int:
            return options.seeds * len(options.methods)

        def plan(self, options: Options, results: Results) -> Sequence[Run]:
            return [Pruned(...) for method in options.methods for seed in range(options.seeds)]

        def sections(self, options: Options, found: Found) -> list[Section]:
            return [Section("Pruning", tables=[...], figures=[...])]

The harness (:mod:`benchmarks.experiments.conduct`) makes the runs that are not stored, stores each
when it is done, and writes the report; resuming, the status and other machines come with it.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict

from benchmarks.costs.workloads import Measurement
from benchmarks.rendering.document import Section
from benchmarks.runs.executors import Make
from benchmarks.runs.run import Result, Run
from benchmarks.runs.store import Stored, StoredCosts
from benchmarks.runs.training import classify
from benchmarks.runs.tuning import Choice, choose
from benchmarks.storage.provenance import code_version

#: The configuration of options of which none may be misspelt.
STRICT = ConfigDict(extra="forbid", frozen=True)

O = TypeVar("O", bound=BaseModel)  # noqa: E741  (the options)
Results = Mapping[Run, Stored]


def choice_of(sweep: Sequence[Run], results: Results) -> Choice | None:
    """Return what a sweep chooses; None if one of its runs is still to be made."""
    if any(run not in results for run in sweep):
        return None
    return choose(results[run].result for run in sweep)


def modules_beside(file: str) -> tuple[Path, ...]:
    """Return all modules of the package that a module is in."""
    return tuple(sorted(Path(file).parent.glob("*.py")))


@dataclass(frozen=True)
class Found:
    """What there is of a study: its runs in the order of its plan, and costs of steps."""

    runs: dict[Run, Stored] = field(default_factory=dict)
    costs: list[tuple[Measurement, StoredCosts]] = field(default_factory=list)

    def results_of(self, runs: Iterable[Run]) -> list[Result]:
        """Return what those of the runs measured that are there, in their order."""
        return [self.runs[run].result for run in runs if run in self.runs]

    @property
    def environments(self) -> list[dict[str, Any]]:
        """The environments that runs and costs were made in, with repetitions."""
        of_runs = [stored.environment for stored in self.runs.values()]
        return of_runs + [stored.environment for _, stored in self.costs]


class Experiment(ABC, Generic[O]):
    """One kind of experiment; see the module."""

    #: What the keys of a part in a study file are.
    schema: ClassVar[type[BaseModel]]
    #: Makes a run.
    make: ClassVar[Make] = staticmethod(classify)
    #: The modules whose code decides what a run measures; by default the one that `make` is in.
    modules: ClassVar[tuple[Path, ...]] = ()

    @abstractmethod
    def runs(self, options: O) -> int:
        """Return the number of runs; raises `ValueError` naming a field that is wrong."""

    @abstractmethod
    def plan(self, options: O, results: Results) -> Sequence[Run]:
        """Return the runs that are known to be needed, given the results so far.

        A plan grows: when the results of a sweep are all there, the runs that are to be reported
        come to it. It is complete when all of its runs have results.
        """

    @abstractmethod
    def sections(self, options: O, found: Found) -> list[Section]:
        """Return the report on what is found, which may be incomplete; the main table first.

        A page begins with the section that is the verdict, wherever it is among them.

        Raises:
            ValueError: nothing can be said of it.
        """

    def measurements(self, options: O, device: torch.device) -> list[Measurement]:
        """Return the measurements of costs, which are made in this process after the runs."""
        return []

    @property
    def code(self) -> str:
        """The version of the harness's code and of the experiment's own."""
        return code_version(*(self.modules or [Path(inspect.getfile(self.make))]))

    def steps(self, options: O) -> int:
        """Return the number of runs and measurements."""
        return self.runs(options)

    def check(self, options: O) -> None:
        """Raise `ValueError` or `DataError` for what cannot be made, before anything is."""

    def model(self, options: O) -> str:
        """Return the model that decides how many threads are best; see ``cli/options.py``."""
        return str(getattr(options, "model", ""))

    def configuration(self, options: O) -> dict[str, Any]:
        """Return what ``study.json`` says of the study, in JSON types."""
        return options.model_dump(mode="json")
