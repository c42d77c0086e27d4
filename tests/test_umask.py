"""Which mode stored files have is for the umask to say."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.experiments.comparison import study as study_module
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.files import remove_leftovers, replacing, write, write_json

QUICK = (
    *("compare", "--dataset", "blobs", "--methods", "lfp", "--activations", "relu"),
    *("--seeds", "1", "--epochs", "1", "--learning-rate", "lfp=0.1"),
)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("mask", "expected"), [(0o077, 0o600), (0o002, 0o664), (0o022, 0o644), (0o027, 0o640)]
)
def test_files_have_the_mode_that_the_umask_gives(mask: int, expected: int, tmp_path: Path) -> None:
    with umask(mask):
        write(tmp_path / "new" / "bytes", b"x")
        write_json(tmp_path / "json", {})
        Checkpoint(tmp_path / "checkpoint", {}).save({"x": torch.zeros(1)})
        with replacing(tmp_path / "figure") as file:
            file.write(b"x")
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name: mode(path) for path in paths} == dict.fromkeys(
        ("bytes", "json", "checkpoint", "figure"), expected
    )
    assert mode(tmp_path / "new") == 0o777 & ~mask
    with umask(0o022):  # a file that is written again has the mode of today
        write(tmp_path / "json", b"{}")
    assert mode(tmp_path / "json") == 0o644


@pytest.mark.slow
def test_a_study_is_as_private_as_the_umask_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study_module, "COST_REPEATS", 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    with umask(0o077):
        assert CliRunner().invoke(app, QUICK).exit_code == 0
        assert CliRunner().invoke(app, ["report", "blobs-toy-mlp"]).exit_code == 0
    paths = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert {".csv", ".json", ".md", ".png", ".html", ".tex"} <= {path.suffix for path in paths}
    assert {path.name for path in paths if mode(path) != 0o600} == set()


def test_a_name_as_long_as_a_name_may_be_is_written(tmp_path: Path) -> None:
    write(tmp_path / ("x" * 255), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 255]


def test_a_kill_leaves_what_was_there_and_what_it_had_begun_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from benchmarks.storage.files import replacing\n"
        "with replacing(Path('file')) as file:\n    file.write(b'half'); os._exit(1)\n"
    )
    write(tmp_path / "file", b"whole")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert (tmp_path / "file").read_bytes() == b"whole"
    (tmp_path / ".mine.tmp").touch()
    assert len(list(tmp_path.iterdir())) == 3
    remove_leftovers(tmp_path.parent)
    assert {path.name for path in tmp_path.iterdir()} == {"file", ".mine.tmp"}


def test_an_error_names_the_file_that_was_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(PermissionError) as caught:
        write(tmp_path / "report.html", b"")
    assert str(caught.value) == f"[Errno 13] Permission denied: '{tmp_path / 'report.html'}'"
