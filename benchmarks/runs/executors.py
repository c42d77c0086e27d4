"""Where the runs of a study are made: in this process, in several, or on a Ray cluster."""

import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from baselines.registry import blaming
from baselines.workers import ended, pool_of, submitted
from benchmarks.data import DataError
from benchmarks.runs import cluster
from benchmarks.runs.cluster import ExecutorError as ExecutorError  # noqa: PLC0414  (for others)
from benchmarks.runs.run import Result, Run
from benchmarks.runs.sources import plug_ins_of
from benchmarks.runs.store import Store, Stored
from benchmarks.runs.training import classify
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.files import StoreError
from benchmarks.storage.provenance import code_version, describe
from benchmarks.storage.settings import unchanged

#: Errors that have another reason than a plug-in: they are told as they are.
PASSING = (StoreError, DataError, OSError, MemoryError)
#: How often workers may be killed one after the other before anything is finished.
RETRIES = 1


class Make(Protocol):
    """Makes a run on a device, or goes on with it; a function of a module, so that it travels."""

    @abstractmethod
    def __call__(self, run: Any, device: torch.device, checkpoint: Checkpoint | None) -> Result:
        """Return what the run measured."""


@dataclass(frozen=True)
class Worker:
    """Makes runs, one after the other.

    Attributes:
        folder: of the study, where a run's checkpoint is kept while it is made.
        device: "cpu" or "cuda".
        threads: of the CPU.
        make: makes a run.
        code: the version of the code that decides what a run measures.
    """

    folder: Path
    device: str
    threads: int
    make: Make = classify
    code: str = field(default_factory=code_version)

    def __call__(self, run: Run) -> Stored:
        """Make a run, or go on with it from its checkpoint; store nothing else."""
        torch.set_num_threads(self.threads)
        device = torch.device(self.device)
        store = Store(self.folder, self.code)
        environment = {**describe(device), "code": store.code_of(run)}
        checkpoint, used = store.checkpoint(run, environment), plug_ins_of(run)
        with unchanged(used or run.label), blaming(used, passing=PASSING):
            return Stored(self.make(run, device, checkpoint), environment)


class Executor(Protocol):
    """Makes runs somewhere. What they measure does not depend on where, but for time."""

    @abstractmethod
    def results(self, worker: Worker, runs: Sequence[Run]) -> Iterator[Stored]:
        """Have the worker make the runs; yield each when it is done, in whatever order.

        Raises:
            ExecutorError: workers keep dying.
        """


@dataclass(frozen=True)
class Here(Executor):
    """Makes the runs in this process, one after the other."""

    def results(self, worker: Worker, runs: Sequence[Run]) -> Iterator[Stored]:
        """See :class:`Executor`."""
        yield from map(worker, runs)


@dataclass
class Local(Executor):
    """Makes the runs in processes of this machine, which stay for the next runs.

    When one of them is killed, as the kernel does when memory is short, those that are left end
    too, and what was not finished goes on in new ones from its checkpoints; once, if nothing has
    been finished in between. A run that diverges is finished. The processes end with this one,
    however it ends.

    Attributes:
        jobs: how many processes there are.
    """

    jobs: int
    _pool: ProcessPoolExecutor | None = field(default=None, repr=False)

    def results(self, worker: Worker, runs: Sequence[Run]) -> Iterator[Stored]:
        """See :class:`Executor`."""
        left, fruitless = list(runs), 0
        while left:
            before = len(left)
            try:
                for stored in self._results(worker, left):
                    left.remove(stored.run)
                    yield stored
            except BrokenProcessPool as error:
                fruitless = fruitless + 1 if len(left) == before else 0
                if fruitless > RETRIES:
                    raise ExecutorError(f"jobs: all of {self.jobs} died; {error}") from None

    def _results(self, worker: Worker, runs: Sequence[Run]) -> Iterator[Stored]:
        """Yield the results of the runs as they are done, until a process is killed."""
        if self._pool is None:
            self._pool = pool_of(self.jobs, _print_aside)
        try:
            for future in as_completed(submitted(self._pool, worker, runs)):
                yield future.result()
        except BaseException:  # Ctrl-C too
            ended(self._pool)
            self._pool = None
            raise


def _print_aside() -> None:
    """Let what is printed in this process go to stderr: results are for the first one to print."""
    sys.stdout = sys.stderr


@dataclass(frozen=True)
class RayCluster(Executor):
    """Makes the runs on a Ray cluster; that of a worker that is killed is made again, once.

    Every node needs this package and the data sets. With a folder that all nodes share, a run goes
    on from its checkpoint; without one, it starts from the beginning.

    Attributes:
        address: of the cluster, as ``ray.init`` takes it.
        gpus: share of a GPU that a run takes, 0 on the CPU.
    """

    address: str
    gpus: float = 0.0

    def results(self, worker: Worker, runs: Sequence[Run]) -> Iterator[Stored]:
        """See :class:`Executor`; ExecutorError also if Ray is not installed or not there."""
        with cluster.joined(self.address) as ray:
            cluster.check_room(ray, worker.threads, self.gpus)
            options = {
                "num_cpus": worker.threads,
                "num_gpus": self.gpus,
                "max_retries": RETRIES,
            }
            make = ray.remote(**options)(_apply)
            pending = [make.remote(worker, run) for run in runs]
            while pending:
                done, pending = ray.wait(pending)
                with cluster.telling(ray):
                    found = ray.get(done)
                yield from found


def _apply(worker: Worker, run: Run) -> Stored:
    return worker(run)


def get_or_make(
    runs: Sequence[Run], store: Store, worker: Worker, executor: Executor
) -> Iterator[Stored]:
    """Yield the result of every run: what is stored, then what is made, stored as soon as it is.

    Raises:
        StoreError: a stored file cannot be read.
        ExecutorError: the executor cannot go on.
    """
    missing = []
    for run in runs:
        if (stored := store.load(run)) is None:
            missing.append(run)
        else:
            yield stored
    for stored in executor.results(worker, missing):
        store.save(stored)
        store.checkpoint(stored.run, stored.environment).remove()
        yield stored
