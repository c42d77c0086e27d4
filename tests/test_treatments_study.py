"""The study of what LFP's options do: it runs, and its tables say what is stored."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from benchmarks.data import load
from benchmarks.experiments.treatments import arms, llama, studies, trials
from benchmarks.experiments.treatments.llama import LlamaBudget
from benchmarks.experiments.treatments.networks import DENSE
from benchmarks.experiments.treatments.tables import (
    lines_of_llama,
    lines_of_norms,
    lines_of_training,
    row_of_training,
)
from benchmarks.experiments.treatments.trials import Budget
from benchmarks.models.llama import Llama
from benchmarks.rendering.text import Lines, markdown
from benchmarks.storage.provenance import ROOT
from tests.markdown import parse

pytestmark = pytest.mark.slow

SMALL = Budget("adam", (0.003, 0.01), (1e-6, 0.1), sweep_epochs=1, epochs=1, sweep_seeds=1, seeds=2)
#: The tables that the documentation quotes, and where it does.
QUOTED = {"gates": "activations.md", "units": "activations.md", "normalisation": "transformers.md"}


def stored(folder: Path, name: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads((folder / f"{name}.json").read_text())["runs"]
    return runs


def refused(*arguments: object) -> None:
    raise AssertionError("what is stored was made again")


def small_gates(folder: Path) -> str:
    budget = replace(SMALL, rates=(0.01,), epsilons=(1e-6,), seeds=1)
    trainings = [(("squeeze", "lstm"), budget)]
    return studies.gates(folder, trainings, [("regnet_y_400mf", 32)], seeds=1)


def small_units(folder: Path) -> str:
    networks = {"sigmoid": DENSE["sigmoid"]}
    return studies.units(folder, SMALL, networks)


def small_normalisation(folder: Path) -> str:
    budget = LlamaBudget(rates=(0.003, 0.01), seeds=1, steps=2, batch=2, context=16, blocks=2)
    return studies.normalisation(folder, budget)


@pytest.mark.parametrize("study", [small_gates, small_units, small_normalisation])
def test_a_study_runs_once_and_its_tables_are_made_of_what_is_stored(
    study: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = study.__name__.removeprefix("small_")
    text = study(tmp_path)
    assert (tmp_path / f"{name}.md").read_text() == text
    assert all("commit" in run["environment"] for run in stored(tmp_path, name))
    for module, made in ((trials, "train"), (llama, "train_llama"), (studies, "norms_of")):
        monkeypatch.setattr(module, made, refused)
    assert study(tmp_path) == text


def test_every_arm_has_as_many_trials_and_the_best_is_chosen(tmp_path: Path) -> None:
    ((_, (_, rows), _),) = parse(small_units(tmp_path))
    runs = stored(tmp_path, "units")
    assert [run["arm"] for run in runs] == [row[1] for row in rows] == list(arms.UNITS)
    for run, row in zip(runs, rows, strict=True):
        assert len(run["trials"]) == 4
        assert mean(run["chosen"]["validation"]) == max(
            mean(trial["validation"]) for trial in run["trials"]
        )
        assert row[5].startswith(f"{100 * mean(run['test_accuracy']):.1f} ± ")


def test_a_divergence_is_recorded_and_its_trial_counts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build() -> torch.nn.Module:
        model = DENSE["softplus"]()
        torch.nn.init.constant_(next(model.parameters()), float("nan"))
        return model

    data = load("digits")
    record = trials.study(build, {"units": "identity"}, SMALL, data)
    assert record["diverged"] == [1, 1]
    assert all(trial["validation"] == [0.0] for trial in record["trials"])
    assert row_of_training({"network": "", "arm": "", **record})[-1] == "2/2"


def test_the_small_llama_sees_no_character_before_its_time() -> None:
    torch.manual_seed(0)
    model = Llama(11, features=16, blocks=2, context=8)
    text = torch.randint(11, (1, 8))
    changed = text.clone()
    changed[0, 5] = (text[0, 5] + 1) % 11
    before, after = model(text), model(changed)
    assert torch.allclose(before[:5], after[:5])
    assert not torch.allclose(before[5:], after[5:])


@pytest.mark.parametrize("name", QUOTED)
def test_the_documentation_quotes_the_stored_tables(name: str) -> None:
    runs = stored(studies.FOLDER, name)
    tables = [table for _, table, _ in parse((studies.FOLDER / f"{name}.md").read_text())]
    documented = (ROOT / "docs" / QUOTED[name]).read_text()

    def of_optimizer(optimizer: str) -> list[dict[str, Any]]:
        return [run for run in runs if run.get("budget", {}).get("optimizer") == optimizer]

    of: dict[str, list[Callable[[], Lines]]] = {
        "gates": [
            lambda: lines_of_norms([run for run in runs if "model" in run]),
            lambda: lines_of_training(of_optimizer("sgd")),
            lambda: lines_of_training(of_optimizer("adam")),
        ],
        "units": [lambda: lines_of_training(runs)],
        "normalisation": [lambda: lines_of_llama(runs)],
    }
    for found, made in zip(tables, of[name], strict=True):
        header, rows = made()
        assert found == (tuple(header), [tuple(row) for row in rows])
        assert markdown((header, rows)) in documented
