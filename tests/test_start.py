"""How the command line starts: lists, help, mistyped names and TAB import nothing that is slow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from baselines import FAMILIES, METHODS
from benchmarks.cli import app, coverage, measurements, names
from benchmarks.cli.later import LaterGroup, Named
from benchmarks.costs import workloads
from benchmarks.data import DATASETS
from benchmarks.models import ACTIVATIONS, MODELS
from benchmarks.performance import steps
from benchmarks.studies import written
from validation.coverage import suite

SLOW = {"torch", "torchvision", "scipy", "sklearn", "pandas", "matplotlib"}
PROGRAM = f"""
import atexit, sys
atexit.register(lambda: print(sorted({SLOW!r} & set(sys.modules)), file=sys.stderr))
import lfp_bench
lfp_bench.main()
"""


def imported(*arguments: str, line: str | None = None) -> tuple[list[str], str, int]:
    """Run a command, or complete a line.

    Args:
        arguments: of the command.
        line: what is typed when TAB is pressed.

    Returns:
        The slow packages that were imported, what was printed on stdout, and the exit code.
    """
    environment = dict(os.environ)
    if line is not None:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        environment.update(words, _LFP_BENCH_COMPLETE="complete_bash")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stderr.splitlines()[-1].strip("[]")
    return [name.strip("'") for name in told.split(", ") if name], done.stdout, done.returncode


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        ("list", 0),
        ("lst", 2),
        ("run --help", 0),
        ("speed --help", 0),
        ("run toyy", 2),
        ("status toyy", 2),
        ("resume nowhere", 2),
        ("run toy --sise smoke", 2),
        ("perf --help", 0),
        ("perf scling", 2),
    ],
)
def test_what_has_no_need_of_torch_does_not_import_it(command: str, code: int) -> None:
    found, _, left = imported(*command.split())
    assert (found, left) == ([], code)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("", "compare"),
        ("re", "resume report"),
        ("run to", "toy"),
        ("report to", "toy"),
        ("run toy --size ", "smoke cpu paper"),
        ("run toy --size smoke --part c", "circles"),
        ("run toy --part ", "blobs circles swirls"),
        ("run toy --jo", "--jobs"),
        ("compare --methods lfp,rstdp-", "lfp,rstdp-tuned lfp,rstdp-batched lfp,rstdp-dense"),
        ("compare --epsilon 0.1 --activations s", "silu sigmoid"),
        ("compare --model v", "vgg-like vit-tiny"),
        ("compare --dataset m", "mnist"),
        ("speed --models lenet,v", "lenet,vgg-like lenet,vit-tiny"),
        ("data f", "fashion-mnist"),
        ("perf sc", "scaling"),
    ],
)
def test_tab_completes_without_torch(line: str, offered: str) -> None:
    found, completions, code = imported(line=f"lfp-bench {line}")
    assert (found, code) == ([], 0)
    assert set(offered.split()) <= set(completions.split())
    if line:
        assert completions.split() == offered.split()


def test_tab_completes_the_options_of_methods_and_what_is_imported_for_them_is_noticed() -> None:
    found, completions, _ = imported(line="lfp-bench compare --max-n")
    assert completions.split() == ["--max-norm"]
    assert "torch" in found


def test_the_names_are_those_of_the_registries() -> None:
    assert list(METHODS.own) == list(names.METHODS)
    assert list(FAMILIES) == list(names.FAMILIES)
    assert list(ACTIVATIONS.own) == list(names.ACTIVATIONS)
    assert list(MODELS.own) == list(names.MODELS)
    assert list(DATASETS.own) == list(names.DATASETS)
    assert tuple(suite.GROUPS) == coverage.GROUPS
    assert workloads.PEER == measurements.PEER
    assert all(network in names.NETWORKS for network in (*MODELS.own, *steps.TORCHVISION))


def test_what_is_known_of_a_command_is_what_it_says_of_itself() -> None:
    listed = sorted(told(typer.main.get_command(app), "lfp-bench"))
    assert len(listed) > 15
    for name, known, own in listed:
        assert known == own, name


def told(group: object, name: str) -> list[tuple[str, str, str]]:
    """Return the commands of groups, with their known and their own first paragraphs."""
    if not isinstance(group, LaterGroup):
        return []
    context, found = typer.Context(group), []
    for word, one in group.later.items():
        _, command, _ = group.resolve_command(context, [word])
        assert not isinstance(command, Named)
        own = " ".join((command.help or "").split("\n\n")[0].split())
        found += [(f"{name} {word}", one.help, own), *told(command, f"{name} {word}")]
    return found


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
    line = f"lfp-bench run {tmp_path}/mine.yaml --size "
    assert imported(line=line)[1].split() == ["gpu"]
    assert imported(line=f"{line}gpu --part ")[1].split() == ["two"]
