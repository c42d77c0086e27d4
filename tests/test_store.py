"""The store: a file is whole or not there, and what is not ours is never overwritten."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baselines import LFPSettings, Settings
from benchmarks.costs.step import Cost
from benchmarks.costs.workloads import Measurement, Workload
from benchmarks.experiments import conduct
from benchmarks.experiments.comparison import Comparison, Options
from benchmarks.runs import store as store_module
from benchmarks.runs.run import Divergence, Epoch, Result, Run
from benchmarks.runs.store import PACKED, Store, Stored, StoredCosts, write_packed
from benchmarks.storage.files import StoreError, replacing, write, write_json

RUN = Run("final", "digits", "mlp", "lfp", "relu", 0, 1, 8, Settings(0.1, clip_norm=None))
RESULT = Result(
    RUN,
    (Epoch(validation=0.5, test=0.25), Epoch(train_loss=1.5)),
    Divergence(3, "the loss is nan"),
    steps=4,
    seconds=0.125,
)
#: What every environment says.
ENVIRONMENT: dict[str, Any] = {
    **{"commit": None, "dirty": None, "python": "3", "torch": "2", "numpy": "2"},
    **{"platform": "a system", "device": "cpu", "processor": "a CPU", "threads": 1},
}
STORED = Stored(RESULT, ENVIRONMENT)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = Store(tmp_path / "study")
    assert store.load(RUN) is None
    store.save(STORED)
    assert store.load(RUN) == STORED
    assert store.load(replace(RUN, seed=1)) is None


def test_costs_that_are_saved_are_loaded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    workload = Workload("mlp", "relu", (1, 8, 8), classes=10, batch_size=4)
    measurement = Measurement(workload, ("sgd",), 3, {"sgd": Settings(0.1)}, "a CPU", threads=1)
    costs = StoredCosts([Cost("sgd", 4, 0.5, 1.0, 1.0, 1.0, 1000, 1.0, 48.5)], ENVIRONMENT)
    assert store.load_costs(measurement) is None
    store.save_costs(measurement, costs)
    assert store.load_costs(measurement) == costs


def test_what_was_not_measured_is_null(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(STORED)

    def refuse(token: str) -> None:
        pytest.fail(f"{token} is not JSON")

    record = json.loads(store.path(RUN).read_text(), parse_constant=refuse)
    assert record["history"][1]["test"] is None
    assert record["divergence"] == {"step": 3, "reason": "the loss is nan"}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "bad.json", float("nan"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"run": {',
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"run": {"kind": "final"}, "divergence": null}',
        b'{"seconds": NaN}',
        b'{"seconds": -Infinity}',
        b'{"seconds": 1e999}',
    ],
)
def test_a_corrupt_file_is_named_and_kept(content: bytes, tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.path(RUN)
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreError, match=path.name):
        store.load(RUN)
    assert path.read_bytes() == content


def test_a_file_under_a_wrong_name_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(STORED)
    other = replace(RUN, seed=1)
    store.path(RUN).rename(store.path(other))
    with pytest.raises(StoreError, match="another run"):
        store.load(other)


def test_results_of_other_code_are_kept_and_not_used(tmp_path: Path) -> None:
    Store(tmp_path).save(STORED)
    other = Store(tmp_path, "other")
    assert other.load(RUN) is None
    other.save(STORED)
    assert len(other.all()) == 2
    assert other.names() == {Store(tmp_path).path(RUN).stem, other.path(RUN).stem}


def test_what_is_packed_is_found_as_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    workload = Workload("mlp", "relu", (1, 8, 8), classes=10, batch_size=4)
    measurement = Measurement(workload, ("sgd",), 3, {"sgd": Settings(0.1)}, "a CPU", threads=1)
    costs = StoredCosts([Cost("sgd", 4, 0.5, 1.0, 1.0, 1.0, 1000, 1.0, 48.5)], ENVIRONMENT)
    store.save(STORED)
    store.save_costs(measurement, costs)
    store.pack()
    assert not store.path(RUN).exists()
    for packed in (store, Store(tmp_path)):
        assert packed.load(RUN) == STORED
        assert packed.load_costs(measurement) == costs
        assert packed.names() == {store.path(RUN).stem}
    before = (tmp_path / "runs.jsonl.gz").read_bytes()
    store.pack()
    assert (tmp_path / "runs.jsonl.gz").read_bytes() == before
    later = replace(RESULT, run=replace(RUN, seed=1))
    store.save(Stored(later, ENVIRONMENT))
    store.pack()
    assert len(store.all()) == 2


def measured() -> tuple[Measurement, StoredCosts]:
    workload = Workload("mlp", "relu", (1, 8, 8), classes=10, batch_size=4)
    costs = StoredCosts([Cost("sgd", 4, 0.5, 1.0, 1.0, 1.0, 1000, 1.0, 48.5)], ENVIRONMENT)
    settings: dict[str, Any] = {"sgd": Settings(0.1)}
    return Measurement(workload, ("sgd",), 3, settings, "a CPU", threads=1), costs


def once_before(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, act: Callable[[], object]
) -> None:
    """Let something be done by another process right before a function is first called."""
    function, left = getattr(module, name), [act]

    def later(*arguments: Any) -> Any:
        while left:
            left.pop()()
        return function(*arguments)

    monkeypatch.setattr(module, name, later)


@pytest.mark.parametrize("packed_before", [False, True])
@pytest.mark.parametrize("read", ["all", "own", "all_costs"])
def test_what_is_packed_after_it_was_found_is_read(
    packed_before: bool, read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.save(STORED)
    store.save_costs(*measured())
    if packed_before:
        store.pack()
        store.save(STORED)
        store.save_costs(*measured())
    expected = getattr(store, read)()
    assert len(expected) == 1
    once_before(monkeypatch, store_module, "read_json", Store(tmp_path).pack)
    assert getattr(store, read)() == expected
    assert not list(tmp_path.glob("*/*.json"))


def test_what_is_packed_after_the_pack_was_read_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.all() == [], "there is no pack yet"
    for seed in range(3):
        run = replace(RUN, seed=seed)
        Store(tmp_path).save(Stored(replace(RESULT, run=run), ENVIRONMENT))
        Store(tmp_path).pack()
        assert len(store.all()) == len(store.own()) == len(store.names()) == seed + 1
        assert store.load(run) is not None


def test_a_pack_keeps_what_another_one_has_packed_meanwhile(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.all() == []
    Store(tmp_path).save(STORED)
    Store(tmp_path).pack()
    store.save(Stored(replace(RESULT, run=replace(RUN, seed=1)), ENVIRONMENT))
    store.pack()
    assert len(Store(tmp_path).all()) == 2


def test_what_is_packed_while_it_is_looked_at_needs_no_packing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path).save(STORED)
    once_before(monkeypatch, store_module, "read_json", Store(tmp_path).pack)
    assert Store(tmp_path).loose() == {}
    assert Store(tmp_path).all() == [STORED]


@pytest.mark.parametrize("read", ["all", "own", "all_costs"])
def test_what_is_deleted_after_it_was_found_is_told(
    read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.save(STORED)
    store.save_costs(*measured())
    path = store.costs_path(measured()[0]) if read == "all_costs" else store.path(RUN)
    once_before(monkeypatch, store_module, "read_json", path.unlink)
    with pytest.raises(StoreError, match=f"{path}: was deleted while it was to be read"):
        getattr(store, read)()


@pytest.mark.parametrize("act", ["save", "pack"])
def test_how_far_a_study_is_does_not_depend_on_who_is_at_work(
    act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(dataset="digits", methods=["lfp"], activations=["relu"], seeds=1)
    other, code = Store(tmp_path, "other"), Comparison().code
    other.save(STORED)
    Store(tmp_path, code).save(STORED)
    later = Stored(replace(RESULT, run=replace(RUN, seed=1)), ENVIRONMENT)
    left = [{"save": lambda: Store(tmp_path, code).save(later), "pack": other.pack}[act]]

    def patch(name: str) -> None:
        function = getattr(Store, name)

        def followed(store: Store) -> Any:
            found = function(store)
            while left:
                left.pop()()
            return found

        monkeypatch.setattr(Store, name, followed)

    patch("own")
    patch("names")
    monkeypatch.setattr(conduct, "collect", lambda plan, stored: {})
    told = conduct.status(Comparison(), options, tmp_path)
    assert not left
    assert told.of_other_code == 1


def test_a_file_of_another_version_is_named_with_the_way_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(STORED)
    record = json.loads(store.path(RUN).read_text())
    for version, way_out in ((0, "lfp-bench migrate"), (99, "newer version")):
        store.path(RUN).write_text(json.dumps({**record, "schema": version}))
        with pytest.raises(StoreError, match=way_out) as refused:
            store.load(RUN)
        assert store.path(RUN).name in str(refused.value)


def test_a_run_has_the_options_of_its_method() -> None:
    assert RUN.settings == LFPSettings(0.1, clip_norm=None)
    assert replace(RUN, method="sgd").settings == Settings(0.1, clip_norm=None)
    assert "epsilon" not in vars(replace(RUN, method="sgd").settings)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"epsilon": ', '"an_option_of_old": '),
        ('"method": "lfp"', '"method": "a_method_of_old"'),
        ('"method": "lfp"', '"method": "sgd"'),  # which used to have the options of LFP
    ],
)
def test_a_result_with_options_that_no_method_has_is_not_found(
    old: str, new: str, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    store.save(STORED)
    text = store.path(RUN).read_text()
    assert old in text
    store.path(RUN).write_text(text.replace(old, new))
    assert store.load(RUN) is None
    assert store.all() == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_not_finite_was_not_written_here(number: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(STORED)
    path = store.path(RUN)
    path.write_text(path.read_text().replace('"budget": null', f'"budget": {number}'))
    for read in (store.all, store.own, lambda: store.load(RUN)):
        with pytest.raises(StoreError, match=f"{path.name}: .*{number} is no finite number"):
            read()


def test_where_a_result_was_made_is_a_mapping(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(STORED)
    path = store.path(RUN)
    record = json.loads(path.read_text())
    environments: tuple[object, ...] = (None, [], 3, "text")
    for environment in environments:
        path.write_text(json.dumps({**record, "environment": environment}))
        with pytest.raises(StoreError, match=path.name):
            store.all()


@pytest.mark.parametrize("name", [None, 3, [], "../x.json", "runs/../x.json", "other/a-b.json", ""])
def test_a_pack_has_results_and_costs_alone(name: object, tmp_path: Path) -> None:
    line = json.dumps({"file": name, "content": {}})
    (tmp_path / PACKED).write_bytes(gzip.compress(line.encode()))
    for read in (Store(tmp_path).all, Store(tmp_path).all_costs, lambda: Store(tmp_path).load(RUN)):
        with pytest.raises(StoreError, match=PACKED):
            read()


def test_of_what_cannot_be_read_in_a_pack_the_pack_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    names = (store.path(RUN).relative_to(tmp_path).as_posix(), "costs/a-b.json")
    write_packed(tmp_path, {name: {"schema": 1} for name in names})
    for read in (store.all, store.all_costs, store.own, lambda: store.load(RUN)):
        with pytest.raises(StoreError, match=rf"{PACKED}: not a file that this harness wrote"):
            read()


def test_costs_with_the_options_of_older_code_are_not_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    workload = Workload("mlp", "relu", (1, 8, 8), classes=10, batch_size=4)
    measurement = Measurement(workload, ("sgd",), 3, {"sgd": Settings(0.1)}, "a CPU", threads=1)
    store.save_costs(measurement, StoredCosts([], {}))
    path = store.costs_path(measurement)
    record = json.loads(path.read_text())
    record["measurement"]["settings"] = {"learning_rate": 0.1, "epsilon": 1e-6}
    path.write_text(json.dumps(record))
    assert store.all_costs() == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_changes_nothing(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write(path, b"old")

    def fail(*arguments: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="full"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_waits_for_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(os, "fsync", lambda number: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        write(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_kill_in_between_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [letter * 3_000_000 for letter in (b"a", b"b")]
    code = (
        "import itertools, pathlib\n"
        "from benchmarks.storage.files import write\n"
        f"path = pathlib.Path({str(path)!r})\n"
        "for letter in itertools.cycle((b'a', b'b')): write(path, letter * 3_000_000)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(50):
            assert path.read_bytes() in contents
    finally:
        process.kill()
        process.wait()
    assert path.read_bytes() in contents


WHOLE = replace(RESULT, history=(Epoch(test=0.5, seconds=0.0), Epoch(test=1.0)), divergence=None)


def edited(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return the record with another value at a path; without it, if that is the ellipsis."""
    *down, last = path.split(".")
    at: Any = record
    for key in down:
        at = at[int(key) if isinstance(at, list) else key]
    if value is ...:
        del at[int(last) if isinstance(at, list) else last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return record


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("history", [], "history: 0 epochs, of a run of 1; allowed: 2"),
        ("history.1", ..., "history: 1 epochs, of a run of 1; allowed: 2"),
        ("history.1.test", 7.5, "history.1.test: 7.5; allowed: an accuracy in [0, 1]"),
        ("history.1.test", -1, "history.1.test: -1.0; allowed: an accuracy in [0, 1]"),
        ("history.1.test", "0.5", "history.1.test"),
        ("history.1.test", True, "history.1.test"),
        ("history.1.more", 1, "history.1.more"),
        ("history.0.overflowed", -1, "history.0.overflowed"),
        ("seconds", -1, "seconds"),
        ("steps", "4", "steps"),
        ("more", 1, "more"),
        ("run.more", 1, "more"),
        ("run.seed", True, "seed"),
        ("metric", "error", "loss and metric"),
        ("environment", {}, "commit"),
        ("environment.threads", "1", "threads"),
        ("environment.processor", ..., "processor"),
        ("environment.load", "high", "load"),
    ],
)
def test_a_result_that_no_run_can_have_is_refused(
    path: str, value: Any, told: str, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    store.save(Stored(WHOLE, ENVIRONMENT))
    file = store.path(RUN)
    assert store.load(RUN) is not None, "what is not edited is read"
    write_json(file, edited(json.loads(file.read_text()), path, value))
    with pytest.raises(StoreError, match="not a file that this harness wrote") as caught:
        Store(tmp_path).all()
    assert file.name in str(caught.value)
    assert f"({told}" in str(caught.value) or f": {told}" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("costs", []), ("costs.0.seconds", -1.0), ("costs.0.seconds", "1"), ("costs.0.x", 1)),
        *(("environment", {}), ("costs.0.macs", True), ("costs.0.method", 5)),
    ],
)
def test_costs_that_nothing_can_have_are_refused(path: str, value: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    workload = Workload("mlp", "relu", (1, 8, 8), classes=10, batch_size=4)
    measurement = Measurement(workload, ("sgd",), 3, {"sgd": Settings(0.1)}, "a CPU", threads=1)
    costs = StoredCosts([Cost("sgd", 4, 0.5, 1.0, 1.0, 1.0, 1000, 1.0, 48.5)], ENVIRONMENT)
    store.save_costs(measurement, costs)
    assert store.all_costs()
    file = store.costs_path(measurement)
    write_json(file, edited(json.loads(file.read_text()), path, value))
    with pytest.raises(StoreError, match=f"{file.name}: not a file that this harness wrote"):
        store.all_costs()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("0-0.json", '{"schema": 1}'),
        ("notes.json", '{"a": 1}'),
        ("null.json", "null"),
        ("0-0.json", '{"schema": 2}'),
        ("0-0.json", ""),
        ("Copy of.json", None),
        ("._0-0.json", None),
    ],
)
def test_what_a_pack_could_not_be_read_with_is_not_packed(
    name: str, content: str | None, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    store.save(STORED)
    foreign = tmp_path / "runs" / name
    foreign.write_text(store.path(RUN).read_text() if content is None else content)
    with pytest.raises(StoreError) as caught:
        store.pack()
    assert str(foreign) in str(caught.value)
    assert foreign.exists()
    assert store.path(RUN).exists()
    assert not (tmp_path / PACKED).exists()
    foreign.unlink()
    store.pack()
    assert Store(tmp_path).load(RUN) == STORED


def test_packs_one_behind_the_other_are_read_unless_they_differ(tmp_path: Path) -> None:
    other = Stored(replace(RESULT, run=replace(RUN, seed=7)), ENVIRONMENT)
    packs = {}
    for name, stored in (("one", STORED), ("other", other), ("anew", other)):
        steps = 5 if name == "anew" else 4
        Store(tmp_path / name).save(stored._replace(result=replace(stored.result, steps=steps)))
        Store(tmp_path / name).pack()
        packs[name] = (tmp_path / name / PACKED).read_bytes()
    (tmp_path / PACKED).write_bytes(packs["one"] + packs["other"] + packs["one"])
    assert sorted(stored.run.seed for stored in Store(tmp_path).all()) == [0, 7]
    (tmp_path / PACKED).write_bytes(packs["one"] + packs["other"] + packs["anew"])
    name = f"runs/{other.run.id}"
    with pytest.raises(StoreError, match=rf"{PACKED}.*{name}.* is there twice"):
        Store(tmp_path).all()


def test_a_pack_of_no_bytes_is_no_pack(tmp_path: Path) -> None:
    write_packed(tmp_path, {})
    assert Store(tmp_path).all() == [], "a pack of nothing has bytes"
    (tmp_path / PACKED).write_bytes(b"")
    with pytest.raises(StoreError, match=PACKED):
        Store(tmp_path).all()


def test_what_cannot_be_read_is_not_to_be_deleted(tmp_path: Path) -> None:
    for name, path in (("a", Path("runs")), ("b", Path(PACKED)), ("c", Path("runs", "file"))):
        store = Store(tmp_path / name)
        target = store.path(RUN) if path.name == "file" else store.folder / path
        target.parent.mkdir(parents=True)
        target.touch() if path.name == "runs" else target.mkdir()
        with pytest.raises(StoreError, match=r": cannot be read \((Is|Not) a directory\)$"):
            store.load(RUN)


@pytest.mark.parametrize("name", ["run.json", "table.md"])
def test_a_disk_that_can_only_be_read_is_told_with_the_name_of_the_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:  # as Linux does, also to delete
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only") as told:
        write(tmp_path / name, b"content")
    assert told.value.filename == str(tmp_path / name)


def test_a_write_that_fails_names_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=str(tmp_path / "file")) as caught,
        replacing(tmp_path / "file") as _,
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "file")
