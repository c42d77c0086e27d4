"""A study on bad ground: killed and out of space at random, it ends with the same tables.

``python -m tests.soak --store benchmarks/stored/soak`` disturbs the command for an hour, and stores
what happened; ``tests/test_soak.py`` does it for as long as a suite has. The study is made with
``--jobs 2`` under umask 077, in a folder with spaces and letters of other alphabets, on a file
system of a few megabytes that is mounted for it (by root; elsewhere the size of files is limited).
"""

import argparse
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch

from benchmarks.experiments import conduct
from benchmarks.experiments.base import Found
from benchmarks.rendering import document, text
from benchmarks.rendering.text import remarks
from benchmarks.runs.store import Stored
from benchmarks.storage.files import write, write_json
from benchmarks.storage.provenance import ROOT, describe
from benchmarks.studies.collect import Description, described
from tests.processes import descendants, workers

#: Two parts with methods of different states, in runs of a second or two.
STUDY = """title: what is disturbed
common:
  model: toy-mlp
  methods: [lfp, sgd]
  activations: [relu, heaviside]
  seeds: 2
  epochs: 40
  sweep_epochs: 20
  sweep_seeds: 1
  learning_rates: [0.03, 0.1]
parts:
  blobs: {dataset: blobs}
  circles: {dataset: circles}
sizes: {smoke: {}}
"""
#: Of the folder, and of the file of the study.
FOLDER, NAME = "a folder – größer 研究", "prüfung"
MEGABYTES = 4
LONGEST = 600.0  # seconds that a command may take, of which most are waiting for the machine
OFTEN = (0.5, 8.0)  # seconds between two disturbances
A_KILL = 18.0  # seconds of the test, for each of which there has to be a kill in the end
SPARED = 0.6  # of those after which nothing has been stored yet, or a slow machine gets nowhere
FULL = (1.0, 8.0)  # seconds without space
ANSWERS = {  # what the command may say when it ends by itself, in its last line
    "No space left on device": "no space",
    "File too large": "no space",
    "jobs: all of 2 died": "workers died twice",
}


log = logging.getLogger(__name__)


class SoakError(AssertionError):
    """The command did what it must not."""


class Space(Protocol):
    """Takes the space away from processes, and gives it back."""

    def take(self, processes: list[int]) -> None:
        """Let no more be written."""

    def give(self, processes: list[int]) -> None:
        """Let it be written again."""


@dataclass(frozen=True)
class Disk(Space):
    """A small file system, which another file fills."""

    root: Path

    def take(self, processes: list[int]) -> None:
        """See :class:`Space`."""
        with suppress(OSError), (self.root / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def give(self, processes: list[int]) -> None:
        """See :class:`Space`."""
        (self.root / "filler").unlink()


class Limit(Space):
    """The size that the system allows a file."""

    def take(self, processes: list[int]) -> None:
        """See :class:`Space`."""
        self._allow(1, processes)

    def give(self, processes: list[int]) -> None:
        """See :class:`Space`."""
        self._allow(resource.RLIM_INFINITY, processes)

    def _allow(self, size: int, processes: list[int]) -> None:
        for process in processes:
            with suppress(ProcessLookupError):
                resource.prlimit(process, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextmanager
def small_disk(root: Path) -> Iterator[Space]:
    """Mount a small file system there while the block runs; limit files where that is refused."""
    root.mkdir()
    size = f"size={MEGABYTES}m"
    with suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "tmpfs", root], check=True, capture_output=True
        )
        try:
            yield Disk(root)
        finally:
            subprocess.run(["umount", root], check=True)
        return
    yield Limit()


def wait_for(happened: Callable[[], bool], what: str, seconds: float = LONGEST) -> None:
    """Wait until it happened; raise `SoakError` if it does not."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise SoakError(f"{what}: not within {seconds:g} seconds")
        time.sleep(0.05)


@dataclass
class Soak:
    """The study, the command that makes it, and what was done to it.

    Attributes:
        folder: in which everything is.
        space: that the results have.
        luck: says what happens when.
        happened: how often.
        seen: results of the study that is being made.
        fresh: whether there are new ones since the last disturbance.
    """

    folder: Path
    space: Space
    luck: random.Random
    happened: Counter[str] = field(default_factory=Counter)
    seen: set[Path] = field(default_factory=set)
    fresh: bool = False

    def start(self, results: Path) -> "subprocess.Popen[bytes]":
        """Start the command."""
        self.happened["commands"] += 1
        asked = ("run", f"{NAME}.yaml", "--size", "smoke", "--jobs", "2", "--results", str(results))
        with (self.folder / "stderr").open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, ROOT / "tests" / "hasty.py", *asked],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL,
                stderr=errors,
                umask=0o077,
            )

    def disturb(self, command: "subprocess.Popen[bytes]") -> None:
        """Kill the command or one of its workers, or let there be no space for a while."""
        if not self.fresh and self.luck.random() < SPARED:
            return
        self.fresh = False
        begun, at_work = descendants(command.pid), workers(command.pid)
        what = self.luck.choice(["command", "worker", "worker", "space"])
        if what == "command":
            command.kill()
            wait_for(lambda: not any(map(alive, begun)), "workers end with the command")
            self.happened["kills of the command"] += command.wait() == -signal.SIGKILL
        elif what == "worker" and at_work:
            with suppress(ProcessLookupError):
                os.kill(self.luck.choice(at_work), signal.SIGKILL)
                self.happened["kills of workers"] += 1
        elif what == "space":
            self.space.take([command.pid, *begun])
            with suppress(subprocess.TimeoutExpired):
                command.wait(self.luck.uniform(*FULL))
            self.space.give([command.pid, *descendants(command.pid)])
            self.happened["times without space"] += 1

    def ended(self, command: "subprocess.Popen[bytes]", results: Path) -> bool:
        """Note how a command ended, if it did; it may have been killed, refuse or be done.

        Returns:
            Whether it is no longer at work.

        Raises:
            SoakError: it ended in another way, or lost a result.
        """
        found = set(results.glob("*/*/runs/*.json"))
        if lost := self.seen - found:
            raise SoakError(f"results are gone: {sorted(lost)}")
        self.fresh, self.seen = self.fresh or found != self.seen, found
        if command.poll() is None:
            return False
        told = (self.folder / "stderr").read_text()
        last = told.strip().rpartition("\n")[2]
        answers = [answer for words, answer in ANSWERS.items() if words in last]
        if command.returncode == 0:
            self.happened["ends: done"] += 1
        elif command.returncode == 2 and answers and "Traceback" not in told:
            self.happened[f"ends: {answers[0]}"] += 1
        elif command.returncode != -signal.SIGKILL:
            raise SoakError(f"exit code {command.returncode}:\n{told[-5000:]}")
        return True

    @property
    def kills(self) -> int:
        """How many processes were killed."""
        return sum(n for what, n in self.happened.items() if what.startswith("kills"))

    def made(self, results: Path, more: Callable[[], bool]) -> bool:
        """Make the study, disturbed while there is to be more; return whether it was disturbed."""
        before, self.seen = self.happened.total(), set()
        while True:
            command = self.start(results)
            try:
                while not self.ended(command, results):
                    disturbed = more()
                    try:
                        command.wait(self.luck.uniform(*OFTEN) if disturbed else LONGEST)
                    except subprocess.TimeoutExpired:
                        if not disturbed:
                            raise SoakError(f"a command does not end in {LONGEST:g} s") from None
                        self.disturb(command)
            finally:
                command.kill()
                command.wait()
            if command.returncode == 0:
                return self.happened.total() > before + 2  # a command, and its end


def alive(process: int) -> bool:
    """Return whether the process has not ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def parts(results: Path) -> dict[str, Description]:
    """Return what the parts of the study are, by their names."""
    found = {path.parent.name: described(path) for path in results.glob("*/*/study.json")}
    return {name: one for name, one in sorted(found.items()) if one is not None}


def timeless(found: Found, other: Found) -> Found:
    """Return what was found as if every clock had gone alike, and the costs were another's."""
    if list(found.runs) != list(other.runs):
        raise SoakError(f"{len(found.runs)} runs were made instead of {len(other.runs)}")
    runs = {}
    for run, stored in found.runs.items():
        history = [replace(one, seconds=float(at)) for at, one in enumerate(stored.result.history)]
        result = replace(stored.result, history=tuple(history), seconds=float(len(history)))
        runs[run] = Stored(result, other.runs[run].environment)  # which has a date, too
    measured, expected = ([one for one, _ in costs] for costs in (found.costs, other.costs))
    if len(measured) != len(expected) or not all(one in expected for one in measured):
        raise SoakError("other costs were measured")
    return Found(runs, other.costs)


def compare(results: Path, expected: Path) -> int:
    """Return how many files of tables and figures are the same in both, but for the clock.

    Raises:
        SoakError: one differs, is not what its runs say, or can be read by others; or a kill has
            left a file that nobody needs.
    """
    ours, theirs = parts(results), parts(expected)
    if ours.keys() != theirs.keys():
        raise SoakError(f"parts: {list(ours)} and {list(theirs)}")
    same = 0
    for name, study in ours.items():
        folder = next(results.glob(f"*/{name}"))
        found = conduct.find(study.kind, study.options, folder)
        undisturbed = conduct.find(study.kind, study.options, next(expected.glob(f"*/{name}")))

        def files(one: Found, told: list[str], study: Description = study) -> dict[Path, bytes]:
            return document.part_files(study.kind.sections(study.options, one), told)

        told = remarks(found.environments, study.command)
        for path, content in files(found, list(told)).items():
            if (folder / path).read_bytes() != content:
                raise SoakError(f"{name}: {path} is not what its runs say")
        of_ours = files(timeless(found, undisturbed), [])
        of_theirs = files(timeless(undisturbed, undisturbed), [])
        for path in of_ours.keys() | of_theirs.keys():
            if of_ours.get(path) != of_theirs.get(path):
                raise SoakError(f"{name}: {path} differs from that of the undisturbed study")
        same += len(of_ours)
    left = [path.name for path in (*results.glob("*/*/**/.*.tmp"), *results.rglob("*.pt"))]
    public = [path.name for path in results.rglob("*") if path.stat().st_mode & 0o077]
    if left or public:
        raise SoakError(f"left behind: {left}; open to others: {public}")
    return same


def soak(folder: Path, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Make the study in peace, and then again and again, disturbed, for so many seconds.

    Args:
        folder: an empty one.
        seconds: for which it is disturbed, or twice as many until there have been enough kills;
            what is begun is finished.
        seed: of what happens when.

    Returns:
        What happened, in plain JSON types.

    Raises:
        SoakError: the command failed, or its results are not those of the undisturbed study.
    """
    place = folder / FOLDER
    place.mkdir()
    (place / f"{NAME}.yaml").write_text(STUDY)
    with small_disk(place / "disk") as space:
        # What is made in peace stands on a disk of its own: the other one is small.
        test = Soak(place, space, random.Random(seed))
        test.made(place / "undisturbed", lambda: False)
        test.happened.clear()
        began, files = time.monotonic(), 0

        def more() -> bool:
            passed = time.monotonic() - began
            return passed < seconds or (test.kills * A_KILL < seconds and passed < 2 * seconds)

        while more():
            with TemporaryDirectory(dir=place / "disk", prefix="results ü ") as results:
                disturbed = test.made(Path(results), more)
                files += compare(Path(results), place / "undisturbed")
                test.happened["disturbed studies"] += disturbed
                log.info("%d files are equal; %s", files, dict(test.happened))
        return {
            "seconds": round(time.monotonic() - began),
            "space": type(space).__name__.lower(),
            **dict(sorted(test.happened.items())),
            "kills": test.kills,
            "equal tables and figures": files,
            "environment": describe(torch.device("cpu")),
        }


def told(found: dict[str, Any]) -> str:
    """Return what happened as a document."""
    counts = [(what, str(n)) for what, n in found.items() if isinstance(n, int)]
    made = remarks([found["environment"]], f"python -m tests.soak --seconds {found['seconds']}")
    return text.document((("what", "how often"), counts), [*made])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="folder for soak.json and soak.md")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with TemporaryDirectory() as temporary:
        found = soak(Path(temporary), asked.seconds, asked.seed)
    print(json.dumps(found, indent=2))
    if asked.store:
        write_json(asked.store / "soak.json", found)
        write(asked.store / "soak.md", told(found).encode())
