"""Regression: splits, rewards against gradients, and the experiment."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from baselines import LFPSettings, Settings
from benchmarks.data import DataError
from benchmarks.experiments.base import Place
from benchmarks.experiments.kinds import EXPERIMENTS
from benchmarks.experiments.regression.data import DATASETS, diabetes, split
from benchmarks.experiments.regression.experiment import Regression
from benchmarks.experiments.regression.methods import METHODS, regressor
from benchmarks.experiments.regression.options import Options
from benchmarks.experiments.regression.report import differences_of
from benchmarks.experiments.regression.runs import Choice, Run, choose, splits, train
from benchmarks.runs.executors import Here, Worker
from benchmarks.storage.records import Record

CPU = torch.device("cpu")
SETTINGS = Settings(learning_rate=0.002, reduction="sum")
RUN = Run("final", "diabetes", "sgd", seed=0, epochs=2, batch_size=64, settings=SETTINGS)

# --- data -----------------------------------------------------------------------------------------


def test_inputs_are_scaled_by_the_training_split_alone() -> None:
    inputs, targets = diabetes()
    training, test = split(inputs, targets, 0.3, seed=0)
    assert (len(training), len(test)) == (309, 133)
    assert float(training.inputs.mean(dim=0).abs().max()) < 1e-6
    assert float((training.inputs.std(dim=0, correction=0) - 1).abs().max()) < 1e-6
    assert float(test.inputs.mean(dim=0).abs().max()) > 0.02, "as by the authors, on all data"
    whole = StandardScaler().fit_transform(inputs)
    together = torch.cat([training.inputs, test.inputs]).sort(dim=0).values
    assert not np.allclose(together, np.sort(whole, axis=0), atol=1e-3)


def test_no_example_is_in_two_splits_nor_lost() -> None:
    inputs = np.arange(50.0)[:, None]
    parts = split(inputs, inputs[:, 0], 0.3, seed=3)
    assert sorted(torch.cat([part.targets for part in parts]).tolist()) == list(range(50))
    same = split(inputs, inputs[:, 0], 0.3, seed=3)
    assert torch.equal(parts[1].targets, same[1].targets)
    assert not torch.equal(parts[1].targets, split(inputs, inputs[:, 0], 0.3, seed=4)[1].targets)


def test_a_sweep_never_sees_the_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    numbered = np.arange(100.0)[:, None], np.arange(100.0)
    monkeypatch.setitem(DATASETS, "diabetes", lambda: numbered)
    _, test = splits(RUN, seed=5)
    sweep = splits(Run(**{**vars(RUN), "kind": "sweep"}), seed=5)
    seen = set(torch.cat([part.targets for part in sweep]).tolist())
    assert len(seen) == 70
    assert not seen & set(test.targets.tolist())


def test_what_cannot_be_fetched_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setenv("LFP_DATA", str(tmp_path))
    monkeypatch.setattr("sklearn.datasets._california_housing._fetch_remote", unreachable)
    with pytest.raises(DataError, match=r"'california' could not be fetched to .*diabetes"):
        Regression().check(Options(dataset="california"))
    Regression().check(Options(dataset="diabetes"))  # there is no fallback, it has to be asked for


# --- rewards --------------------------------------------------------------------------------------


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(9, 4).double(), torch.rand(9).double() + 1


def filled(method: str, **changes: Any) -> list[Tensor]:
    """Return p.grad after one batch, in evaluation mode, in float64 and with epsilon 0."""
    model = regressor(4, seed=0).double().eval()
    settings = LFPSettings(1.0, **{"epsilon": 0.0, "reduction": "sum", **changes})
    METHODS[method](model, settings).fill_gradients(*batch())
    return [p.grad for p in model.parameters() if p.grad is not None]


def scaled_gradients(slope: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Return |w| times what backpropagation makes of dL/do = slope(o, y)."""
    model, (inputs, targets) = regressor(4, seed=0).double().eval(), batch()
    outputs = model(inputs)
    outputs.backward(slope(outputs.detach(), targets))
    return [p.detach().abs() * p.grad for p in model.parameters() if p.grad is not None]


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float((one - other).norm() / other.norm()) for one, other in pairs)


def squared(o: Tensor, y: Tensor) -> Tensor:
    return 2 * (o - y)


def cubic(o: Tensor, y: Tensor) -> Tensor:
    return -((y - o) ** 3) / o.abs()


def test_the_reward_of_the_squared_error_is_weight_scaled_gradient_descent() -> None:
    assert distance(filled("lfp-squared"), scaled_gradients(squared)) < 1e-10
    assert distance(filled("wsgd"), scaled_gradients(squared)) < 1e-10
    plain = filled("sgd")
    assert distance(plain, scaled_gradients(squared)) > 0.1, "|w| does not matter"


def test_the_cubic_reward_pushes_outputs_by_the_cube_over_their_magnitude() -> None:
    """r / o: the closer an output is to 0, the more it is pushed, which no loss of o - y does."""
    assert distance(filled("lfp-cubic"), scaled_gradients(cubic)) < 1e-10
    assert distance(filled("lfp-cubic"), scaled_gradients(squared)) > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_the_sum_over_a_batch_is_the_mean_times_its_size(method: str) -> None:
    mean = [9 * gradient for gradient in filled(method, reduction="mean")]
    assert distance(filled(method), mean) < 1e-12


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(method: str) -> None:
    first, last = [], []
    for seed in range(4):  # splits of so few patients differ in what can be learned from them
        changes = {"method": method, "seed": seed, "epochs": 10}
        run = Run(**{**vars(RUN), **changes, "settings": replace(SETTINGS, learning_rate=0.004)})
        record = train(run, CPU)
        assert not record["diverged"]
        assert len(record["errors"]) == 11
        variance = float(splits(run, seed=seed)[1].targets.var())
        first.append(record["errors"][0] / variance)
        last.append(record["errors"][-1] / variance)
    assert mean(last) < 0.9 < mean(first)


def test_a_run_is_reproducible() -> None:
    first, again = train(RUN, CPU), train(RUN, CPU)
    assert first["errors"] == again["errors"]
    assert train(Run(**{**vars(RUN), "seed": 1}), CPU)["errors"] != first["errors"]


def test_a_diverged_run_ends_with_what_was_finite() -> None:
    wild = Settings(learning_rate=1e30, clip_norm=None, reduction="sum")
    record = train(Run(**{**vars(RUN), "settings": wild}), CPU)
    assert record["diverged"]
    assert 1 <= len(record["errors"]) <= RUN.epochs


def tried(rate: float, last: float, diverged: bool = False) -> Record:
    run = {"settings": {"learning_rate": rate}}
    return {"run": run, "errors": [9.0, last], "diverged": diverged}


def test_the_lowest_mean_error_is_chosen() -> None:
    found = [tried(0.1, 1.0), tried(0.1, 5.0), tried(0.2, 2.0), tried(0.2, 2.0)]
    assert choose(found).learning_rate == 0.2
    wild = [tried(0.3, 0.1, diverged=True), tried(0.3, 0.1)]
    assert choose([*found, *wild]) == Choice(0.2, epoch=1)
    assert choose([tried(0.2, 1.0), tried(0.1, 1.0)]).learning_rate == 0.1


def test_the_epoch_is_that_with_the_lowest_mean_error_and_edges_are_told() -> None:
    def by(rate: float, *errors: float) -> Record:
        return {**tried(rate, 0.0), "errors": list(errors)}

    overfits = [by(0.1, 9, 1, 4, 2), by(0.1, 9, 6, 1, 2)]
    assert choose(overfits) == Choice(0.1, epoch=3), (
        "alone, 1 is the best of one and 2 of the other"
    )
    assert choose([*overfits, by(0.2, 9, 0.1, 5, 5)]) == Choice(0.1, 3, "lowest")
    assert choose([*overfits, by(0.2, 9, 0.1, 5, 1)]) == Choice(0.2, 1, "highest")
    assert choose([tried(0.1, 1.0, diverged=True)]) == Choice(0.1)


def test_methods_are_compared_at_their_chosen_epochs_and_few_pairs_are_tested() -> None:
    frame = pd.DataFrame(
        {"method": method, "seed": seed, "epoch": epoch, "test_mse": error + 10 * seed}
        for method, errors in {"lfp-squared": (3, 1), "sgd": (2, 5), "wsgd": (3, 1)}.items()
        for seed in range(4)
        for epoch, error in enumerate(errors, start=1)
    )
    choices = {"lfp-squared": Choice(0.1, 2), "sgd": Choice(0.1, 1), "wsgd": Choice(0.1, 2)}
    found = differences_of(frame, choices, epochs=2).set_index(["quantity", "methods"])
    assert found.loc[("test MSE, epoch 2", "lfp-squared - sgd"), "difference"] == -4
    assert found.loc[("test MSE, chosen epoch", "lfp-squared - sgd"), "difference"] == -1
    assert found.loc[("test MSE, chosen epoch", "lfp-squared - wsgd"), "difference"] == 0
    tested = found["p"].notna()
    assert set(found[tested].index.get_level_values("methods")) == {
        "lfp-squared - sgd",
        "wsgd - sgd",
    }
    assert found.loc[tested, "p_holm"].tolist() == pytest.approx([4 * 2 / 2**4] * 4)
    assert found.loc[~tested, "p_holm"].isna().all()


def test_the_experiment_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert EXPERIMENTS["regression"] is Regression
    options = Options(
        seeds=2,
        epochs=2,
        sweep_seeds=1,
        learning_rates=[0.001, 0.002],
        learning_rate={"sgd": 0.002},
        methods=["lfp-squared", "sgd"],
    )
    made, told = [], list[str]()
    here = Here(Worker(tmp_path, "cpu", 1))
    place = Place(CPU, told.append, lambda _: here, "the command")
    run_once = train

    def counted(run: Run, device: torch.device) -> Record:
        made.append(run)
        if len(made) == 4:
            raise KeyboardInterrupt
        return run_once(run, device)

    monkeypatch.setattr("benchmarks.experiments.regression.experiment.train", counted)
    with pytest.raises(KeyboardInterrupt):
        Regression().carry_out(options, tmp_path, place)
    assert Regression().status(options, tmp_path).done == 3
    told.clear()
    report = Regression().carry_out(options, tmp_path, place)
    assert len(made) == 4 + 3
    assert len(told) == Regression().steps(options) == 6
    assert len(report.rows) == 4
    text = (tmp_path / "table.md").read_text()
    assert "the command" in text
    assert "| lfp-squared - sgd |" in text
    assert (tmp_path / "test-error-by-epoch.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_other_options_or_code_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Here(Worker(tmp_path, "cpu", 1))
    place = Place(CPU, lambda _: None, lambda _: here, "the command")
    few: dict[str, Any] = {"seeds": 1, "epochs": 1, "methods": ["sgd"]}

    def done(**changes: Any) -> tuple[int, int]:
        told = Regression().status(Options(**{**few, **changes}), tmp_path)
        return told.done, told.of_other_code

    given = Options(**few, learning_rate={"sgd": 0.002})
    Regression().carry_out(given, tmp_path, place)
    assert done() == (1, 0)
    assert done(seeds=2) == (1, 0), "more seeds use those that there are"
    assert done(momentum=0.5) == done(epochs=2) == done(batch_size=64) == (0, 0)
    monkeypatch.setattr(Regression, "code", "other")
    assert done() == (0, 1)
    Regression().carry_out(given, tmp_path, place)
    assert done() == (1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "boston"}, "dataset: unknown name 'boston'"),
        ({"methods": ["lfp"]}, "methods: unknown name 'lfp'"),
        ({"learning_rates": [0.0]}, "learning_rate must be finite and > 0, not 0.0"),
        ({"momentum": 1.5}, "momentum must lie in"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Regression().runs(Options(**changes))
