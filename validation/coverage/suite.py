"""Goes through the groups of models, and lets no model take for ever."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from types import FrameType

import torch

from baselines.workers import ended, pool_of, submitted
from validation.coverage import families, models, modules
from validation.coverage.records import Record, TimeLimit


@dataclass(frozen=True)
class Group:
    """Models of one origin.

    Attributes:
        names: lists them.
        examine: returns what became of one of them.
        requires: the package they come from, if it is an optional one.
    """

    names: Callable[[], list[str]]
    examine: Callable[[str], list[Record]]
    requires: str = ""

    @property
    def missing(self) -> str:
        """The package that is required and not installed, or an empty text."""
        return self.requires if self.requires and find_spec(self.requires) is None else ""


GROUPS: dict[str, Group] = {
    "nn": Group(modules.names, modules.examine_module),
    "torchvision": Group(models.names, models.examine_model),
    "timm": Group(families.timm_families, families.examine_family, "timm"),
    "transformers": Group(families.architectures, families.examine_architecture, "transformers"),
}


def select(group: str, pattern: str) -> list[str]:
    """Return the names of a group that match a pattern like ``resnet*``."""
    return [name for name in GROUPS[group].names() if fnmatchcase(name, pattern)]


def run(
    group: str, names: Sequence[str], jobs: int = 1, limit: float = 600.0
) -> Iterator[tuple[str, list[Record]]]:
    """Yield the records of every name when they are there, in whatever order.

    Args:
        group: a name in GROUPS.
        names: what to examine.
        jobs: processes on this machine.
        limit: seconds that a model may take in one mode.
    """
    if jobs == 1:
        for name in names:
            yield name, examine(group, name, limit)
        return
    pool = pool_of(jobs, torch.set_num_threads, torch.get_num_threads())
    try:
        futures = submitted(pool, partial(examine, group, limit=limit), names)
        for future in as_completed(futures):
            name = futures[future]
            try:
                yield name, future.result()
            except BrokenProcessPool:
                killed = "a process was killed, as happens where memory is short; try fewer jobs"
                yield name, [Record(group, name, "", "error", reason=killed)]
    finally:
        ended(pool)


def examine(group: str, name: str, limit: float) -> list[Record]:
    """Examine one model in this process."""
    with limited(limit):
        return GROUPS[group].examine(name)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TimeLimit` in what is running after so many seconds, and again after as many.

    Again, because each mode of a model has its own record, in which the first one ends. Where the
    system has no such signal, there is no limit.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeLimit(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
