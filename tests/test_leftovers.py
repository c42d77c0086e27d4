"""What earlier commands have left in the folder of a study: old tables, and half-written files."""

import errno
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.experiments.conduct import write_part
from benchmarks.rendering.document import Chapter, Document, Figure, Section, Table
from benchmarks.storage import files
from benchmarks.storage.files import OLD, remove_leftovers, replacing, write, write_all
from benchmarks.studies.index import write_pages
from benchmarks.studies.page import write_document

NOTE = ".note"


def files_in(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not path.name.startswith(".")}


def write_these(folder: Path, *names: str) -> None:
    write_all(folder, {Path(name): name.encode() for name in names}, NOTE)


# --- files that were written together -------------------------------------------------------------


def test_what_is_not_written_again_is_deleted_and_a_file_of_ones_own_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("1")
    write_these(tmp_path, "a.csv", "b.csv", "tables/ä c.csv")
    write_these(tmp_path, "a.csv", "d.csv")
    assert files_in(tmp_path) == {"a.csv", "d.csv", "mine.csv"}
    write_these(tmp_path)
    assert files_in(tmp_path) == {"mine.csv"}


def test_what_somebody_has_changed_or_deleted_is_let_be(tmp_path: Path) -> None:
    write_these(tmp_path, "a.csv", "b.csv", "c.csv", "d.csv")
    (tmp_path / "b.csv").write_text("with remarks of one's own")
    (tmp_path / "c.csv").unlink()
    (tmp_path / "d.csv").unlink()
    (tmp_path / "d.csv").mkdir()
    write_these(tmp_path, "a.csv")
    assert files_in(tmp_path) == {"a.csv", "b.csv"}
    assert (tmp_path / "d.csv").is_dir()


def test_two_notes_do_not_know_of_each_other(tmp_path: Path) -> None:
    write_these(tmp_path, "a.csv")
    write_all(tmp_path, {Path("tables/a.csv"): b""}, ".other")
    write_these(tmp_path)
    assert files_in(tmp_path) == {"tables/a.csv"}


@pytest.mark.parametrize("name", ["../outside.csv", "inside/../../outside.csv", "{}/outside.csv"])
def test_a_note_does_not_lead_out_of_its_folder(name: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside.csv"
    (folder / "inside").mkdir(parents=True)
    outside.write_bytes(b"mine")
    digest = hashlib.sha256(b"mine").hexdigest()
    (folder / NOTE).write_text(f"{digest}  {name.format(tmp_path)}\n")
    write_these(folder)
    assert outside.exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a.csv\n", b"{}", b"0  a.csv", b"\n\n"])
def test_by_a_note_that_says_nothing_nothing_is_deleted(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1")
    (tmp_path / NOTE).write_bytes(content)
    write_these(tmp_path, "b.csv")
    assert files_in(tmp_path) == {"a.csv", "b.csv"}


# --- the tables and figures of a part, and of a report --------------------------------------------


def sections(names: Sequence[str], figures: Sequence[str] = ()) -> list[Section]:
    frame = pd.DataFrame({"seed": [0]})
    tables = [Table(name, name, (("seed",), [("0",)]), frame) for name in names]
    drawn = [Figure(name, lambda: b"<svg/>", name=name) for name in figures]
    return [Section("Found", tables=tables, figures=drawn)]


def test_a_part_has_the_tables_and_figures_of_the_last_command(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    first = write_part(tmp_path, sections(["results", "diverged"], ["curves"]), [], "a command")
    assert first == ["curves.svg", "diverged.csv", "results.csv", "table.md"]
    last = write_part(tmp_path, sections(["results", "layers"]), [], "another")
    assert last == ["layers.csv", "results.csv", "table.md"]
    assert files_in(tmp_path) == {*last, "notes.md"}


def test_a_report_has_its_own_tables_alone(tmp_path: Path) -> None:
    def report(*parts: Chapter) -> Document:
        return Document("A study", [], [], parts)

    one, other = (
        Chapter(name, name, [], sections(["results", "diverged"])) for name in ("one", "other")
    )
    write_part(tmp_path, sections(["diverged"]), [], "a command")
    write_document(report(one, other), tmp_path)
    (tmp_path / "tables" / "mine.csv").write_text("1")
    part = {"diverged.csv", "table.md"}
    page = {"report.html", "report.md", "report.tex"}
    write_document(report(Chapter("one", "one", [], sections(["results"]))), tmp_path)
    assert files_in(tmp_path) == {*part, *page, "tables/one-results.csv", "tables/mine.csv"}


# --- files that were being written ----------------------------------------------------------------


def ended() -> int:
    """Return the number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def half_written(folder: Path, process: int, *, host: str = "", age: float = 0.0) -> Path:
    """Return a file that a process was writing."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f".{host or files._host()}-{process}-{'0' * 32}.tmp"
    path.touch()
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_what_is_being_written_stays_and_the_rest_is_removed(tmp_path: Path) -> None:
    gone = ended()
    removed = [
        half_written(tmp_path, gone),
        half_written(tmp_path / "tables", gone),
        half_written(tmp_path / "old", os.getpid(), age=OLD + 60),
        half_written(tmp_path / "old", 1, host="0" * 8, age=OLD + 60),
    ]
    kept = [
        half_written(tmp_path, os.getpid()),
        half_written(tmp_path, os.getppid()),
        half_written(tmp_path, 1),
        half_written(tmp_path, gone, host="0" * 8),
        tmp_path / f".{'0' * 32}.tmp",  # as an older version called them
    ]
    kept[-1].touch()
    with replacing(tmp_path / "file") as file:
        file.write(b"whole")
        remove_leftovers(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert not [path for path in removed if path.exists()]
    assert [path for path in kept if not path.exists()] == []
    os.utime(kept[-1], (0, 0))
    remove_leftovers(tmp_path)
    assert not kept[-1].exists()


def test_a_report_removes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    gone, study = ended(), tmp_path / "study"
    elsewhere = half_written(tmp_path / "another", gone)
    left = [half_written(place, gone) for place in (tmp_path, study, study / "tables")]
    chapter = Chapter("one", "one", [], sections(["results"]))
    write_document(Document("A study", [], [], [chapter]), study)
    assert [path.exists() for path in left] == [True, False, False]
    write_pages([], tmp_path)
    assert not left[0].exists()
    assert elsewhere.exists(), "a folder that is no study of the report"


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_an_error_of_writing_names_the_file_once(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*names: object) -> None:
        told = [str(name) for name in names if isinstance(name, Path)]
        names_of_both = (told[0], None, told[1]) if told else ()  # as os.replace tells them
        raise OSError(errno.ENOENT, "No such file or directory", *names_of_both)

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(FileNotFoundError) as caught:
        write(tmp_path / "report.html", b"")
    assert str(caught.value) == f"[Errno 2] No such file or directory: '{tmp_path / 'report.html'}'"
