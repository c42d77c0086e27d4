"""The folder of a study: every run is a file of its own, written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from baselines.methods import are_known
from benchmarks.costs.step import Cost
from benchmarks.costs.workloads import Measurement
from benchmarks.runs.run import Result, Run
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.files import StoreError, read_json, write_json
from benchmarks.storage.provenance import code_version, identity

#: These read what a file holds; fields that a file is too old to have are None.
RESULT = TypeAdapter(Result)
MEASUREMENT = TypeAdapter(Measurement)


class Stored(NamedTuple):
    """A result and where it was made (:func:`benchmarks.storage.provenance.describe`)."""

    result: Result
    environment: dict[str, Any]


class StoredCosts(NamedTuple):
    """Costs, and the environment they were measured in."""

    costs: list[Cost]
    environment: dict[str, Any]


class Store:
    """The results of one study in `folder`, which is made when something is first written.

    ::

        study.json                    configuration and environment of the last command
        runs/<id>-<code>.json         one result each, with the environment it was made in
        checkpoints/<id>.pt           a run that is under way, or was interrupted
        costs/<id>-<code>.json        time and memory of a step
        results.csv, results.parquet, table.md, figure.png       derived from these

    <code> is :func:`benchmarks.storage.provenance.code_version`: results of other code are kept,
    but never taken for those of this code.
    """

    def __init__(self, folder: Path) -> None:
        """Refer to the folder, without touching it."""
        self.folder = folder

    def path(self, run: Run) -> Path:
        """Return where the result of the run with this code is or would be."""
        return self.folder / "runs" / f"{run.id}-{code_version()}.json"

    def load(self, run: Run) -> Stored | None:
        """Return the stored result of the run, if there is one.

        Raises:
            StoreError: the file cannot be read as the result of this run.
        """  # noqa: DOC501  (`_unreadable` makes that error)
        stored = _read(self.path(run))
        if stored is not None and stored.result.run != run:
            raise _unreadable(self.path(run), "it describes another run than its name says")
        return stored

    def all(self) -> list[Stored]:
        """Return all stored results, the latest last; raises `StoreError` as `load` does."""
        paths = sorted((self.folder / "runs").glob("*.json"))
        found = [stored for path in paths if (stored := _read(path)) is not None]
        return sorted(found, key=lambda stored: str(stored.environment.get("date")))

    def of_other_code(self) -> int:
        """Return the number of results that this code has not made."""
        paths = (self.folder / "runs").glob("*.json")
        return sum(not path.stem.endswith(f"-{code_version()}") for path in paths)

    def save(self, stored: Stored) -> None:
        """Store a result."""
        record = {**asdict(stored.result), "environment": stored.environment}
        write_json(self.path(stored.result.run), record)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the study while the block runs; a kill gives it free.

        Raises:
            StoreError: another process is at work on it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", blocking=False):
                yield
        except Timeout:
            raise StoreError(f"{self.folder}: another process is at work on this study") from None

    def checkpoint(self, run: Run, environment: dict[str, Any]) -> Checkpoint:
        """Return where the run's state is kept while it is made in this environment."""
        return Checkpoint(self.folder / "checkpoints" / f"{run.id}.pt", environment)

    def costs_path(self, measurement: Measurement) -> Path:
        """Return where the costs with this code are or would be."""
        return self.folder / "costs" / f"{identity(measurement)}-{code_version()}.json"

    def load_costs(self, measurement: Measurement) -> StoredCosts | None:
        """Return what was measured, if it was; raises `StoreError` as `load` does."""
        path = self.costs_path(measurement)
        found = _read_costs(path)
        return None if found is None else found[1]

    def all_costs(self) -> list[tuple[Measurement, StoredCosts]]:
        """Return all costs, the latest last, with what was measured; raises as `load` does."""
        paths = (self.folder / "costs").glob("*.json")
        found = [costs for path in paths if (costs := _read_costs(path)) is not None]
        return sorted(found, key=lambda costs: str(costs[1].environment.get("date")))

    def save_costs(self, measurement: Measurement, stored: StoredCosts) -> None:
        """Store what was measured."""
        record = {
            "measurement": asdict(measurement),
            "costs": [asdict(cost) for cost in stored.costs],
            "environment": stored.environment,
        }
        write_json(self.costs_path(measurement), record)


def _read(path: Path) -> Stored | None:
    """Return what the file holds, unless it is missing or has options that no method has today."""
    with _readable(path):
        record = read_json(path)
        if record is None or not are_known({record["run"]["method"]: record["run"]["settings"]}):
            return None
        return Stored(RESULT.validate_python(record), dict(record["environment"]))


def _read_costs(path: Path) -> tuple[Measurement, StoredCosts] | None:
    with _readable(path):
        record = read_json(path)
        if record is None or not are_known(record["measurement"]["settings"]):
            return None
        costs = [Cost(**cost) for cost in record["costs"]]
        measurement = MEASUREMENT.validate_python(record["measurement"])
        return measurement, StoredCosts(costs, dict(record["environment"]))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise `StoreError` where the content of the file is not what it has to be."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise _unreadable(path, f"{type(error).__name__}: {told}") from None


def _unreadable(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path}: not a file that this harness wrote ({reason}); delete it to have it made again"
    )
