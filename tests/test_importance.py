"""What is lost without a weight, against removing each by hand; and the study of it."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks.analysis import importance
from benchmarks.analysis.importance import Effects, by_rank, correlations, effects, weights_of
from benchmarks.data import Split
from benchmarks.experiments.base import Found
from benchmarks.experiments.importance import METRICS, Importance, Options, Weighed, make
from benchmarks.runs.run import Run
from benchmarks.runs.store import Stored
from validation.selection import examples

CPU = torch.device("cpu")


def network(seed: int) -> nn.Sequential:
    """Return a small network with two kinds of layers and dropout, which is to be off."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = (nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5))
        return nn.Sequential(*first, nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3))


def images(seed: int, count: int = 11) -> Split:
    random = torch.Generator().manual_seed(seed)
    return Split(torch.randn(count, 1, 4, 4, generator=random), torch.arange(count) % 3)


def by_hand(model: nn.Module, split: Split) -> list[tuple[int, float, float, float]]:
    """Return the number of the layer, |w|, and what is lost of loss and accuracy, one by one."""
    exact, inputs = copy.deepcopy(model).double().eval(), split.inputs.double()

    @torch.no_grad()
    def measured() -> tuple[float, float]:
        logits = exact(inputs)
        right = sum(
            int(row.argmax()) == int(t) for row, t in zip(logits, split.targets, strict=True)
        )
        return float(F.cross_entropy(logits, split.targets)), right / len(split)

    (loss, accuracy), found = measured(), []
    for layer, weight in enumerate(weights_of(exact).values()):
        flat = weight.data.view(-1)
        for place in range(len(flat)):
            value = float(flat[place])
            flat[place] = 0
            loss_without, accuracy_without = measured()
            flat[place] = value
            lost = (loss_without - loss, accuracy - accuracy_without)
            found.append((layer, abs(value), *lost))
    return found


def largest_error(found: Effects, expected: list[tuple[int, float, float, float]]) -> float:
    rows = torch.tensor(expected, dtype=torch.float64).T
    measured = torch.stack([found.layers.double(), found.magnitude, found.loss, found.accuracy])
    return float((measured - rows).abs().max())


@examples(10)
@given(st.integers(0, 99))
def test_effects_are_those_of_removing_each_weight_by_hand(seed: int) -> None:
    model, split = network(seed), images(seed)
    assert largest_error(effects(model, split), by_hand(model, split)) < 1e-12


def test_parts_of_weights_and_examples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = network(0), images(0)
    monkeypatch.setattr(importance, "CHUNK", 4)
    monkeypatch.setattr(importance, "PAIRS", 12)  # three examples at once
    assert largest_error(effects(model, split), by_hand(model, split)) < 1e-12


def test_another_weight_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = network(0), images(0)
    expected, every = by_hand(model, split), list(range(18 + 10 + 15))
    assert largest_error(effects(model, split, every), expected) < 1e-12
    within = importance._within
    monkeypatch.setattr(
        importance, "_within", lambda drawn, start, size: (within(drawn, start, size) + 1) % size
    )
    assert largest_error(effects(model, split, every), expected) > 1e-3


def test_weights_are_numbered_through_the_layers() -> None:
    model, split = network(1), images(1)
    expected = by_hand(model, split)
    drawn = [40, 3, 20, 19]
    found = effects(model, split, drawn)
    assert (
        largest_error(found, [expected[number] for number in sorted(drawn, key=layer_of)]) < 1e-12
    )


def layer_of(number: int) -> int:
    """Return the layer of a weight, so that weights of one stay in the order that they come in."""
    return (number >= 18) + (number >= 28)


def test_the_model_stays_as_it_was() -> None:
    model = network(0).train()
    before = copy.deepcopy(model.state_dict())
    effects(model, images(0))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def lost(magnitude: list[float], loss: list[float], accuracy: list[float]) -> Effects:
    values = [torch.tensor(x, dtype=torch.float64) for x in (magnitude, loss, accuracy)]
    return Effects(torch.zeros(len(magnitude)), *values)


NUMBERS = st.lists(st.tuples(st.floats(0, 9), st.floats(-1, 1)), min_size=3, max_size=9)


@given(NUMBERS)
def test_the_authors_metric_is_pearsons_with_the_magnitude_of_the_change(
    pairs: list[tuple[float, float]],
) -> None:
    one, other = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True))
    found = correlations(lost(one.tolist(), [0.0] * len(one), other.tolist()))
    assert found.spearman_loss is None, "a constant correlates with nothing"
    x, y = one - one.mean(), other.abs() - other.abs().mean()
    scale = float(x.norm() * y.norm())
    if found.pearson_accuracy is not None and min(float(x.norm()), float(y.norm())) > 1e-3:
        assert found.pearson_accuracy == pytest.approx(float(x @ y) / scale, abs=1e-9)


def test_spearmans_asks_for_order_alone() -> None:
    magnitude = [1.0, 2.0, 3.0, 4.0]
    found = correlations(lost(magnitude, [0.0, 1.0, 10.0, 1e6], [0.0, -0.1, 0.2, -0.9]))
    assert found.spearman_loss == pytest.approx(1)
    assert found.spearman_accuracy == pytest.approx(1), "gained or lost is all the same"
    assert found.pearson_accuracy is not None
    assert found.pearson_accuracy < 0.95
    turned = correlations(lost(magnitude[::-1], [0.0, 1.0, 10.0, 1e6], [0.0, 0.1, 0.2, 0.9]))
    assert turned.spearman_loss == turned.spearman_accuracy == pytest.approx(-1)


@given(st.permutations(range(12)))
def test_ranks_are_parts_from_the_smallest_weight_up(order: list[int]) -> None:
    values = [float(number) for number in order]
    found = list(by_rank(lost(values, values, [-value for value in values]), 4))
    assert found == [1, 4, 7, 10]


# --- the study ------------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "dataset": "blobs",
    "methods": ["lfp", "sgd", "wsgd"],
    "learning_rate": {"lfp": 0.1, "sgd": 0.1, "wsgd": 0.1},
    "seeds": 3,
    "epochs": 2,
    "removed": 40,
}


def carried_out(options: Options) -> Found:
    runs = Importance().plan(options, {})
    found: dict[Run, Stored] = {run: Stored(make(run, CPU), {}) for run in runs}
    return Found(found)


def test_the_report_has_a_line_for_each_method_and_tests_what_it_said() -> None:
    options = Options(**{**TINY, "dataset": "digits", "epochs": 1, "removed": 200})
    main, statistics, *_ = Importance().sections(options, carried_out(options))
    _, rows = main.tables[0].lines
    assert [row[0] for row in rows] == ["lfp", "sgd", "wsgd"]
    assert main.figures[0].draw().startswith(b"\x89PNG")
    found = statistics.tables[0].frame
    tested = found[found["p"].notna()]["quantity"].unique()
    assert list(tested) == [METRICS["pearson_accuracy"], METRICS["spearman_loss"]]
    assert Importance().sections(options, Found()) == []


def test_all_weights_are_removed_unless_some_are_drawn() -> None:
    (run, *_) = Importance().plan(Options(**TINY), {})
    assert isinstance(run, Weighed)
    some, every = make(run, CPU), make(replace(run, removed=None), CPU)
    assert (some.details["weights"], every.details["weights"]) == (40, 2 * 32 + 32 * 16 + 16 * 2)
    assert len(every.details["layers"]) == 3
    assert len(every.details["by_rank"]) == 20


def test_training_ends_when_it_has_converged() -> None:
    (run, *_) = Importance().plan(Options(**{**TINY, "epochs": 9, "patience": 1, "fall": 5}), {})
    assert len(make(run, CPU).history) == 1 + 2


def test_a_diverged_run_is_left_out_and_told() -> None:
    options = Options(**{**TINY, "learning_rate": {**TINY["learning_rate"], "sgd": 1e30}})
    options = options.model_copy(update={"options": {"sgd": {"clip_norm": 0}}})
    table = Importance().sections(options, carried_out(options))[0].tables[0]
    assert set(table.frame["method"]) == {"lfp", "wsgd"}
    assert "Diverged, and left out: 3 of 9 runs." in table.notes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"patience": 2, "schedule": "one-cycle"}, "schedule: 'one-cycle'; allowed with patience"),
        ({"activations": ["relu", "tanh"]}, "activations: relu, tanh; allowed: one"),
        ({"activations": ["lif"]}, "activations: lif; allowed: one"),
        ({"methods": ["sdg"]}, "unknown name 'sdg'"),
        ({"fall": -1}, "fall"),
        ({"removed": 0}, "removed"),
    ],
)
def test_what_cannot_be_made_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Importance().runs(Options(**{**TINY, "learning_rate": {}, **change}))
