"""Two weights: each step against its closed form, and the way that the study draws."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.data import Split
from benchmarks.experiments.base import Found
from benchmarks.experiments.two_weights import (
    METHODS,
    Options,
    TwoWeights,
    TwoWeightsRun,
    accuracy,
    descend,
    losses,
    network,
    points,
    reduction_of,
)
from benchmarks.experiments.two_weights import settings as descent
from benchmarks.runs.run import Run
from benchmarks.runs.store import Stored
from lfp_core.rewards import Reduction
from validation.selection import examples

CPU = torch.device("cpu")
RATE, EPSILON = 0.5, 1e-6
NUMBER = st.floats(-5, 5).filter(lambda x: x == 0 or abs(x) > 1e-3)
POINTS = st.lists(st.tuples(NUMBER, NUMBER, st.integers(0, 1)), min_size=1, max_size=5)
Array = NDArray[np.float64]


def closed_form(method: str, reduction: str, w: Array, x: Array, t: Array) -> Array:
    """Return the weights after a step, written down point by point."""
    total = np.zeros(2)
    for point, target in zip(x, t, strict=True):
        o = float(point @ w)
        push = target - 1 / (1 + np.exp(-o))
        if method == "lfp":
            share = o / (o + EPSILON * (1 if o >= 0 else -1))
            total += np.abs(w) * point * push * share
        else:
            total += point * push
    return w + RATE * total / (len(x) if reduction == "mean" else 1)


def stepped(method: str, reduction: Reduction, w: Array, x: Array, t: Array) -> Array:
    """Return the weights after a step of the study's method."""
    model = network((0.0, 0.0)).double()
    (weight,) = model.parameters()
    weight.data = torch.from_numpy(w)[None].clone()
    trainer = METHODS[method](model, descent(RATE, reduction))
    trainer.step(torch.from_numpy(x), torch.from_numpy(t))
    found: Array = weight.detach()[0].numpy()
    return found


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("method", list(METHODS))
@examples(30)
@given(start=st.tuples(NUMBER, NUMBER), drawn=POINTS)
def test_a_step_is_its_closed_form(
    method: str, reduction: Reduction, start: tuple[float, float], drawn: list[Any]
) -> None:
    w, x = np.array(start), np.array([point[:2] for point in drawn])
    t = np.array([point[2] for point in drawn])
    found = stepped(method, reduction, w, x, t)
    np.testing.assert_allclose(found, closed_form(method, reduction, w, x, t), atol=1e-12)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_one_method_or_reduction_is_not_the_other(reduction: Reduction) -> None:
    w, x, t = np.array([0.5, -2.0]), np.array([[1.0, 2.0], [-1.0, 0.5]]), np.array([1, 0])
    found = stepped("lfp", reduction, w, x, t)
    for method, other in (("sgd", reduction), ("lfp", "mean" if reduction == "sum" else "sum")):
        assert np.abs(found - closed_form(method, other, w, x, t)).max() > 0.05


@examples(30)
@given(value=NUMBER, drawn=POINTS)
def test_a_zero_weight_stays_exactly_zero_under_lfp_alone(value: float, drawn: list[Any]) -> None:
    w, x = np.array([0.0, value]), np.array([point[:2] for point in drawn])
    t = np.array([point[2] for point in drawn])
    assert stepped("lfp", "sum", w, x, t)[0] == 0
    moved = stepped("sgd", "sum", w, x, t)[0]
    assume(abs(closed_form("sgd", "sum", w, x, t)[0]) > 1e-9)
    assert moved != 0


def run_of(method: str, reduction: Reduction, start: tuple[float, float]) -> TwoWeightsRun:
    options = Options(starts=[start], reductions=[reduction], seeds=1)
    runs = {run.method: run for run in TwoWeights().plan(options, {})}
    run = runs[method]
    assert isinstance(run, TwoWeightsRun)
    return run


def test_a_run_keeps_its_way_and_is_repeatable() -> None:
    run = run_of("lfp", "sum", (0.0, 4.0))
    result = descend(run, CPU)
    way = result.details["way"]
    assert len(way) == result.steps + 1 == 1000 // 8 + 1
    assert {first for first, _ in way} == {0.0}
    assert result.test == 1
    assert descend(run, CPU).details == result.details
    assert descend(replace(run, seed=1), CPU).details != result.details
    assert min(
        first for first, _ in descend(run_of("sgd", "sum", (0.0, 4.0)), CPU).details["way"][1:]
    )


def test_averaged_rewards_do_not_bring_weights_over_zero_and_summed_ones_do() -> None:
    ends = {
        (method, reduction): descend(run_of(method, reduction, (-4.0, -4.0)), CPU)
        for method in METHODS
        for reduction in ("sum", "mean")
    }
    assert {cell: result.test for cell, result in ends.items()} == {
        ("lfp", "sum"): 1,
        ("lfp", "mean"): 0,
        ("sgd", "sum"): 1,
        ("sgd", "mean"): 1,
    }
    assert max(ends["lfp", "mean"].details["way"][-1]) < 0, "it shrinks, and does not cross"


def test_the_surface_is_the_loss_at_each_point() -> None:
    split = Split(torch.tensor([[1.0, 3.0], [-2.0, 0.5]]), torch.tensor([1, 0]))
    axis, found = losses(split, np.array([-1.0, 0.0, 2.0]))

    def at(w1: float, w2: float) -> float:
        o = split.inputs.double().numpy() @ np.array([w1, w2])
        signs = 2 * split.targets.numpy() - 1
        return float(np.log1p(np.exp(-signs * o)).mean())

    for row, w2 in enumerate(axis):
        for column, w1 in enumerate(axis):
            assert found[row, column] == pytest.approx(at(w1, w2), abs=1e-12)
    assert abs(found[0, 2] - at(-1.0, 2.0)) > 0.1, "w1 is across"


def test_an_output_of_zero_is_on_no_side() -> None:
    split = Split(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), torch.tensor([1, 1, 1]))
    assert accuracy(network((0.0, 2.0)), split) == pytest.approx(1 / 3)


def test_the_points_are_divided_by_a_line_through_the_origin() -> None:
    data = points(0)
    assert [len(s) for s in (data.train, data.test)] == [1000, 100]
    assert accuracy(network((1.0, 1.0)), data.train) == 1
    assert not torch.equal(data.train.inputs, points(1).train.inputs)


def test_the_report_has_a_line_for_each_way() -> None:
    options = Options(starts=[(0, 4), (-4, -4)], seeds=1)
    runs = TwoWeights().plan(options, {})
    found: dict[Run, Stored] = {
        run: Stored(descend(run, CPU), {}) for run in runs if isinstance(run, TwoWeightsRun)
    }
    (section,) = TwoWeights().sections(options, Found(found))
    ((header, rows), figure) = section.tables[0].lines, section.figures[0]
    assert len(rows) == 2 * 2 * 2
    last = {
        (row[0], row[1], row[2]): row[header.index("zero weight moved by at most")] for row in rows
    }
    assert last["sum", "lfp", "(0, 4)"] == last["mean", "lfp", "(0, 4)"] == "0 (exactly)"
    assert float(last["sum", "sgd", "(0, 4)"]) > float(last["mean", "sgd", "(0, 4)"]) > 0
    assert last["sum", "sgd", "(-4, -4)"] == "-"
    assert figure.draw().startswith(b"\x89PNG")
    assert TwoWeights().sections(options, Found()) == []
    assert {reduction_of(run) for run in runs} == {"sum", "mean"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"starts": [(0, 4), (0, 4)]}, r"starts: '\(0, 4\)' is given twice"),
        ({"reductions": ["sum", "sum"]}, "reductions: 'sum' is given twice"),
        ({"reductions": ["median"]}, "reductions"),
        ({"starts": [(0, float("nan"))]}, "starts"),
        ({"starts": [(1, 2, 3)]}, "starts"),
        ({"learning_rate": 0}, "learning_rate"),
    ],
)
def test_what_cannot_be_made_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TwoWeights().runs(Options.model_validate(change))
