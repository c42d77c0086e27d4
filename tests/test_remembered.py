"""What commands remember from one start to the next, and when it counts no longer."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.cli import method_options, remembered

FOUND = [["epsilon", "float", "Of the rule.", "1e-06", []]]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the one module that is imported, changed long ago; nothing is remembered yet."""
    path = tmp_path / "module.py"
    path.write_text("first = 1\n")
    monkeypatch.setattr(remembered, "_imported", lambda: iter([str(path), "no such file"]))
    monkeypatch.setattr(remembered, "STARTED", path.stat().st_ctime_ns + 2 * remembered.GRAIN)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "lfp-bench").glob("*"))


def test_what_is_kept_is_recalled_until_a_module_changes(module: Path) -> None:
    assert remembered.recall("options") is None
    remembered.keep("options", FOUND)
    assert remembered.recall("options") == FOUND
    assert remembered.recall("others") is None
    before = module.stat()
    module.write_text("first = 2\n")  # as long as it was, and set back to the time that it had
    os.utime(module, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remembered.recall("options") is None


def test_a_module_that_is_gone_makes_it_forgotten(module: Path) -> None:
    remembered.keep("options", FOUND)
    module.unlink()
    assert remembered.recall("options") is None


def test_a_module_that_appears_where_none_was_makes_it_forgotten(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(module.parent)
    remembered.keep("options", FOUND)
    Path("no such file").touch()
    assert remembered.recall("options") is None


def test_nothing_is_kept_of_a_module_that_was_changed_after_the_start(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "STARTED", module.stat().st_ctime_ns)
    remembered.keep("options", FOUND)
    assert kept(module.parent) == []


def test_other_places_and_other_packages_are_remembered_apart(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered.keep("options", FOUND)
    monkeypatch.syspath_prepend(module.parent)
    assert remembered.recall("options") is None
    remembered.keep("options", FOUND)
    metadata = module.parent / "other-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[lfp_bench.methods]\nother = other:Other\n")
    assert remembered.recall("options") is None
    remembered.keep("options", FOUND)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.1\n")
    assert remembered.recall("options") is None
    assert len(kept(module.parent)) == 3


def test_environments_that_were_remembered_long_ago_make_room(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(remembered.MOST + 3):
        with monkeypatch.context() as other:
            other.setattr(sys, "path", [*sys.path, str(number)])
            remembered.keep("options", number)
    assert len(kept(module.parent)) == remembered.MOST
    monkeypatch.setattr(sys, "path", [*sys.path, str(remembered.MOST + 2)])
    assert remembered.recall("options") == remembered.MOST + 2


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"found": 1}', '{"files": 1, "found": 2}']
)
def test_a_file_that_is_not_what_was_written_is_as_none(module: Path, content: str) -> None:
    remembered.keep("options", FOUND)
    (path,) = kept(module.parent)
    path.write_text(content)
    assert remembered.recall("options") is None


def test_a_folder_that_cannot_be_had_is_no_error(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (module.parent / "file").touch()
    for name in (str(module.parent / "file"), "~nobody-of-this-name"):
        monkeypatch.setenv("XDG_CACHE_HOME", name)
        remembered.keep("options", FOUND)
        assert remembered.recall("options") is None


@pytest.fixture
def _without_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let it seem as if torch were not imported, as in a process that has just begun."""
    with monkeypatch.context() as other:
        other.delitem(sys.modules, "torch")
        yield


@pytest.mark.usefixtures("_without_torch")
@pytest.mark.parametrize(
    "found", [3, [3], [["epsilon"]], [["epsilon", "complex", "", "", []]], [[1, "int", "", "", []]]]
)
def test_what_does_not_describe_options_is_not_taken_for_them(module: Path, found: object) -> None:
    remembered.keep("options", found)
    assert method_options.known() == method_options.described(method_options.methods())
    (path,) = kept(module.parent)
    assert json.loads(path.read_bytes())["found"][0][0] == "momentum"


@pytest.mark.usefixtures("_without_torch")
def test_what_is_remembered_is_what_methods_declare(module: Path) -> None:
    first = method_options.known()
    assert kept(module.parent)
    assert method_options.known() == first


def test_a_process_with_torch_asks_the_methods_themselves(module: Path) -> None:
    """As they may be others than those of the packages: a script can register its own."""
    remembered.keep("options", [["of-old", "str", "", "", []]])
    names = [option.name for option in method_options.known()]
    assert "of-old" not in names
    assert "epsilon" in names
