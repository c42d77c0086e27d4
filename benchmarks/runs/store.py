"""The folder of a study: every run is a file of its own, written whole or not at all."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from annotated_types import MinLen
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from baselines.stored_options import are_known
from benchmarks.costs.step import Cost
from benchmarks.costs.workloads import Measurement
from benchmarks.runs.run import Result, Run, check_stored, run_of
from benchmarks.runs.sources import code_of, code_of_steps
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.files import StoreError, parsed, read_json, write, write_json
from benchmarks.storage.provenance import Environment, code_version, identity
from benchmarks.storage.schema import current, versioned

#: These read what a file holds; fields that a file is too old to have are None.
RESULT = TypeAdapter(Result)
MEASUREMENT = TypeAdapter(Measurement)
COSTS = TypeAdapter(Annotated[list[Cost], MinLen(1)])
ENVIRONMENT = TypeAdapter(Environment)
#: What reading a file that is not of this harness may raise, besides `OSError` of gzip.
NOT_OURS = (
    *(AttributeError, EOFError, KeyError, RecursionError, TypeError, ValueError),
    zlib.error,
)
#: Results and costs of a study that is to be kept, in one file.
PACKED = "runs.jsonl.gz"
PACKED_NAME = re.compile(r"(runs|costs)/[0-9a-z-]+\.json")


class Stored(NamedTuple):
    """A result and where it was made (:func:`benchmarks.storage.provenance.describe`)."""

    result: Result
    environment: dict[str, Any]

    @property
    def run(self) -> Run:
        """What was made."""
        return self.result.run


class StoredCosts(NamedTuple):
    """Costs, and the environment they were measured in."""

    costs: list[Cost]
    environment: dict[str, Any]


class _Pack(NamedTuple):
    """What was read of a pack, and of which; of none, where there was none."""

    version: tuple[int, ...] | None = None
    contents: Mapping[str, Any] = MappingProxyType({})


class Store:
    """The results of one study in `folder`, which is made when something is first written.

    ::

        study.json                    options and environment of the last command
        runs/<id>-<code>.json         one result each, with the environment it was made in
        costs/<id>-<code>.json        time and memory of a step
        runs.jsonl.gz                 such files in one, if they were packed
        checkpoints/<id>.pt           a run that is under way, or was interrupted
        table.md, *.csv, *.png        derived from these
        .written                      which of them the last command wrote

    <code> is the version of the code that makes the run
    (:func:`benchmarks.storage.provenance.code_version`, with what other packages have a part in it,
    :mod:`benchmarks.runs.sources`): results of other code are kept, but never taken for those of
    this code.
    """

    def __init__(self, folder: Path, code: str | None = None) -> None:
        """Refer to the folder, without touching it; by default the code is the harness's."""
        self.folder = folder
        self.code = code_version() if code is None else code
        self._pack = _Pack()

    def path(self, run: Run) -> Path:
        """Return where the result of the run with this code is or would be."""
        return self.folder / "runs" / f"{run.id}-{self.code_of(run)}.json"

    def code_of(self, run: Run) -> str:
        """Return the version of all code that the run depends on, that of plug-ins included."""
        return code_of(self.code, run)

    def load(self, run: Run) -> Stored | None:
        """Return the stored result of the run, if there is one.

        Raises:
            StoreError: the file cannot be read as the result of this run.
        """  # noqa: DOC501  (`_unreadable` makes that error)
        holder, content = self._read(self.path(run))
        stored = _result(holder, content)
        if stored is not None and stored.run != run:
            raise _unreadable(holder, "it describes another run than its name says")
        return stored

    def all(self) -> list[Stored]:
        """Return all stored results, the latest last; raises `StoreError` as `load` does."""
        found = (stored for _, stored in self._results())
        return sorted(found, key=lambda stored: str(stored.environment.get("date")))

    def own(self) -> list[Stored]:
        """Return the results that this code has made; raises `StoreError` as `load` does."""
        return [stored for path, stored in self._results() if path == self.path(stored.run)]

    def names(self) -> set[str]:
        """Return the names of the files of all results, without their ending."""
        return {path.stem for path in self._paths("runs")}

    def save(self, stored: Stored) -> None:
        """Store a result."""
        write_json(self.path(stored.run), record_of(stored))

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
        workload = measurement.workload
        activation, model = workload.activation, workload.model
        code = code_of_steps(self.code, measurement.settings, activation, model)
        return self.folder / "costs" / f"{identity(measurement)}-{code}.json"

    def load_costs(self, measurement: Measurement) -> StoredCosts | None:
        """Return what was measured, if it was; raises `StoreError` as `load` does."""
        found = _costs(*self._read(self.costs_path(measurement)))
        return None if found is None else found[1]

    def all_costs(self) -> list[tuple[Measurement, StoredCosts]]:
        """Return all costs, the latest last, with what was measured; raises as `load` does."""
        read = (_costs(holder, content) for _, holder, content in self._contents("costs"))
        found = [costs for costs in read if costs is not None]
        return sorted(found, key=lambda costs: str(costs[1].environment.get("date")))

    def save_costs(self, measurement: Measurement, stored: StoredCosts) -> None:
        """Store what was measured."""
        record = {
            "measurement": asdict(measurement),
            "costs": [asdict(cost) for cost in stored.costs],
            "environment": stored.environment,
        }
        write_json(self.costs_path(measurement), versioned(record))

    def unneeded(self) -> list[Path]:
        """Return the files of results of other code, and the states of runs that are done.

        Raises:
            StoreError: a file cannot be read.
        """
        paths, own = self._paths("runs"), {self.path(stored.run) for stored in self.own()}
        stale = [path for path in paths if path.exists() and path not in own]
        done = {path.stem.partition("-")[0] for path in set(paths) - set(stale)}
        states = (self.folder / "checkpoints").glob("*.pt")
        return stale + [state for state in states if state.stem in done]

    def pack(self) -> None:
        """Put all results and costs into one file, which is much smaller, and delete theirs.

        The same results give the same bytes. They are found as before.

        Raises:
            StoreError: a file could not be read from the pack; nothing is written then.
        """
        loose = self.loose()
        write_packed(self.folder, {**self._packed(), **{_name(p): c for p, c in loose.items()}})
        for path in loose:
            path.unlink()

    def loose(self) -> dict[Path, Any]:
        """Return the contents of the files that are not packed, by their paths.

        Raises:
            StoreError: a file is not what reading it from a pack needs, by its name or its content.
        """  # noqa: DOC501  (`_unreadable` makes that error)
        found: dict[Path, Any] = {}
        for room, read in (("runs", _result), ("costs", _costs)):
            for path in sorted((self.folder / room).glob("*.json")):
                with readable(path):
                    content = read_json(path)
                if content is None:  # another process has packed it since
                    continue
                read(path, content)
                if not PACKED_NAME.fullmatch(_name(path)):
                    raise _unreadable(path, "no result has a name like that")
                found[path] = content
        return found

    def _read(self, path: Path) -> tuple[Path, Any | None]:
        """Return which file holds what is found under a path, it or the pack, and the content.

        That is None if there is none. A file that is packed is deleted when the pack is there, so
        that the pack has what is loose no more.
        """
        with readable(path):
            content = read_json(path)
        if content is None:
            return self.folder / PACKED, self._packed().get(_name(path))
        return path, content

    def _paths(self, room: str) -> list[Path]:
        """Return the paths of all files of a kind, loose and packed.

        The pack is read last: files that are packed meanwhile are in one of the two then.
        """
        loose = set((self.folder / room).glob("*.json"))
        packed = {self.folder / name for name in self._packed() if name.startswith(f"{room}/")}
        return sorted(loose | packed)

    def _results(self) -> Iterator[tuple[Path, Stored]]:
        """Yield all results with the paths of their files."""
        for path, holder, content in self._contents("runs"):
            if (stored := _result(holder, content)) is not None:
                yield path, stored

    def _contents(self, room: str) -> Iterator[tuple[Path, Path, Any]]:
        """Yield the paths of all files of a kind, which files hold them, and the contents.

        Raises:
            StoreError: one cannot be read, or was deleted after it was found.
        """
        for path in self._paths(room):
            holder, content = self._read(path)
            if content is None:
                raise StoreError(f"{path}: was deleted while it was to be read; try it again")
            yield path, holder, content

    def _packed(self) -> Mapping[str, Any]:
        """Return what the pack holds now; it is read again when another one has its place."""
        path = self.folder / PACKED
        with readable(path):
            version = _version(path)
            if version != self._pack.version:
                self._pack = _Pack(version, {} if version is None else _contents_of(path))
        return self._pack.contents


def _version(path: Path) -> tuple[int, ...] | None:
    """Return what tells a file from another one that takes its place; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _contents_of(pack: Path) -> dict[str, Any]:
    """Return what a pack holds, by the names of the files; raises as :data:`NOT_OURS` says."""
    packed = pack.read_bytes()
    if not packed:  # of which gzip makes no lines, instead of an error
        raise EOFError("the file is empty")
    found: dict[str, Any] = {}
    for name, content in map(_unpacked, gzip.decompress(packed).decode().splitlines()):
        if found.setdefault(name, content) != content:  # packs can be written one behind the other
            raise ValueError(f"{name} is there twice, with other contents")
    return found


def write_packed(folder: Path, contents: Mapping[str, Any]) -> None:
    """Write the contents of files, by their paths in the folder of a study, as one."""
    lines = [
        json.dumps({"file": name, "content": contents[name]}, allow_nan=False)
        for name in sorted(contents)
    ]
    write(folder / PACKED, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def _unpacked(line: str) -> tuple[str, Any]:
    """Return the name of a file in a pack, and what it holds."""
    packed = parsed(line)
    if not PACKED_NAME.fullmatch(packed["file"]):
        raise ValueError(f"file: {packed['file']!r}")
    if packed["content"] is None:
        raise ValueError(f"content: null, of {packed['file']}")
    return packed["file"], packed["content"]


def record_of(stored: Stored) -> dict[str, Any]:
    """Return a result as it is stored, in plain JSON types."""
    task = stored.run.task
    told = {"task": task.name, "loss": task.loss, "metric": task.metric}
    return versioned({**told, **asdict(stored.result), "environment": stored.environment})


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _result(path: Path, record: Any) -> Stored | None:
    """Return what the file holds, unless it is missing or has options that no method has today."""
    if record is None:
        return None
    with readable(path):
        content = current(record)
        environment = ENVIRONMENT.validate_python(content.pop("environment"))
        run = run_of(content.pop("task"), content["run"])
        told = content.pop("loss"), content.pop("metric")
        if run is None:
            return None
        if told != run.task[1:]:
            raise ValueError(f"loss and metric: {told!r}; allowed: {run.task[1:]!r}")
        result = RESULT.validate_python({**content, "run": run})
        check_stored(result)
        return Stored(result, {**environment})


def _costs(path: Path, record: Any) -> tuple[Measurement, StoredCosts] | None:
    if record is None:
        return None
    with readable(path):
        content = current(record)
        if not are_known(content["measurement"]["settings"]):
            return None
        costs = COSTS.validate_python(content["costs"])
        measurement = MEASUREMENT.validate_python(content["measurement"])
        environment = ENVIRONMENT.validate_python(content["environment"])
        return measurement, StoredCosts(costs, {**environment})


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise `StoreError` where the content of the file is not what it has to be."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from None
    except ValidationError as error:
        raise _unreadable(path, first_of(error)) from None
    except OSError as error:
        if error.errno is None:  # of gzip, which read what is not its own
            raise _unreadable(path, f"{type(error).__name__}: {error}") from None
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    except NOT_OURS as error:
        told = " ".join(str(error).split())
        raise _unreadable(path, f"{type(error).__name__}: {told}") from None


def first_of(error: ValidationError) -> str:
    """Return the first field that is wrong, its value and what is said of it."""
    found = error.errors()[0]
    value = repr(found["input"])
    shown = value if len(value) <= 60 else f"{value[:60]}..."
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}, not {shown}"


def _unreadable(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path}: not a file that this harness wrote ({reason}); delete it to have it made again"
    )
