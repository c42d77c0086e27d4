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
from benchmarks.data import DataError, Split
from benchmarks.experiments.conduct import carry_out, status
from benchmarks.experiments.kinds import EXPERIMENTS
from benchmarks.experiments.regression.data import DATASETS, diabetes, split
from benchmarks.experiments.regression.experiment import Regression
from benchmarks.experiments.regression.methods import METHODS, regressor
from benchmarks.experiments.regression.options import Options
from benchmarks.experiments.regression.report import differences_of
from benchmarks.experiments.regression.runs import (
    Choice,
    RegressionRun,
    choose,
    data_of,
    errors,
    train_regressor,
)
from benchmarks.runs import training
from benchmarks.runs.run import Divergence, Epoch, Result
from benchmarks.storage.checkpoint import Checkpoint
from tests.studies import place

CPU = torch.device("cpu")
SETTINGS = Settings(learning_rate=0.002, reduction="sum")
RUN = RegressionRun(
    kind="final",
    dataset="diabetes",
    model="regressor",
    method="sgd",
    activation="relu",
    seed=0,
    epochs=2,
    batch_size=64,
    settings=SETTINGS,
)


def measured_on(run: RegressionRun, seed: int) -> tuple[Split, Split]:
    """Return what a run trains on, and what it is measured on."""
    data = data_of(run, seed)
    return data.train, data.test if run.kind == "final" else data.validation


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
    _, test = measured_on(RUN, seed=5)
    sweep = measured_on(replace(RUN, kind="sweep"), seed=5)
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
        changes: dict[str, Any] = {"method": method, "seed": seed, "epochs": 10}
        run = replace(RUN, **changes, settings=replace(SETTINGS, learning_rate=0.004))
        result = train_regressor(run, CPU)
        assert not result.diverged
        assert len(errors(result)) == 11
        variance = float(measured_on(run, seed=seed)[1].targets.var())
        first.append(errors(result)[0] / variance)
        last.append(errors(result)[-1] / variance)
    assert mean(last) < 0.9 < mean(first)


def test_a_run_is_reproducible() -> None:
    first, again = train_regressor(RUN, CPU), train_regressor(RUN, CPU)
    assert errors(first) == errors(again)
    assert errors(train_regressor(replace(RUN, seed=1), CPU)) != errors(first)
    assert first.dead_at_start is not None
    assert first.history[1].train_loss is not None


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    checkpoint = Checkpoint(tmp_path / "run.pt", {})
    whole = train_regressor(replace(RUN, epochs=3), CPU)
    train_regressor(replace(RUN, epochs=2), CPU, checkpoint)  # a state from after one epoch
    assert checkpoint.path.exists()
    assert errors(train_regressor(replace(RUN, epochs=3), CPU, checkpoint)) == errors(whole)


def test_a_diverged_run_ends_with_what_was_finite() -> None:
    wild = Settings(learning_rate=1e30, clip_norm=None, reduction="sum")
    result = train_regressor(replace(RUN, settings=wild), CPU)
    assert result.diverged
    assert 1 <= len(errors(result)) <= RUN.epochs


def tried(rate: float, *measured: float, diverged: bool = False) -> Result:
    run = replace(RUN, kind="sweep", settings=replace(SETTINGS, learning_rate=rate))
    history = tuple(Epoch(validation=error) for error in (9.0, *measured))
    return Result(run, history, Divergence(1, "wild") if diverged else None, 1, 1.0)


def test_the_lowest_mean_error_is_chosen() -> None:
    found = [tried(0.1, 1.0), tried(0.1, 5.0), tried(0.2, 2.0), tried(0.2, 2.0)]
    assert choose(found).learning_rate == 0.2
    wild = [tried(0.3, 0.1, diverged=True), tried(0.3, 0.1)]
    assert choose([*found, *wild]) == Choice(0.2, epoch=1)
    assert choose([tried(0.2, 1.0), tried(0.1, 1.0)]).learning_rate == 0.1


def test_the_epoch_is_that_with_the_lowest_mean_error_and_edges_are_told() -> None:
    overfits = [tried(0.1, 1, 4, 2), tried(0.1, 6, 1, 2)]
    assert choose(overfits) == Choice(0.1, epoch=3), (
        "alone, 1 is the best of one and 2 of the other"
    )
    assert choose([*overfits, tried(0.2, 0.1, 5, 5)]) == Choice(0.1, 3, "lowest")
    assert choose([*overfits, tried(0.2, 0.1, 5, 1)]) == Choice(0.2, 1, "highest")
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

    def counted(run: RegressionRun, *rest: Any) -> Result:
        made.append(run)
        if len(made) == 4:
            raise KeyboardInterrupt
        return train_regressor(run, *rest)

    monkeypatch.setattr(Regression, "make", staticmethod(counted))
    monkeypatch.setattr(Regression, "code", "the code")
    with pytest.raises(KeyboardInterrupt):
        carry_out(Regression(), options, tmp_path, place())
    assert status(Regression(), options, tmp_path).done == 3
    found, *_ = carry_out(Regression(), options, tmp_path, place(told.append))
    assert len(made) == 4 + 3
    assert len(told) == Regression().steps(options) == 6
    assert len(Regression().sections(options, found)[0].tables[0].frame) == 4 * 3
    text = (tmp_path / "table.md").read_text()
    assert "the command" in text
    assert "| lfp-squared - sgd |" in text
    assert (tmp_path / "test-error-by-epoch.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_other_options_or_code_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few: dict[str, Any] = {"seeds": 1, "epochs": 1, "methods": ["sgd"]}

    def done(**changes: Any) -> tuple[int, int]:
        told = status(Regression(), Options(**{**few, **changes}), tmp_path)
        return told.done, told.of_other_code

    given = Options(**few, learning_rate={"sgd": 0.002})
    rate = {"learning_rate": {"sgd": 0.002}}
    carry_out(Regression(), given, tmp_path, place())
    assert done(**rate) == (1, 0)
    assert done(**rate, seeds=2) == (1, 0), "more seeds use those that there are"
    assert done(**rate, momentum=0.5) == done(**rate, epochs=2) == (0, 0)
    assert done(**rate, batch_size=64) == (0, 0)
    monkeypatch.setattr(Regression, "code", "other")
    assert done(**rate) == (0, 1)
    carry_out(Regression(), given, tmp_path, place())
    assert done(**rate) == (1, 1)


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
