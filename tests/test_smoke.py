"""Every study that is shipped, at its smallest size, through the command line to its report."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.data import load
from benchmarks.experiments.comparison import study as study_module
from benchmarks.studies.plan import read
from benchmarks.studies.written import names

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without data, let costs be measured quickly, and threads be as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LFP_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(study_module, "COST_REPEATS", 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


def learned(parts: list[dict[str, Any]]) -> bool:
    """Return whether some method classifies clearly better than who always gives one answer."""
    found = {
        (part["options"].get("dataset", "digits"), row[column])
        for part in parts
        for row in part["rows"]
        for column in ("test_accuracy_mean", "test_accuracy")
        if row.get(column) is not None
    }
    return not found or any(
        accuracy > 1.5 * float(load(name).test.targets.bincount().max()) / len(load(name).test)
        for name, accuracy in found
    )


#: Other data or options of what the others do as well, and a ResNet of which test_transfer.py has a
#: small one.
ALIKE = {
    *("activations", "authors-epsilon", "cifar10", "epsilon", "gates", "initial-feedback", "lenet"),
    *("normalisation", "optimizers", "output-epsilon", "paper-swarm", "rewards", "snn"),
    *("snn-losses", "toy", "transfer", "units", "vit"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.thorough if name in ALIKE else ()) for name in names()],
)
def test_a_shipped_study_runs_at_its_smallest_size(name: str, tmp_path: Path) -> None:
    plan = read(name)
    wanted = list(plan.studies("smoke"))
    if plan.grid:  # whose points differ in numbers alone
        wanted = [wanted[0], wanted[-1]]
    asked = [name, "--size", "smoke", "--json", *(w for part in wanted for w in ("--part", part))]
    result = CliRunner().invoke(app, ["run", *asked])
    assert result.exit_code == 0, result.stderr
    parts = json.loads(result.stdout)["parts"]
    assert learned(parts), "nothing is learned that is worth a look"
    assert [part["part"] for part in parts] == wanted
    told = CliRunner().invoke(app, ["status", name, "--size", "smoke", "--json"])
    counts = {part["part"]: part for part in json.loads(told.stdout)["parts"]}
    for part in parts:
        counted = counts[part["part"]]
        folder = tmp_path / part["folder"]
        assert part["rows"]
        table = (folder / "table.md").read_text()
        assert re.match(r"(# .+\n\n)?\| ", table), "a table, with its caption or without"
        assert counted["done"] == counted["of"] > 0
        if part["experiment"] == "comparison":
            assert len(pd.read_csv(folder / "runs.csv")) == counted["of"]
            assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "data").exists(), "something was fetched"
