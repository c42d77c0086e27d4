"""Workers that die or refuse, in a module of their own: it is all that their processes import."""

import itertools
import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.runs.executors import Worker
from benchmarks.runs.run import Run
from benchmarks.runs.store import Stored


@dataclass(frozen=True)
class Mortal(Worker):
    """Is killed in its n-th run of all processes, for each n that is listed."""

    deaths: tuple[int, ...] = ()

    def __call__(self, run: Run) -> Stored:
        """Note the attempt; then make the run or die."""
        for made in itertools.count():
            with suppress(FileExistsError):  # another process was faster
                (self.folder / f"attempt-{made}").touch(exist_ok=False)
                break
        if made in self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(run)


@dataclass(frozen=True)
class Refusing(Worker):
    """Cannot make a run, for a reason that will not go away."""

    def __call__(self, run: Run) -> Stored:
        """Refuse."""
        raise MemoryError(f"{run.method} needs too much")
