"""What an experiment is to the harness: what a study file asks for and `lfp-bench run` makes.

A kind of experiment is a class (made without arguments) that is entered in
:mod:`benchmarks.experiments.kinds` under the name that a study file gives as `experiment`. All it
has to know is how many runs its options ask for, and how to make them in a folder, none of them
twice::

    class Options(BaseModel):                 # the keys of a part in the file
        model_config = STRICT
        methods: list[str]
        seeds: int = 3
        epochs: int = 5

    class Pruning(Experiment[Options]):
        schema = Options
        axes = frozenset({"methods", "seeds"})

        def runs(self, options: Options) -> int:
            return options.seeds * len(options.methods)

        def carry_out(self, options: Options, folder: Path, place: Place) -> Report:
            records = self.records(options, folder)
            for ...:
                wanted = {"method": method, "seed": seed}
                records.get(wanted, partial(train_and_prune, ...))
                place.advance(f"{method} {seed}")
            write(folder / "table.md", text.document(lines, remarks).encode())
            return Report(lines, remarks, records.own)

The command line keeps other processes from the folder meanwhile, and has written what the study is
to ``study.json``.
"""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict

from benchmarks.rendering.text import Lines
from benchmarks.runs.executors import Executor
from benchmarks.runs.run import Run
from benchmarks.runs.store import Store
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.provenance import code_version, describe
from benchmarks.storage.records import Record, Records

#: Where an experiment of few runs keeps them; see :class:`benchmarks.storage.records.Records`.
RECORDS = "records.json"


#: The configuration of options of which none may be misspelt.
STRICT = ConfigDict(extra="forbid", frozen=True)

O = TypeVar("O", bound=BaseModel)  # noqa: E741  (the options)


@dataclass(frozen=True)
class Place:
    """Where an experiment is made; what it measures does not depend on it, but for time.

    Attributes:
        device: of what is made in this process.
        advance: moves the progress on by one of :meth:`Experiment.steps`, and says what was done.
        executor: makes the runs (:class:`benchmarks.runs.run.Run`) of the study in a folder.
        command: that is at work, to be quoted in reports.
    """

    device: torch.device
    advance: Callable[[str], None]
    executor: Callable[[Path], Executor]
    command: str


def recorded(
    run: Run, make: Callable[[Checkpoint], Record], store: Store, records: Records, place: Place
) -> Record:
    """Return what a run measured; make it if it is missing, from its checkpoint if it has one."""
    environment = describe(place.device)
    checkpoint = store.checkpoint(run, {**environment, **records.common})
    record = records.get(
        {"run": asdict(run)}, lambda: {**make(checkpoint), "environment": environment}
    )
    checkpoint.remove()
    place.advance(run.label)
    return record


class Report(NamedTuple):
    """What was found: a table, what a reader of it has to know, and its rows in JSON types."""

    lines: Lines
    remarks: Sequence[str]
    rows: list[dict[str, Any]]


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame in plain JSON types, NaN as None."""
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return found


class Status(NamedTuple):
    """How many runs of a study are done, how many of these diverged, and how many are under way.

    Those of other code (:func:`benchmarks.storage.provenance.code_version`) are not done, nor are
    those of other options.
    """

    done: int
    diverged: int = 0
    under_way: int = 0
    of_other_code: int = 0


class Experiment(ABC, Generic[O]):
    """One kind of experiment; see the module."""

    #: What the keys of a part in a study file are.
    schema: ClassVar[type[BaseModel]]
    #: The options that decide which runs there are, and nothing that one of them measures.
    axes: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def runs(self, options: O) -> int:
        """Return the number of runs; raises `ValueError` naming a field that is wrong."""

    @abstractmethod
    def carry_out(self, options: O, folder: Path, place: Place) -> Report:
        """Make the runs that the folder does not have, and write the report there.

        Each run is stored when it is done, so that a kill loses no other. Errors that are the
        user's to solve are `ValueError`, `StoreError`, `ExecutorError`, `DataError` or `OSError`.
        """

    @property
    def code(self) -> str:
        """The version of the harness's code and of the module that the experiment is in."""
        return code_version(Path(inspect.getfile(type(self))))

    def records(self, options: O, folder: Path) -> Records:
        """Return the folder's runs: what it gets and makes is of this code and these options.

        So a run that is asked for has to be described by its place on the axes alone.
        """
        settings = options.model_dump(mode="json", exclude=set(self.axes))
        return Records(folder / RECORDS, {"code": self.code, "options": settings})

    def steps(self, options: O) -> int:
        """Return how often :meth:`carry_out` advances."""
        return self.runs(options)

    def check(self, options: O) -> None:
        """Raise `ValueError` or `DataError` for what cannot be made, before anything is."""

    def model(self, options: O) -> str:
        """Return the model that decides how many threads are best; see ``cli/options.py``."""
        return str(getattr(options, "model", ""))

    def configuration(self, options: O) -> dict[str, Any]:
        """Return what ``study.json`` says of the study, in JSON types."""
        return options.model_dump(mode="json")

    def status(self, options: O, folder: Path) -> Status:
        """Return how far the study in the folder is; `ValueError` or `StoreError` if unreadable."""
        records = self.records(options, folder)
        other = sum(record.get("code") != self.code for record in records.runs)
        diverged = sum(bool(record.get("diverged")) for record in records.own)
        under_way = len(list((folder / "checkpoints").glob("*.pt")))
        return Status(len(records.own), diverged, under_way, other)
