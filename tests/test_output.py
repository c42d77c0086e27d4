"""Tables in a terminal: numbers are never cut, whatever its width and its characters."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.cli.output import print_table
from benchmarks.rendering import text

HEADER = ("activation", "method", "test accuracy %", "learning rate", "time / SGD", "diverged")
ROWS = [
    ("relu", "lfp", "96.3 ± 0.3", "0.3", "1.71", "0/3"),
    ("relu", "pso-torch-stable", "22.7 ± 5.3", "-", "44.79", "0/3"),
    ("lif", "sgd", "- (a spike has no derivative)", "-", "-", "-"),
]
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)?")


def printed(width: int, capsys: pytest.CaptureFixture[str], **options: object) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        print_table((HEADER, ROWS), ["a remark"], **options)  # type: ignore[arg-type]
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_what_is_shown_is_whole_and_what_is_not_is_named(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(width, capsys)
    assert "…" not in shown
    assert "..." not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert "96.3 ± 0.3" in shown
    hidden = re.search(r"Not shown: ([^.;]*?)(, for|;|\.)", " ".join(shown.split()))
    names = hidden[1].split(", ") if hidden else []
    for row in ROWS:
        for name, cell in zip(HEADER, row, strict=True):
            if name not in names and NUMBER.fullmatch(cell):
                assert cell in shown
    assert names == (["time / SGD", "diverged"] if width == 60 else [])


def test_columns_are_chosen_and_the_others_named(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(200, capsys, shown=HEADER[:3])
    assert "learning rate" not in shown.split("Not shown")[0]
    told = "Not shown: learning rate, time / SGD, diverged; --columns all shows them."
    assert told in " ".join(shown.split())


def test_without_a_terminal_nothing_is_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    wide = tuple(f"column number {i}" for i in range(40))
    print_table((wide, [tuple("123456.789" for _ in wide)]), [])
    shown = capsys.readouterr().out
    assert shown.count("123456.789") == 40


@pytest.mark.parametrize("columns", ["0", "00", "-3", "", "wide"])
def test_a_width_that_is_none_is_as_good_as_no_width(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_table((HEADER, ROWS), ["a remark"])
    shown = capsys.readouterr().out
    assert "Not shown" not in shown
    assert all(cell in shown for row in ROWS for cell in row if NUMBER.fullmatch(cell))


@pytest.mark.parametrize("columns", ["0", "000"])
def test_help_in_a_terminal_without_a_width_says_what_it_says_elsewhere(columns: str) -> None:
    shown = CliRunner().invoke(app, ["status", "--help"], env={"COLUMNS": columns})
    assert "--results" in shown.stdout


@pytest.mark.parametrize("width", [1, 7, 19])
def test_of_a_terminal_that_is_too_narrow_for_any_table_one_number_is_whole(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(width, capsys)
    assert all(name in shown for name in ("pso-torch-stable", "22.7 ± 5.3"))
    assert "diverged" in shown.partition("Not shown")[2]


@given(st.integers(0, 8), st.integers(20, 300))
def test_a_table_that_fits_is_as_narrow_as_it_says(more: int, width: int) -> None:
    header = (*HEADER, *(f"more {i}" for i in range(more)))
    rows = [(*row, *("1.234e+05" for _ in range(more))) for row in ROWS]
    (kept, _), left_out = text.fitted((header, rows), width)
    assert [*kept, *left_out] == list(header)
    least = text.least_width(text.selected((header, rows), kept))
    assert least <= width or list(kept) == list(HEADER[:3])


def test_a_stream_without_the_characters_gets_others(tmp_path: Path) -> None:
    code = (
        "from benchmarks.cli import app\nfrom benchmarks.cli.output import print_table\n"
        "@app.command()\ndef told():\n    print_table((('accuracy',), [('96.3 ± 0.3',)]), [])\n"
        "app(['told'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"96.3 ? 0.3" in done.stdout


LOUD = """
import os, subprocess, sys
from benchmarks.cli.output import json_alone, print_json
sys.stdout.write("before ")
with json_alone():
    print("by Python")
    os.write(1, b"by a library\\n")
    subprocess.run([sys.executable, "-c", "print('by a program')"])
    sys.__stdout__.write("by who looks for it\\n")
    sys.__stdout__.flush()
    print_json({"±": 1})
print("after")
"""


def test_what_libraries_and_programs_print_is_not_beside_the_json() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", LOUD], capture_output=True, check=True, env=environment
    )
    assert done.stdout.decode() == 'before {\n  "\\u00b1": 1\n}\nafter\n'
    told = ["by Python", "by a library", "by a program", "by who looks for it"]
    assert sorted(done.stderr.decode().splitlines()) == sorted(told)
