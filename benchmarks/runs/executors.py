"""Where the runs of a study are made: in this process, in several, or on a Ray cluster."""

import multiprocessing
import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Protocol

import torch

from benchmarks.data import Dataset, load
from benchmarks.runs import cluster
from benchmarks.runs.cluster import ExecutorError as ExecutorError  # noqa: PLC0414  (for others)
from benchmarks.runs.run import Run
from benchmarks.runs.store import Store, Stored
from benchmarks.runs.training import execute
from benchmarks.storage.provenance import describe

#: How often workers may be killed one after the other before anything is finished.
RETRIES = 1


@dataclass(frozen=True)
class Worker:
    """Makes runs, one after the other.

    Attributes:
        folder: of the study, where a run's checkpoint is kept while it is made.
        device: "cpu" or "cuda".
        threads: of the CPU.
    """

    folder: Path
    device: str
    threads: int

    def __call__(self, run: Run) -> Stored:
        """Make a run, or go on with it from its checkpoint; store nothing else."""
        torch.set_num_threads(self.threads)
        device = torch.device(self.device)
        environment = describe(device)
        checkpoint = Store(self.folder).checkpoint(run, environment)
        data = dataset(run.dataset, run.seed, self.device)
        return Stored(execute(run, data, device, checkpoint), environment)


def dataset(name: str, seed: int, device: str) -> Dataset:
    """Return the draw that a seed makes on the device; a process loads nothing twice."""
    first = _dataset(name, 0, device)
    return _dataset(name, seed, device) if first.redrawn else first


@cache
def _dataset(name: str, seed: int, device: str) -> Dataset:
    return load(name, seed=seed).to(device)


class Executor(Protocol):
    """Makes runs somewhere. What they measure does not depend on where, but for time."""

    @abstractmethod
    def results(self, runs: Sequence[Run]) -> Iterator[Stored]:
        """Make the runs; yield each when it is done, in whatever order.

        Raises:
            ExecutorError: workers keep dying.
        """


@dataclass(frozen=True)
class Here(Executor):
    """In this process."""

    worker: Worker

    def results(self, runs: Sequence[Run]) -> Iterator[Stored]:
        """See :class:`Executor`."""
        yield from map(self.worker, runs)


@dataclass(frozen=True)
class Local(Executor):
    """In processes on this machine.

    When one of them is killed, as the kernel does when memory is short, those that are left end
    too, and what was not finished goes on in new ones from its checkpoints; once, if nothing has
    been finished in between. A run that diverges is finished. The processes end with this one,
    however it ends.
    """

    worker: Worker
    jobs: int

    def results(self, runs: Sequence[Run]) -> Iterator[Stored]:
        """See :class:`Executor`."""
        left, fruitless = list(runs), 0
        while left:
            before = len(left)
            try:
                for stored in self._results(left):
                    left.remove(stored.result.run)
                    yield stored
            except BrokenProcessPool as error:
                fruitless = fruitless + 1 if len(left) == before else 0
                if fruitless > RETRIES:
                    raise ExecutorError(f"jobs: all of {self.jobs} died; {error}") from None

    def _results(self, runs: Sequence[Run]) -> Iterator[Stored]:
        """Do the same until a process is killed."""
        # Forked processes would share the locks of threads that they do not have.
        with ProcessPoolExecutor(self.jobs, get_context("spawn"), _end_with_parent) as pool:
            try:
                for future in as_completed([pool.submit(self.worker, run) for run in runs]):
                    yield future.result()
            except BaseException:  # Ctrl-C too: nobody waits for the runs that are under way
                for process in multiprocessing.active_children():
                    process.terminate()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent process, and end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@dataclass(frozen=True)
class RayCluster(Executor):
    """On a Ray cluster that is there already; a killed worker's run is made again, once.

    Every node needs this package and the data sets. With a folder that all nodes share, a run goes
    on from its checkpoint; without one, it starts from the beginning.

    Attributes:
        worker: what makes a run.
        address: of the cluster, as ``ray.init`` takes it.
        gpus: share of a GPU that a run takes, 0 on the CPU.
    """

    worker: Worker
    address: str
    gpus: float = 0.0

    def results(self, runs: Sequence[Run]) -> Iterator[Stored]:
        """See :class:`Executor`; ExecutorError also if Ray is not installed or not there."""
        with cluster.joined(self.address) as ray:
            cluster.check_room(ray, self.worker.threads, self.gpus)
            options = {
                "num_cpus": self.worker.threads,
                "num_gpus": self.gpus,
                "max_retries": RETRIES,
            }
            make = ray.remote(**options)(_apply)
            pending = [make.remote(self.worker, run) for run in runs]
            while pending:
                done, pending = ray.wait(pending)
                with cluster.telling(ray):
                    found = ray.get(done)
                yield from found


def _apply(worker: Worker, run: Run) -> Stored:
    return worker(run)
