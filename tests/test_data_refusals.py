"""Data that cannot be had, or is not what it has to be: one line that says what is allowed."""

import errno
import gzip
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.data import ARCHIVES, Archive, DataError, fetch, fetching


def refused(*arguments: str) -> str:
    """Give a command that must be refused; return its one line."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


# --- the folder of the data -----------------------------------------------------------------------

COMMANDS = [
    ("compare", "--dataset", "mnist"),
    ("diagnose", "--dataset", "mnist"),
    ("data", "mnist"),
    ("perf", "rstdp"),
    ("run", "rstdp"),
    ("run", "mine.yaml"),
]
STUDY = """title: a study
parts: {one: {dataset: cifar10}}
sizes: {cpu: {seeds: 1, epochs: 1}}
"""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("folder", ["/proc/lfp", "/dev/null", "a-file", "a-file/data", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(
    folder: str, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LFP_DATA", folder)
    (tmp_path / "a-file").touch()
    (tmp_path / "mine.yaml").write_text(STUDY)
    line = refused(*command)
    assert f"error: {folder}" in line
    assert "$LFP_DATA" in line
    assert not Path("results").exists()


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_a_home_that_nobody_has_is_named(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LFP_DATA", "~nobody-of-this-name/data")
    assert "~nobody-of-this-name/data" in refused(*command)
    assert "$LFP_DATA" in refused("data")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_named(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object, **options: object) -> TemporaryDirectory[str]:
        raise OSError(number, os.strerror(number), str(tmp_path / ".fetch-x"))

    monkeypatch.setenv("LFP_DATA", str(tmp_path))
    monkeypatch.setattr(fetching, "TemporaryDirectory", failing)
    line = refused("data", "mnist")
    assert f"error: {tmp_path / 'MNIST' / 'raw'}: {os.strerror(number)}" in line
    assert "$LFP_DATA" in line


def test_a_disk_that_fills_up_is_not_the_fault_of_a_source(tmp_path: Path) -> None:
    asked = []

    def full(folder: Path) -> Path:
        asked.append(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = replace(ARCHIVES["mnist"], sources={"one": full, "two": full})
    with pytest.raises(DataError, match=r"MNIST/raw: No space left on device; .*\$LFP_DATA"):
        fetch(archive, tmp_path)
    assert len(asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LFP_DATA", str(tmp_path))
    path = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.mkdir(parents=True)  # a folder instead of a file
    line = refused("data", "mnist")
    assert f"{path}: Is a directory" in line
    assert "$LFP_DATA" in line


def test_a_folder_that_cannot_be_looked_into_is_told_by_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path, **options: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setenv("LFP_DATA", str(tmp_path))
    monkeypatch.setattr(Path, "exists", forbidden)
    with pytest.raises(DataError, match=r"Permission denied.*\$LFP_DATA"):
        ARCHIVES["mnist"].is_there(tmp_path)
    assert "Permission denied" in refused("data")


def test_what_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bomb(folder: Path) -> Path:
        (folder / "a.gz").write_bytes(gzip.compress(bytes(10**6)))
        return folder

    monkeypatch.setattr(fetching, "LARGEST", 10**5)
    archive = Archive("Bomb", {"a": "0" * 64}, {"bomb": bomb})
    with pytest.raises(DataError, match="bomb: DataError: a: more than 100000 bytes"):
        fetch(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []
