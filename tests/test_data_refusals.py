"""Data that cannot be had, or is not what it has to be: one line that says what is allowed."""

import errno
import gzip
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.data import (
    ARCHIVES,
    DATASETS,
    Archive,
    DataError,
    Dataset,
    Split,
    fetch,
    fetching,
    load,
)


def refused(*arguments: str) -> str:
    """Give a command that must be refused; return its one line."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    *before, line = result.stderr.splitlines()
    assert all(" INFO " in told for told in before)
    assert line.startswith("error: ")
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


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        *(("/proc/lfp", command) for command in COMMANDS),
        *((f, COMMANDS[0]) for f in ("/dev/null", "a-file", "a-file/data", "x" * 300)),
    ],
)
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


# --- data sets of other packages ------------------------------------------------------------------


def good() -> dict[str, Any]:
    """Return the tensors of a small data set by split and field."""
    random = torch.Generator().manual_seed(0)
    return {
        part: {
            "inputs": torch.randn(6, 2, generator=random),
            "targets": torch.tensor([0, 1] * 3),
        }
        for part in ("train", "validation", "test")
    }


def dataset(tensors: Any, classes: Any = 2) -> Dataset:
    splits = {part: Split(**fields) for part, fields in tensors.items()}
    train, validation, test = splits.values()
    return Dataset("mine", train, validation, test, classes)


def changed(part: str, **fields: Any) -> Any:
    """Return the good tensors with others in one split."""
    tensors = good()
    tensors[part].update(fields)
    return tensors


WRONG: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: dataset(changed("train", inputs=torch.zeros(6, 2, dtype=torch.float64))),
        "inputs of train are torch.float64; allowed: torch.float32",
    ),
    (
        lambda: dataset(changed("test", inputs=torch.zeros(6, 2, dtype=torch.uint8))),
        "inputs of test are torch.uint8; allowed: torch.float32",
    ),
    (
        lambda: dataset(changed("train", targets=torch.zeros(6, dtype=torch.int32))),
        "targets of train are torch.int32; allowed: torch.int64",
    ),
    (
        lambda: dataset(changed("validation", targets=torch.zeros(6))),
        "targets of validation are torch.float32; allowed: torch.int64",
    ),
    (
        lambda: dataset(
            changed("validation", inputs=torch.zeros(0, 2), targets=torch.zeros(0).long())
        ),
        "validation is empty, as its inputs have the shape (0, 2); allowed: at least one",
    ),
    (
        lambda: dataset(changed("test", inputs=torch.zeros(6, 0))),
        "test is empty, as its inputs have the shape (6, 0)",
    ),
    (
        lambda: dataset(changed("train", inputs=torch.zeros(6))),
        "inputs of train have the shape (6,); allowed: (examples, features)",
    ),
    (
        lambda: dataset(changed("test", targets=torch.zeros(6, 1).long())),
        "targets: shape (6, 1) does not give one class to each of 6 inputs",
    ),
    (
        lambda: dataset(changed("test", targets=torch.zeros(5).long())),
        "targets: shape (5,) does not give one class to each of 6 inputs",
    ),
    (
        lambda: dataset(changed("test", inputs=torch.zeros(6, 3))),
        "an input of test has the shape (3,); allowed: that of train, (2,)",
    ),
    (
        lambda: dataset(changed("train", targets=torch.full((6,), 2))),
        "targets of train lie in [2, 2]; allowed: [0, 1]",
    ),
    (
        lambda: dataset(changed("test", inputs=torch.full((6, 2), float("nan")))),
        "inputs of test are not all finite",
    ),
    (
        lambda: dataset(changed("train", inputs=torch.zeros(6, 2).to_sparse())),
        "inputs of train are torch.sparse_coo; allowed: a dense tensor",
    ),
    (
        lambda: dataset(changed("train", inputs=torch.zeros(6, 2, requires_grad=True))),
        "inputs of train require a gradient",
    ),
    (
        lambda: dataset(changed("train", inputs=np.zeros((6, 2)), targets=np.zeros(6))),
        "inputs of train are a ndarray; allowed: a tensor of torch.float32",
    ),
    (lambda: dataset(good(), classes=1), "classes are 1; allowed: a whole number from 2"),
    (lambda: dataset(good(), classes=2.0), "classes are 2.0; allowed"),
    (lambda: dataset(good(), classes=None), "classes are None; allowed"),
    (lambda: Dataset("mine", None, None, None, 2), "train is a NoneType; allowed"),  # type: ignore[arg-type]
    (lambda: (1, 2), "a tuple was loaded; allowed: a benchmarks.data.Dataset"),
    (lambda: None, "a NoneType was loaded"),
    (lambda: os.environ["MISSING"], "cannot be loaded (KeyError: 'MISSING')"),
    (
        lambda: Path("/proc/none").read_bytes(),
        "cannot be loaded (FileNotFoundError: [Errno 2] No such file or directory: '/proc/none')",
    ),
    (lambda: 1 / 0, "cannot be loaded (ZeroDivisionError: division by zero)"),
]


@pytest.mark.parametrize(("made", "message"), WRONG)
def test_a_data_set_that_nothing_can_be_trained_on_is_refused(
    made: Callable[[], Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS.own, "mine", lambda name, seed, root: made())
    line = refused("compare", "--dataset", "mine", "--methods", "sgd", "--activations", "relu")
    assert "mine: " in line
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_good_data_set_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS.own, "mine", lambda name, seed, root: dataset(good()))
    assert load("mine").classes == 2
