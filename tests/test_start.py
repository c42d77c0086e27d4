"""How the command line starts: lists, help, mistyped names and TAB import nothing that is slow."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.testing import CliRunner

from benchmarks.cli import app, coverage, measurements, names
from benchmarks.cli.later import LaterGroup, Named
from benchmarks.costs import workloads
from benchmarks.data import DATASETS
from benchmarks.models import ACTIVATIONS, MODELS
from benchmarks.performance import steps
from benchmarks.storage.provenance import ROOT
from benchmarks.studies import written
from validation.coverage import suite

SLOW = {"torch", "torchvision", "scipy", "sklearn", "pandas", "matplotlib"}
#: Runs commands, and completes lines, in one process; tells of each what it imported that is slow.
PROGRAM = f"""
import io, json, os, sys
from contextlib import redirect_stderr, redirect_stdout, suppress
import lfp_bench

def slow():
    return {SLOW!r} & set(sys.modules)

found = []
for arguments, line in json.load(sys.stdin):
    before, printed, code = slow(), io.TextIOWrapper(io.BytesIO(), "utf-8"), 0
    sys.argv[1:] = arguments
    if line is not None:
        words = dict(COMP_WORDS=line, COMP_CWORD=str(len(line.split(" ")) - 1))
        os.environ.update(words, _LFP_BENCH_COMPLETE="complete_bash")
    try:
        with redirect_stdout(printed), redirect_stderr(io.StringIO()):
            lfp_bench.main()
    except SystemExit as left:
        code = left.code or 0
    for name in ("COMP_WORDS", "COMP_CWORD", "_LFP_BENCH_COMPLETE"):
        os.environ.pop(name, None)
    printed.flush()
    text = printed.buffer.getvalue().decode()
    found.append([sorted(slow() - before), text, code])
json.dump(found, sys.stdout)
"""
Command = TyperCommand | TyperGroup
#: What was imported that is slow, what was printed on stdout, and the exit code.
Found = tuple[list[str], str, int]


def started(
    *asked: str, tab: bool = False, cache: Path | None = None, path: Path | None = None
) -> list[Found]:
    """Run commands, or complete lines, in one process of its own.

    Args:
        asked: words after `lfp-bench`.
        tab: whether TAB is pressed after them.
        cache: of the user.
        path: where Python finds other packages.

    Returns:
        What came of each.
    """
    given = [([], f"lfp-bench {text}") if tab else (text.split(), None) for text in asked]
    folders = {} if cache is None else {"XDG_CACHE_HOME": str(cache)}
    if path is not None:
        folders["PYTHONPATH"] = os.pathsep.join([str(path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **folders},
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    )
    return [(slow, printed, code) for slow, printed, code in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache of a user who has asked before which options there are."""
    folder = tmp_path_factory.mktemp("cache")
    ((slow, first, _),) = started("compare --help", cache=folder)
    ((none, again, _),) = started("compare --help", cache=folder)
    assert ("torch" in slow, none) == (True, [])
    assert again == first
    return folder


def commands(group: TyperGroup, name: str = "") -> Iterator[tuple[str, Command]]:
    """Yield all commands, imported, with the words that call them; groups come before theirs."""
    for word in group.commands:
        _, command, _ = group.resolve_command(typer.Context(group), [word])
        assert isinstance(command, Command)
        assert not isinstance(command, Named)
        yield f"{name}{word}", command
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{name}{word} ")


@pytest.fixture(scope="module")
def every() -> dict[str, Command]:
    """Return all commands by the words that call them."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return dict(commands(group))


@pytest.mark.slow
def test_what_has_no_need_of_torch_does_not_import_it(
    cache: Path, every: dict[str, Command]
) -> None:
    expected = {f"{name} --help": 0 for name in every}
    expected |= {"--help": 0, "--version": 0, "list": 0, "lst": 2, "perf scling": 2}
    expected |= {"run toyy": 2, "status toyy": 2, "resume nowhere": 2, "run toy --sise smoke": 2}
    assert len(every) > 25
    found = dict(zip(expected, started(*expected, cache=cache), strict=True))
    assert {words: (slow, code) for words, (slow, _, code) in found.items()} == {
        words: ([], code) for words, code in expected.items()
    }


TABS = {
    "": "compare",
    "re": "resume report",
    "run to": "toy",
    "report to": "toy",
    "run toy --size ": "smoke cpu paper",
    "run toy --size smoke --part c": "circles",
    "run toy --part ": "blobs circles swirls",
    "run toy --jo": "--jobs",
    "compare --methods lfp,rstdp-": "lfp,rstdp-tuned lfp,rstdp-batched lfp,rstdp-dense",
    "compare --epsilon 0.1 --activations s": "silu sigmoid",
    "compare --max-n": "--max-norm",
    "compare --optimizer ": "sgd adam",
    "compare --model v": "vgg-like vit-tiny",
    "compare --dataset m": "mnist",
    "speed --models lenet,v": "lenet,vgg-like lenet,vit-tiny",
    "data f": "fashion-mnist",
    "perf sc": "scaling",
}


@pytest.mark.slow
def test_tab_completes_without_torch(cache: Path) -> None:
    for line, (slow, completions, code) in zip(
        TABS, started(*TABS, tab=True, cache=cache), strict=True
    ):
        assert (slow, code) == ([], 0), line
        assert set(TABS[line].split()) <= set(completions.split()), line
        if line:
            assert completions.split() == TABS[line].split(), line


@pytest.mark.slow
@pytest.mark.thorough  # of each kind, one is completed above
def test_no_tab_after_any_option_imports_torch(cache: Path, every: dict[str, Command]) -> None:
    lines = [f"{name} {typed}" for name in every for typed in ("", "-")]
    options = [
        f"{name} {option.opts[0]} "
        for name, command in every.items()
        for option in command.params
        if isinstance(option, TyperOption)
        and not option.is_flag
        and option.rich_help_panel is None  # the others are alike, and above is one of them
    ]
    assert len(options) > 90
    found = started(*lines, *options, tab=True, cache=cache)
    assert [line for line, (slow, *_) in zip([*lines, *options], found, strict=True) if slow] == []


def test_values_complete_without_torch_for_a_user_who_has_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    asked = ("compare --methods lf", "compare --dataset m")
    found = started(*asked, tab=True, cache=tmp_path / "file")
    assert found == [([], "lfp\n", 0), ([], "mnist\n", 0)]


def test_the_names_are_those_of_the_registries() -> None:
    assert list(ACTIVATIONS.own) == list(names.ACTIVATIONS)
    assert list(MODELS.own) == list(names.MODELS)
    assert list(DATASETS.own) == list(names.DATASETS)
    assert tuple(suite.GROUPS) == coverage.GROUPS
    assert workloads.PEER == measurements.PEER
    assert all(network in names.NETWORKS for network in (*MODELS.own, *steps.TORCHVISION))


def test_what_is_known_of_a_command_is_what_it_says_of_itself(every: dict[str, Command]) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, LaterGroup)
    assert len(group.later) > 15
    for name, known in group.later.items():
        assert " ".join((every[name].help or "").split("\n\n")[0].split()) == known.help, name


def test_every_command_is_in_the_list() -> None:
    """One that only its module enters would be missing until something else imports that."""
    group = typer.main.get_command(app)
    assert isinstance(group, LaterGroup)
    for word in group.later:
        group.resolve_command(typer.Context(group), [word])
    entered = typer.main.get_command(app)
    assert isinstance(entered, LaterGroup)
    assert [*entered.commands] == [*group.later]


def test_list_tells_titles_and_sizes_and_counts_runs_where_it_is_asked_to() -> None:
    runner = CliRunner(env={"COLUMNS": "200"})
    listed = runner.invoke(app, ["list"]).stdout
    for name in written.names():
        study = written.read_as(written.Written, name)
        (line,) = (line for line in listed.splitlines() if line.split()[:1] == [name])
        assert study.title in line
        assert ", ".join(study.sizes) in line
    assert "runs, smoke" not in listed


def test_sizes_of_a_file_of_ones_own_complete(tmp_path: Path) -> None:
    text = "title: t\nparts: {one: {}, two: {}}\nsizes: {gpu: {parts: [two]}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    line = f"run {tmp_path}/mine.yaml --size "
    sizes, parts = started(line, f"{line}gpu --part ", tab=True)
    assert (sizes[1].split(), parts[1].split()) == (["gpu"], ["two"])
