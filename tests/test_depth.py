"""The study of accuracy against depth: its networks, what is tuned, and norms before training."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.experiments.base import Found
from benchmarks.experiments.conduct import carry_out
from benchmarks.experiments.depth import Depth, Options
from benchmarks.experiments.depth import networks as module
from benchmarks.experiments.depth.networks import STRUCTURES, Residual, network
from benchmarks.experiments.depth.options import Cell
from benchmarks.experiments.depth.report import Reached, by_layer, norms_by_layer
from benchmarks.experiments.depth.runs import norms_of, runs_of, sweep_of, untrained
from benchmarks.models import ACTIVATIONS
from benchmarks.runs.run import Result
from benchmarks.runs.tuning import Choice
from tests.studies import place
from validation import networks as oracle_networks
from validation import oracle
from validation.compare import Feedback, relative_error
from validation.selection import examples

TOLERANCE = 1e-9
SMALL = Options(
    depths=[2, 3],
    structures=["both"],
    width=8,
    epsilons=[1e-6, 0.3],
    learning_rates=[0.03, 0.1],
    epochs=1,
    seeds=2,
)


def built(structure: str, depth: int, activation: str, seed: int, width: int = 4) -> nn.Sequential:
    """Return a small network in double precision."""
    made = network(
        structure, depth, width, ACTIVATIONS[activation], input_shape=(3,), classes=2, seed=seed
    )
    return made.double()


def as_the_oracle_knows_it(model: nn.Module) -> nn.Module:
    """Return the network with the modules that the oracle has a definition of, and its weights."""
    if isinstance(model, Residual):
        return oracle_networks.Residual(as_the_oracle_knows_it(model.body))
    if isinstance(model, nn.Sequential):
        return nn.Sequential(*map(as_the_oracle_knows_it, model))
    return model


def disagreement(structure: str, depth: int, activation: str, seed: int) -> float | None:
    """Return the relative error of LFP's feedback; None if a sum cancels too far to tell."""
    model = built(structure, depth, activation, seed)
    torch.manual_seed(seed)
    inputs, reward = torch.randn(3, 3).double(), torch.randn(3, 2).double()
    expected = oracle.run(as_the_oracle_knows_it(model), inputs, lambda _: reward, 0.01)
    if expected.condition > 1e5:
        return None
    model.zero_grad()
    with lfp.feedback(0.01):
        outputs = model(inputs)
    lfp.backward(outputs, reward)
    found: Feedback = {p: -p.grad for p in model.parameters() if p.grad is not None}
    return relative_error(found, expected.feedback)


@pytest.mark.parametrize("structure", STRUCTURES)
@examples(15)
@given(
    depth=st.integers(1, 6),
    activation=st.sampled_from(["relu", "tanh"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_feedback_of_every_structure_equals_the_oracle(
    structure: str, depth: int, activation: str, seed: int
) -> None:
    error = disagreement(structure, depth, activation, seed)
    assert error is None or error < TOLERANCE


def test_a_residual_that_counts_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(self: Residual, x: Tensor) -> Tensor:
        made: Tensor = 2 * x + self.body(x)
        return made

    monkeypatch.setattr(module.Residual, "forward", doubled)
    errors = [disagreement("residual", 3, "relu", seed) for seed in range(5)]
    assert max(error or 0.0 for error in errors) > 1e-2


def test_a_structure_is_what_it_says() -> None:
    x = torch.randn(5, 4).double()
    for name, (residual, normalised) in STRUCTURES.items():
        hidden = built(name, 2, "relu", 0)[3]
        body = hidden.body if isinstance(hidden, Residual) else hidden
        linear, *norm, _ = body.children()
        assert len(norm) == normalised
        z = linear(x)
        inner = torch.relu(nn.functional.layer_norm(z, (4,)) if normalised else z)
        torch.testing.assert_close(hidden(x), x + inner if residual else inner)


def test_structures_begin_with_the_same_weights() -> None:
    (settings_of_sgd, _) = SMALL.trials("sgd")
    cells = [Cell(name, 5, "sgd") for name in STRUCTURES]
    runs = [runs_of(cell, SMALL, settings_of_sgd, sweep=False)[0] for cell in cells]
    found = [[p for p in untrained(run, (3,), 2).parameters() if p.dim() > 1] for run in runs]
    assert {len(weights) for weights in found} == {6}
    for weights in found[1:]:
        assert all(map(torch.equal, weights, found[0]))


def test_norms_are_those_of_theorem_1() -> None:
    torch.manual_seed(0)
    model = built("residual", 4, "relu", 0, width=16)
    batch = torch.randn(6, 3).double(), torch.arange(6) % 2
    norms = norms_of(model, [0.0, 0.3], *batch)
    assert list(norms) == ["lfp, epsilon 0", "lfp, epsilon 0.3", "wsgd", "sgd"]
    assert {len(of_layers) for of_layers in norms.values()} == {5}
    assert norms["lfp, epsilon 0"] == pytest.approx(norms["wsgd"], rel=1e-9)
    assert norms["sgd"] != pytest.approx(norms["wsgd"], rel=0.1)
    damped = [a / b for a, b in zip(norms["lfp, epsilon 0.3"], norms["wsgd"], strict=True)]
    assert max(damped) < 1
    assert damped[0] < damped[-1]  # the more layers a reward passes, the less is left of it
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_every_cell_is_tuned_alike_and_reported(tmp_path: Path) -> None:
    kind = Depth()
    found, sections, _ = carry_out(kind, SMALL, tmp_path, place())
    assert len(found.runs) == kind.runs(SMALL) == 6 * (2 + 2)
    main, paired, _ = sections
    rows = main.tables[0].frame.to_dict("records")
    assert [(row["structure"], row["depth"], row["method"]) for row in rows] == SMALL.cells
    for row, cell in zip(rows, SMALL.cells, strict=True):
        tried = [found.runs[run].result for run in sweep_of(cell, SMALL)]
        assert row["validation_accuracy"] == max(result.validation or 0 for result in tried)
        assert {result.run.seed for result in tried} == {1000}
        assert row["seeds"] == 2
    assert [figure.name for figure in main.figures] == ["depth", "norms"]
    assert all(figure.draw().startswith(b"\x89PNG") for figure in main.figures)
    differences = paired.tables[0].frame
    assert differences["methods"].tolist() == ["lfp - wsgd", "lfp - sgd"]
    assert kind.sections(SMALL, Found()) == []


def test_a_norm_of_0_is_not_drawn() -> None:
    """A logarithm has no 0: a line begins where there is a norm, and one that is 0 has none."""
    cell = Cell("plain", 3, "lfp")
    choice = Choice(SMALL.trials("lfp")[0])
    norms = {"one": [0.0, 0.0, 1.0, 2.0], "none": [0.0] * 4}
    results = [
        Result(run, (), None, 0, 0.0, details={"norms": norms})
        for run in runs_of(cell, SMALL, choice.settings, sweep=False)
    ]
    found = norms_by_layer(SMALL, [Reached(cell, choice, results)])
    assert found["plain"]["one"].x.tolist() == [3, 4]
    assert found["plain"]["none"].x.size == 0
    assert by_layer(found).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structures": ["plane"]}, "structures: unknown name 'plane'; did you mean 'plain'?"),
        ({"structures": ["plain", "plain"]}, "structures: 'plain' is given twice"),
        ({"depths": [2, 2]}, "depths: 2 is given twice"),
        ({"methods": ["fa"]}, "methods: unknown name 'fa'"),
        ({"activation": "heaviside"}, "activation: 'heaviside'; allowed: those with a derivative"),
        ({"activation": "lif"}, "activation: 'lif'; allowed: those with a derivative"),
        ({"dataset": "digit"}, "dataset: unknown name 'digit'"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Depth().runs(SMALL.model_copy(update=changes))
