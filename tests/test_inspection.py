"""What is kept of a trained network, against direct counting; and who has none."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from baselines import Settings
from benchmarks.data import Split, load
from benchmarks.runs.inspection import DECADES, SIDE, Inspection, gini, inspect
from benchmarks.runs.run import Run
from benchmarks.runs.store import Store, Stored
from benchmarks.runs.training import execute
from benchmarks.storage.provenance import describe

CPU = torch.device("cpu")
RUN = Run("final", "blobs", "toy-mlp", "lfp", "relu", 0, 2, 256, Settings(0.1))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_gini_is_half_the_relative_mean_difference(values: list[float]) -> None:
    x = np.array(values)
    mean = x.mean()
    expected = np.abs(x[:, None] - x[None, :]).mean() / (2 * mean) if mean > 1e-300 else 0.0
    if mean > 1e-300 or mean == 0:
        assert gini(x) == pytest.approx(expected, abs=1e-12)


def test_gini_of_uniform_weights_is_a_third() -> None:
    """The authors count ranks from 0 instead of 1, which is off by 2 / n and can fall below 0."""
    x = np.linspace(0, 1, 2001)
    assert gini(x) == pytest.approx(1 / 3, abs=1e-3)
    assert gini(np.ones(50)) == pytest.approx(0, abs=1e-12)
    from_zero = 2 * (np.arange(50) * np.ones(50)).sum() / (50 * 50) - 51 / 50
    assert from_zero < -0.03


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 7), nn.Tanh(), nn.Dropout(0.9), nn.Linear(7, 3)).double()


@pytest.fixture
def plane() -> Split:
    return Split(torch.rand(30, 2).double() * 4 - 1, torch.arange(30) % 3)


def test_layers_are_counted(network: nn.Sequential, plane: Split) -> None:
    nn.functional.cross_entropy(network(plane.inputs), plane.targets).backward()
    found = inspect(network, plane, 3)
    assert [layer.name for layer in found.layers] == ["0.weight", "3.weight"], "biases are no layer"
    for layer, name in zip(found.layers, ("0", "3"), strict=True):
        linear = network.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        assert linear.weight.grad is not None
        w, g = linear.weight.detach().flatten(), linear.weight.grad.flatten()
        assert sum(layer.weights) == layer.size == w.numel()
        assert layer.largest == w.abs().max()
        assert layer.weights[0] + layer.weights[-1] >= 1, "the largest is in an outermost bin"
        assert sum(layer.weights[20:]) == (w >= 0).sum()
        assert layer.small == pytest.approx(float((w.abs() < layer.largest / 4).double().mean()))
        assert layer.feedback is not None
        assert layer.silent == pytest.approx(float((g == 0).double().mean()))
        assert sum(layer.feedback) == (g != 0).sum()
        above = DECADES.tolist().index(-2.0)
        assert sum(layer.feedback[above:]) == (g.abs() >= 1e-2).sum()


def test_a_scaled_layer_has_the_same_shape(network: nn.Sequential, plane: Split) -> None:
    before = inspect(network, plane, 3).layers[0]
    weight = next(network.parameters()).data
    weight.mul_(8)
    after = inspect(network, plane, 3).layers[0]
    assert after == replace(before, largest=8 * before.largest)
    weight[0] = 0
    assert inspect(network, plane, 3).layers[0].gini > after.gini


def test_what_has_no_gradients_has_no_feedback(network: nn.Sequential, plane: Split) -> None:
    for layer in inspect(network, plane, 3).layers:
        assert layer.feedback is None
        assert layer.silent is None


def test_decisions_are_the_models(network: nn.Sequential, plane: Split) -> None:
    network.train()
    decisions = inspect(network, plane, 3).decisions
    assert network.training
    assert decisions is not None
    assert decisions.x[0] < plane.inputs[:, 0].min() < plane.inputs[:, 0].max() < decisions.x[1]
    assert len(decisions.classes) == SIDE**2
    network.eval()
    x, y = (np.linspace(*side, SIDE) for side in (decisions.x, decisions.y))
    for row, column in [(0, 0), (0, SIDE - 1), (SIDE - 1, 0), (17, 42)]:
        point = torch.tensor([[x[column], y[row]]], dtype=torch.float64)
        assert decisions.classes[row * SIDE + column] == str(int(network(point).argmax()))


def test_only_planes_with_ten_classes_at_most_have_decisions(network: nn.Sequential) -> None:
    wide = Split(torch.rand(5, 4), torch.zeros(5, dtype=torch.int64))
    assert inspect(nn.Linear(4, 3), wide, 3).decisions is None
    flat = Split(torch.rand(5, 2).double(), torch.zeros(5, dtype=torch.int64))
    assert inspect(network, flat, 11).decisions is None


def inspected(run: Run) -> Inspection | None:
    return execute(run, load(run.dataset, seed=run.seed), CPU).inspection


def test_runs_are_inspected_but_sweeps_and_diverged_ones() -> None:
    found = inspected(RUN)
    assert found is not None
    assert found.decisions is not None
    assert [layer.size for layer in found.layers] == [2 * 32, 32 * 16, 16 * 2]
    assert inspected(replace(RUN, kind="sweep")) is None
    hopeless = replace(RUN, method="sgd", settings=Settings(1e20, clip_norm=None))
    assert inspected(hopeless) is None


def test_seconds_add_up_over_the_epochs() -> None:
    result = execute(RUN, load("blobs"), CPU)
    seconds = [epoch.seconds for epoch in result.history]
    assert seconds[0] == 0
    assert seconds == sorted(set(seconds)), "each takes some"  # type: ignore[type-var]
    assert seconds[-1] == result.seconds


def test_an_inspection_is_stored_and_old_files_have_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stored = Stored(execute(RUN, load("blobs"), CPU), describe(CPU))
    store.save(stored)
    assert store.load(RUN) == stored
    record = json.loads(store.path(RUN).read_text())
    assert record["dead_at_start"]["trainable"] == record["dead_at_end"]["trainable"] == 6
    for new in ("inspection", "dead_at_start", "dead_at_end"):
        del record[new]
    for epoch in record["history"]:
        del epoch["seconds"]
    store.path(RUN).write_text(json.dumps(record))
    old = store.load(RUN)
    assert old is not None
    assert old.result.inspection is None
    assert (old.result.dead_at_start, old.result.dead_at_end) == (None, None)
    assert {epoch.seconds for epoch in old.result.history} == {None}
    assert asdict(old.result.run) == asdict(RUN)
