"""Particle swarms: the costs of many networks at once, how swarms move, what they leave alone."""

import copy
import logging
import math
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import (
    parameters_to_vector,
    parametrizations,
    parametrize,
    prune,
    vector_to_parameters,
)

import lfp_core as lfp
from baselines import METHODS
from baselines.pso import (
    PAPER,
    PSO,
    STABLE,
    PaperTorchPSO,
    Pyswarms,
    Recipe,
    StableSwarmSettings,
    StableTorchPSO,
    Swarm,
    TorchSwarm,
)
from baselines.pso import swarms as pso
from baselines.pso import trainer as pso_trainer
from baselines.pso.pulls import Pulls
from baselines.swarm_fitness import SwarmFitness
from baselines.trainer import Settings
from benchmarks.costs.memory import peak_bytes
from benchmarks.data import Dataset, Split
from benchmarks.models import ACTIVATIONS, build
from benchmarks.runs.run import Divergence, Run
from benchmarks.runs.training import execute

SETTINGS = Settings(learning_rate=1.0)


def in_a_loop(model: nn.Module, positions: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the costs (particles,) one particle after the other, in the model's own layout."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    before, training = parameters_to_vector(trainable).detach(), model.training
    model.eval()
    costs = []
    with torch.no_grad():
        for position in positions:
            vector_to_parameters(position, trainable)
            costs.append(F.cross_entropy(model(inputs), targets))
        vector_to_parameters(before, trainable)
    model.train(training)
    return torch.stack(costs)


def problem(
    model: nn.Module, *shape: int, particles: int = 5, samples: int = 7
) -> tuple[Tensor, Tensor, Tensor]:
    """Return positions around 0, inputs and targets in float64 for a model with 3 classes."""
    torch.manual_seed(1)
    dimensions = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return (
        0.5 * torch.randn(particles, dimensions, dtype=torch.float64),
        torch.randn(samples, *shape, dtype=torch.float64),
        torch.randint(0, 3, (samples,)),
    )


# --- fitness --------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 20_000, 10**8], ids=["one by one", "chunks", "at once"])
@pytest.mark.parametrize(
    "activation", [name for name, kind in ACTIVATIONS.items() if not PSO.supports(kind)]
)
@pytest.mark.parametrize(("name", "shape"), [("mlp", (1, 6, 6)), ("lenet", (1, 28, 28))])
def test_the_costs_are_those_of_a_loop(
    name: str, shape: tuple[int, ...], activation: str, budget: int
) -> None:
    model = build(name, activation=activation, input_shape=shape, classes=3, seed=0).double()
    batch = problem(model, *shape, particles=3)
    expected = in_a_loop(model, *batch)
    torch.testing.assert_close(SwarmFitness(model, budget)(*batch), expected, rtol=1e-10, atol=0)
    assert expected.std() > 1e-3  # or there is nothing to tell apart


class Chain(nn.Sequential):
    """A Sequential with the forward pass of torch."""


class Dense(nn.Linear):
    """A layer with the forward pass of torch."""


UNUSUAL = {
    "stride, dilation, padding, no bias": nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=False),
        nn.GELU(),
        nn.MaxPool2d((2, 3), stride=(1, 2)),
        nn.Conv2d(3, 4, 2),
        nn.LeakyReLU(),
        nn.Flatten(),
        nn.Linear(4 * 2 * 3, 3),
    ),
    "nothing before, everything in between": nn.Sequential(
        nn.MaxPool2d(2),
        nn.Tanh(),
        nn.Sequential(nn.Identity(), nn.Flatten(), nn.ReLU()),
        nn.Dropout(0.5),
        nn.Linear(2 * 4 * 4, 5),
        nn.Softplus(),
        nn.Sequential(nn.Linear(5, 3, bias=False)),
    ),
    "one layer": nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, 3)),
    "convolution of a convolution": nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3), nn.MaxPool2d(3), nn.Flatten(),
        lfp.Heaviside(), nn.Linear(8, 3),
    ),
    "dense layers on images": nn.Sequential(
        nn.Linear(8, 6), nn.Tanh(), nn.MaxPool2d(2), nn.Linear(3, 5, bias=False), nn.Linear(5, 3),
        nn.MaxPool2d((1, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3),
    ),
    "a dense layer before a convolution": nn.Sequential(
        nn.Linear(8, 5), nn.SiLU(), nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(84, 3)
    ),
    "activations that fall": nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ELU(-1.5), nn.MaxPool2d(2), nn.Conv2d(3, 2, 2),
        nn.Softplus(threshold=0.1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)
    ),
    "activations that rise": nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ELU(1.5), nn.MaxPool2d(2), nn.Conv2d(3, 2, 2),
        nn.ELU(0.0), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)
    ),
    "a subclass with the forward pass of torch": nn.Sequential(
        Chain(nn.Flatten(), Dense(2 * 8 * 8, 4)), nn.Tanh(), Chain(Dense(4, 3))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_they_are_for_unusual_layers_too(name: str) -> None:
    model = UNUSUAL[name].double().train()
    batch = problem(model, 2, 8, 8)
    found = SwarmFitness(model, budget=5000)(*batch)
    torch.testing.assert_close(found, in_a_loop(model, *batch), rtol=1e-10, atol=0)
    assert model.training


@pytest.mark.parametrize("frozen", ["", "0.weight", "1.bias"])
@pytest.mark.parametrize("shape", [(6,), (4, 6), (1, 3, 6), (2, 1, 3, 6)])
def test_a_dense_layer_is_for_the_last_dimension(shape: tuple[int, ...], frozen: str) -> None:
    flat = math.prod(shape[:-1]) * 5
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 5), nn.Flatten(), nn.Linear(flat, 3))
    model = model.double()
    if frozen:
        model.get_parameter(frozen).requires_grad_(False)
    batch = problem(model, *shape)
    for budget in (1, 10**6):
        found = SwarmFitness(model, budget)(*batch)
        torch.testing.assert_close(found, in_a_loop(model, *batch), rtol=1e-10, atol=0)


@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_frozen_parameters_are_the_models(frozen: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    model.get_parameter(frozen).requires_grad_(False)
    batch = problem(model, 4)
    torch.testing.assert_close(SwarmFitness(model)(*batch), in_a_loop(model, *batch))


def test_a_tied_weight_is_one_weight() -> None:
    tied = nn.Linear(3, 3)
    model = nn.Sequential(tied, nn.Tanh(), tied).double()
    batch = problem(model, 3)
    torch.testing.assert_close(SwarmFitness(model)(*batch), in_a_loop(model, *batch))


@pytest.mark.parametrize("name", UNUSUAL)
def test_the_memory_that_it_states_is_enough(name: str) -> None:
    model = UNUSUAL[name].double()
    batch = problem(model, 2, 8, 8, particles=40, samples=500)
    fitness = SwarmFitness(model, budget=2 * 10**6)
    fitness(*batch)
    assert peak_bytes(lambda: fitness(*batch), torch.device("cpu")) < fitness.bytes_needed


@pytest.mark.parametrize("in_place", [False, True])
def test_inputs_are_not_changed(in_place: bool) -> None:
    first = nn.ELU(inplace=in_place)
    model = nn.Sequential(first, nn.Flatten(), nn.Linear(4, 3)).double()
    positions, inputs, targets = problem(model, 4)
    before, fitness = inputs.clone(), SwarmFitness(model)
    costs = fitness(positions, inputs, targets)
    assert inputs.equal(before)
    assert fitness(positions, inputs, targets).equal(costs)


def test_the_cost_of_no_samples_is_infinite() -> None:
    model = UNUSUAL["convolution of a convolution"].double()
    positions, inputs, targets = problem(model, 2, 8, 8)
    fitness = SwarmFitness(model)
    assert fitness(positions, inputs[:0], targets[:0]).tolist() == [math.inf] * 5
    assert fitness(positions[:0], inputs, targets).shape == (0,)


@pytest.mark.parametrize(
    ("layers", "shape", "told"),
    [
        ([nn.Linear(6, 3)], (4, 6), r"^model: .* outputs of shape \[4, 3\].*allowed: \[classes\]"),
        ([nn.Linear(6, 3)], (1, 6, 6), r"^model: .* outputs of shape \[1, 6, 3\]"),
        ([nn.MaxPool2d(1), nn.Flatten(), nn.Linear(12, 3)], (2, 6), r"^inputs: .*shape \[2, 6\]"),
        ([nn.Conv2d(2, 3, 1), nn.Flatten()], (2, 6), r"allowed: \[channels, height, width\]"),
        ([nn.Linear(6, 4), nn.Conv2d(2, 3, 1), nn.Flatten()], (2, 6), r"shape \[2, 4\]"),
    ],
)
def test_inputs_of_another_shape_are_refused(
    layers: list[nn.Module], shape: tuple[int, ...], told: str
) -> None:
    model = nn.Sequential(*layers).double()
    with pytest.raises(ValueError, match=told):
        SwarmFitness(model)(*problem(model, *shape))


def test_a_cost_that_is_not_a_number_is_infinite() -> None:
    model = nn.Sequential(nn.Linear(4, 3)).double()
    positions, inputs, targets = problem(model, 4)
    positions[2, 0] = float("nan")
    costs = SwarmFitness(model)(positions, inputs, targets)
    assert costs.isinf().tolist() == [False, False, True, False, False]


def test_a_cost_that_is_infinite_stays_so() -> None:
    """It is larger than all others, and no large number, or a divergence would not be noticed."""
    model = nn.Sequential(nn.Linear(4, 3)).double()
    positions, inputs, targets = problem(model, 4)
    huge = torch.zeros_like(positions[2])
    huge[-3:] = 1e308 * torch.tensor([-1.0, 1.0, 1.0])  # the biases: 1e308 - (-1e308) overflows
    positions[2] = huge
    costs = SwarmFitness(model)(positions, inputs, targets * 0)
    assert costs.tolist()[2] == float("inf")
    assert costs.isfinite().sum() == 4


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.MaxPool2d(3, padding=1),
    ],
)
def test_an_unknown_layer_is_refused(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"cannot evaluate"):
        SwarmFitness(nn.Sequential(layer, nn.Linear(4, 3)))


def residual(kind: type[nn.Module]) -> type[Any]:
    """Return a subclass whose forward pass adds the input."""
    added = {"forward": lambda self, x: x + kind.forward(self, x)}
    return type(f"Residual{kind.__name__}", (kind,), added)


class Scaled(nn.Conv2d):
    """A layer of which torch's forward pass calls something else."""

    def _conv_forward(self, *operands: Any) -> Tensor:
        return 2 * super()._conv_forward(*operands)


def with_own_forward(layer: nn.Module) -> nn.Module:
    """Return the layer with its forward pass exchanged."""
    layer.forward = torch.neg
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        residual(nn.Sequential)(nn.Linear(4, 4)),
        residual(nn.Linear)(4, 4),
        residual(nn.Conv2d)(2, 2, 1),
        residual(nn.ReLU)(),
        residual(nn.MaxPool2d)(1),
        residual(nn.Flatten)(),
        residual(nn.Dropout)(),
        residual(nn.Identity)(),
        Scaled(2, 2, 1),
        with_own_forward(nn.Linear(4, 4)),
        with_own_forward(nn.Identity()),
        with_own_forward(nn.Sequential(nn.Linear(4, 4))),
    ],
    ids=str,
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_forward_pass_that_is_not_torchs_is_refused(layer: nn.Module, nested: bool) -> None:
    model = nn.Sequential(nn.Sequential(layer), nn.Linear(4, 3)) if nested else layer
    with pytest.raises(ValueError, match="no trainable" if not _trains(model) else "forward pass"):
        SwarmFitness(model)


def _trains(model: nn.Module) -> bool:
    return next(model.parameters(), None) is not None


def made_of_others() -> dict[str, nn.Module]:
    """Return layers of which a weight or bias is no parameter."""
    linear, conv = (lambda: nn.Linear(4, 4)), (lambda: nn.Conv2d(2, 2, 1))
    constant: Any = linear()
    del constant.bias
    constant.bias = torch.zeros(4)
    hooked: Any = nn.utils
    return {
        "weight norm": parametrizations.weight_norm(linear()),
        "spectral norm": parametrizations.spectral_norm(conv()),
        "orthogonal": parametrizations.orthogonal(linear()),
        "its bias": parametrize.register_parametrization(linear(), "bias", nn.Tanh()),
        "pruned": prune.l1_unstructured(linear(), "weight", 0.5),
        "pruned bias": prune.random_unstructured(conv(), "bias", 0.5),
        "by a hook": hooked.spectral_norm(linear()),
        "constant": constant,
    }


@pytest.mark.parametrize("name", made_of_others())
def test_a_weight_that_is_no_parameter_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot evaluate .*(hooks|is no parameter)"):
        SwarmFitness(nn.Sequential(made_of_others()[name], nn.Linear(4, 3)))


def test_a_pruned_layer_that_was_made_plain_again_is_evaluated() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    prune.l1_unstructured(model[2], "weight", 0.5)
    prune.remove(model[2], "weight")
    parametrize.remove_parametrizations(model[0], "weight")
    model = model.double()
    batch = problem(model, 4)
    torch.testing.assert_close(SwarmFitness(model)(*batch), in_a_loop(model, *batch))


@pytest.mark.parametrize(
    "kind",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"],
)
@pytest.mark.parametrize("place", ["", "0", "0.1", "1"])
def test_a_model_with_hooks_is_refused(place: str, kind: str) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 3))
    handle = getattr(model.get_submodule(place), kind)(lambda *_: None)
    with pytest.raises(ValueError, match="it has hooks, which a swarm does not call"):
        SwarmFitness(model)
    handle.remove()
    SwarmFitness(model)


@pytest.mark.parametrize(
    "activation", [name for name, kind in ACTIVATIONS.items() if PSO.supports(kind)]
)
def test_what_the_swarm_says_it_refuses_is_refused(activation: str) -> None:
    model = build("mlp", activation=activation, input_shape=(4,), classes=3, seed=0)
    with pytest.raises(ValueError, match="cannot evaluate"):
        PaperTorchPSO(model, SETTINGS)


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        SwarmFitness(nn.Sequential(nn.Linear(4, 3)).requires_grad_(False))


# --- movement -------------------------------------------------------------------------------------


def squared_distance(positions: Tensor) -> Tensor:
    """Return a cost (particles,) with its minimum away from where the particles start."""
    return (positions.double() - torch.linspace(-0.5, 1.5, positions.shape[1])).square().sum(dim=1)


class SameNumbers(TorchSwarm):
    """With the random numbers of pyswarms: what its swarm drew, in the same order."""

    def __init__(self, recipe: Recipe, like: Tensor, seed: int) -> None:
        self.random = np.random.RandomState(seed)
        super().__init__(recipe, like, seed)

    def draw(self, out: Tensor) -> Tensor:
        """Fill the tensor."""
        return out.copy_(torch.from_numpy(self.random.uniform(0, 1, tuple(out.shape))))


SMALL = {
    "paper": replace(PAPER, particles=8),
    "stable": replace(STABLE, particles=8),
    "decaying": replace(PAPER, particles=8, decay=0.7, patience=2),
}


@pytest.mark.parametrize("recipe", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)], ids=str
)
def test_both_swarms_take_the_same_way(
    recipe: Recipe, dtype: torch.dtype, tolerance: float
) -> None:
    like = torch.empty(6, dtype=dtype)
    ours, theirs = SameNumbers(recipe, like, seed=3), Pyswarms(recipe, like, seed=3)
    start = theirs.positions.clone()
    for _ in range(20):
        for swarm in (ours, theirs):
            swarm.judge(squared_distance(swarm.positions))
            swarm.move()
        scale = float(theirs.positions.abs().max())
        assert (ours.positions - theirs.positions).abs().max() < tolerance * scale
        assert (ours.best_positions - theirs.best_positions).abs().max() < tolerance * scale
        torch.testing.assert_close(
            ours.best()[1].double(), theirs.best()[1], rtol=tolerance, atol=0
        )
    assert (theirs.positions - start).abs().max() > 0.1


@pytest.mark.parametrize("recipe", [SMALL["paper"], SMALL["stable"]], ids=["paper", "stable"])
def test_the_way_is_that_of_pyswarms_own_loop(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    swarm = Pyswarms(recipe, torch.empty(6), seed=3)
    (tmp_path / "logging.yaml").write_text("{version: 1, incremental: true}")
    monkeypatch.setenv("LOG_CFG", str(tmp_path / "logging.yaml"))
    theirs = import_module("pyswarms.single").GlobalBestPSO(
        n_particles=recipe.particles,
        dimensions=6,
        options={"w": recipe.inertia, "c1": recipe.cognitive, "c2": recipe.social},
        bounds=swarm.bounds,
        bh_strategy="nearest",
        velocity_clamp=swarm.clamp,
        init_pos=swarm.positions.numpy().copy(),
    )
    theirs.swarm.velocity = swarm.state.velocity.copy()
    callers = np.random.get_state()
    np.random.set_state(swarm.random_state)
    cost, position = theirs.optimize(
        lambda x: squared_distance(torch.from_numpy(x)).numpy(), iters=20, verbose=False
    )
    np.random.set_state(callers)
    for _ in range(20):
        swarm.judge(squared_distance(swarm.positions))
        swarm.move()
    best, best_cost = swarm.best()
    assert np.array_equal(swarm.positions.numpy(), theirs.swarm.position)
    assert np.array_equal(best.numpy(), position)
    assert float(best_cost) == cost


@pytest.mark.parametrize("swarm_type", [TorchSwarm, Pyswarms])
def test_stable_swarms_keep_to_their_limits(swarm_type: type[Swarm]) -> None:
    swarm = swarm_type(replace(STABLE, particles=8, bound=0.25), torch.empty(6), seed=0)
    assert 0.05 < swarm.positions.abs().max() <= STABLE.start
    fastest = 0.0
    for _ in range(120):
        before = swarm.positions.clone()
        swarm.judge(-swarm.positions.sum(dim=1))  # better the farther out
        swarm.move()
        fastest = max(fastest, float((swarm.positions - before).abs().max()))
    assert fastest == pytest.approx(STABLE.speed_limit)
    assert float(swarm.positions.abs().max()) == 0.25


@pytest.mark.parametrize("swarm_type", [TorchSwarm, Pyswarms])
def test_what_was_lucky_on_another_batch_is_judged_again(swarm_type: type[Swarm]) -> None:
    swarm = swarm_type(replace(STABLE, particles=8), torch.empty(6), seed=0)
    swarm.judge(torch.zeros(8))
    swarm.move()
    swarm.judge(torch.ones(8))
    assert swarm.best()[1] == 0
    places = swarm.best_positions.clone()
    swarm.revise(torch.arange(2.0, 10.0))
    swarm.judge(torch.tensor([inf := float("inf"), inf, inf, 1.0, inf, inf, inf, inf]))
    best, cost = swarm.best()
    assert cost == 1
    assert best.equal(swarm.positions[3])
    assert swarm.best_positions[0].equal(places[0])
    assert swarm.best_costs[0] == 2


# --- costs that are not finite --------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
#: Costs of eight particles, step by step; none of the first is finite, or some are, or of the last.
ACCIDENTS: dict[str, list[list[float]]] = {
    "none at first": [[NAN, INF, -INF, NAN, NAN, INF, NAN, -INF], [3, 2, NAN, 5, 4, -INF, 9, INF]],
    "some": [[7, NAN, 3, -INF, 5, 4, INF, 6], [NAN, 2, NAN, -INF, 4, NAN, 9, 2.5]],
    "none later": [[7, 8, 3, 1, 5, 4, 2, 6], [NAN] * 8, [-INF] * 8],
    "never": [[NAN] * 8, [-INF] * 8, [INF] * 8],
}


def way(swarm: Swarm, costs: list[list[float]]) -> list[tuple[Tensor, ...]]:
    """Return all that a swarm knows after each judgement, and the positions after each move."""
    points = []
    for step in costs:
        swarm.judge(torch.tensor(step))
        known = (*swarm.best(), swarm.best_positions, swarm.best_costs)
        swarm.move()
        points.append(tuple(part.double().clone() for part in (*known, swarm.positions)))
    return points


@pytest.mark.parametrize("recipe", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("accident", ACCIDENTS)
def test_both_swarms_take_the_same_way_around_costs_that_are_not_finite(
    accident: str, recipe: Recipe
) -> None:
    like, costs = torch.empty(6, dtype=torch.float64), ACCIDENTS[accident]
    ours, theirs = (way(kind(recipe, like, seed=3), costs) for kind in (SameNumbers, Pyswarms))
    for step, pair in enumerate(zip(ours, theirs, strict=True), start=1):
        for a, b in zip(*pair, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
        best, cost, places, best_costs, positions = pair[0]
        assert all(part.isfinite().all() for part in (best, places, positions))
        seen = torch.tensor(costs[:step], dtype=torch.float64)
        expected = seen.masked_fill(~seen.isfinite(), INF).amin(dim=0)
        assert best_costs.equal(expected)
        assert cost == expected.min()


@pytest.mark.parametrize("swarm_type", [TorchSwarm, Pyswarms])
def test_a_swarm_that_believed_such_costs_is_caught(
    swarm_type: type[Swarm], monkeypatch: pytest.MonkeyPatch
) -> None:
    like = torch.empty(6)
    swarm = swarm_type(SMALL["stable"], like, seed=3)
    swarm.judge(torch.tensor(ACCIDENTS["some"][0]))
    assert swarm.best()[1] == 3
    monkeypatch.setattr(pso, "comparable", lambda costs: costs)
    swarm = swarm_type(SMALL["stable"], like, seed=3)
    swarm.judge(torch.tensor(ACCIDENTS["some"][0]))
    assert swarm.best()[1] != 3


@pytest.mark.parametrize("swarm_type", [TorchSwarm, Pyswarms])
def test_a_batch_without_finite_costs_leaves_the_memory_of_places(
    swarm_type: type[Swarm],
) -> None:
    swarm = swarm_type(SMALL["stable"], torch.empty(6), seed=0)
    swarm.judge(torch.arange(8.0, 0.0, -1.0))
    swarm.move()
    places = swarm.best_positions.clone()
    swarm.revise(torch.full((8,), NAN))
    swarm.judge(torch.full((8,), -INF))
    best, cost = swarm.best()
    assert float(cost) == INF
    assert best.equal(places[0])
    assert swarm.best_positions.equal(places)
    swarm.move()
    swarm.revise(torch.tensor([NAN, 4.0, 3.0, INF, -INF, 9.0, 8.0, 7.0]))
    swarm.judge(torch.full((8,), NAN))
    best, cost = swarm.best()
    assert float(cost) == 3
    assert best.equal(places[2])


def test_a_pull_decays_where_its_best_position_has_not_changed_for_a_while() -> None:
    pulls = Pulls(replace(PAPER, particles=2, decay=0.5, patience=3), torch.empty(0))
    for _ in range(3):
        pulls.note(torch.tensor([True, False]), torch.tensor(True))
    assert pulls.cognitive.tolist() == [1, 0.5]
    assert float(pulls.social) == 1
    for _ in range(3):
        pulls.note(torch.tensor([False, False]), torch.tensor(False))
    assert pulls.cognitive.tolist() == [0.5, 0.0625]
    assert float(pulls.social) == 0.5
    pulls.note(torch.tensor([True, True]), torch.tensor(True))
    assert pulls.cognitive.tolist() == [0.5, 0.0625], "it stays, and is not put back"
    pulls.note(torch.tensor([False, False]), torch.tensor(False))
    assert pulls.cognitive.tolist() == [0.5, 0.0625], "the count begins again"


# --- trainers -------------------------------------------------------------------------------------


class FewPyswarms(PSO):
    """A small swarm of pyswarms."""

    name: ClassVar[str] = "few"
    recipe: ClassVar[Recipe] = replace(STABLE, particles=30)
    swarm_type: ClassVar[type[Swarm]] = Pyswarms


class FewInTorch(FewPyswarms):
    """A small swarm in torch."""

    swarm_type: ClassVar[type[Swarm]] = TorchSwarm


class FewFresh(FewInTorch):
    """A small swarm that looks at every batch."""

    recipe: ClassVar[Recipe] = replace(STABLE, particles=30, fresh=True)


FEW = pytest.mark.parametrize("trainer", [FewPyswarms, FewInTorch, FewFresh])


def xor() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network of step functions and the problem that needs its hidden layer."""
    torch.manual_seed(0)
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    model = nn.Sequential(nn.Linear(2, 8), lfp.Heaviside(), nn.Linear(8, 2))
    return model, inputs, torch.tensor([0, 1, 1, 0])


@FEW
def test_a_swarm_learns_through_step_functions(trainer: type[PSO]) -> None:
    model, inputs, targets = xor()
    swarm = trainer(model, SETTINGS)
    # After 150 steps, how far it has got depends on where the particles happened to start.
    losses = [float(swarm.step(inputs, targets).loss) for _ in range(300)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.35 < losses[0]
    assert model(inputs).argmax(dim=1).equal(targets)
    assert F.cross_entropy(model(inputs), targets).item() == pytest.approx(losses[-1], rel=1e-5)


@FEW
def test_a_batch_without_samples_is_not_the_one_that_is_kept(trainer: type[PSO]) -> None:
    ways = []
    for empty in (False, True):
        torch.manual_seed(0)
        model, x, y = xor()
        swarm = trainer(model, SETTINGS)
        if empty:
            assert swarm.step(x[:0], y[:0]).loss.isnan()
        ways.append([swarm.step(x, y).loss for _ in range(3)])
        if empty:
            assert swarm.step(x[:0], y[:0]).loss.isnan()
    assert ways[0] == ways[1]
    assert all(loss.isfinite() for loss in ways[0])


def test_the_first_batch_is_kept_unless_told_otherwise() -> None:
    for trainer, loss_of in ((FewInTorch, 0), (FewFresh, 1)):
        model, inputs, targets = xor()
        swarm = trainer(model, SETTINGS)
        batches = [(inputs, targets), (inputs + 1, 1 - targets)]
        swarm.step(*batches[0])
        loss = float(swarm.step(*batches[1]).loss)
        found = [F.cross_entropy(model(x), y).item() for x, y in batches]
        assert loss == pytest.approx(found[loss_of], rel=1e-5)
        assert loss != pytest.approx(found[1 - loss_of], rel=1e-2)


SWARMS = [name for name in METHODS if issubclass(METHODS[name], PSO)]


@pytest.mark.parametrize("name", SWARMS)
def test_the_defaults_of_the_options_are_the_recipe_of_the_method(name: str) -> None:
    method: Any = METHODS[name]
    assert method.Options(1.0).recipe() == method.recipe


@pytest.mark.parametrize("name", SWARMS)
def test_a_swarm_is_set_up_by_its_options(name: str) -> None:
    model, inputs, targets = xor()
    method: Any = METHODS[name]
    swarm = method(model, method.Options(1.0, particles=7, start=0.25, start_speed=0.0))
    assert len(swarm.swarm.positions) == 7
    assert 0.2 < float(swarm.swarm.positions.abs().max()) <= 0.25
    other = method(model, method.Options(1.0, particles=7), replace(method.recipe, particles=5))
    assert len(other.swarm.positions) == 5, "a recipe that is given comes before"
    swarm.step(inputs, targets)


@pytest.mark.parametrize("variant", ["fixed", "paper", "fresh"])
def test_the_variants_differ_in_what_costs_are_of(variant: Any) -> None:
    inputs, targets = torch.eye(2), torch.tensor([0, 1])
    batches = [(inputs, targets), (inputs, 1 - targets)]  # of which no network can have both

    def after(*order: int) -> tuple[list[float], list[float]]:
        """Return the losses of steps, and the costs of both batches after them."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 2))
        options = StableSwarmSettings(1.0, particles=30, speed_limit=0.2, variant=variant)
        swarm = StableTorchPSO(model, options)
        losses = [float(swarm.step(*batches[i]).loss) for i in order]
        return losses, [F.cross_entropy(model(x), y).item() for x, y in batches]

    losses, costs = after(*[0] * 20, *[1] * 3)
    assert losses[19] < 0.3
    assert costs[0] < 0.5 < costs[1]
    # In the variant of the paper, the best position keeps the cost of the batch that it was on.
    assert losses[-1] == pytest.approx(costs[1 if variant == "fresh" else 0], rel=1e-5)
    losses, costs = after(1, *[0] * 20)
    assert losses[-1] == pytest.approx(costs[1 if variant == "fixed" else 0], rel=1e-5)


@pytest.mark.parametrize("name", ["pso-paper", "pso-torch-paper"])
def test_a_decaying_swarm_goes_on_from_its_state(name: str) -> None:
    method: Any = METHODS[name]
    options = method.Options(1.0, particles=9, variant="paper", decay=0.5, patience=1)
    model, inputs, targets = xor()
    torch.manual_seed(0)
    swarm = method(model, options)
    for _ in range(4):
        swarm.step(inputs, targets)
    state = copy.deepcopy(swarm.state_dict())
    assert float(swarm.swarm.pulls.cognitive.min()) < 1
    expected = [float(swarm.step(inputs + i, targets).loss) for i in range(4)]
    other = method(model, options)
    other.load_state_dict(state)
    assert [float(other.step(inputs + i, targets).loss) for i in range(4)] == expected
    assert torch.equal(other.swarm.positions, swarm.swarm.positions)


@FEW
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_data_that_is_not_finite_makes_an_infinite_loss(trainer: type[PSO], bad: float) -> None:
    model, inputs, targets = xor()
    model = nn.Sequential(nn.Linear(2, 2))  # a step function would make something finite of them
    swarm = trainer(model, SETTINGS)
    for _ in range(3):
        step = swarm.step(torch.full_like(inputs, bad), targets)
        assert float(step.loss) == INF
        assert float(step.feedback_norm) == 0
    assert all(p.isfinite().all() for p in model.parameters())


def test_one_bad_batch_is_forgotten_by_a_swarm_that_looks_at_every_batch() -> None:
    _, inputs, targets = xor()
    swarm = FewFresh(nn.Sequential(nn.Linear(2, 2)), SETTINGS)
    batches = [inputs, inputs * NAN, inputs, inputs]
    losses = [float(swarm.step(batch, targets).loss) for batch in batches]
    assert [np.isfinite(loss) for loss in losses] == [True, False, True, True]
    assert losses[3] <= losses[2] <= losses[0]


@pytest.mark.usefixtures("small_swarms")
def test_both_kinds_record_the_same_divergence() -> None:
    targets = torch.arange(12) % 3
    good = Split(torch.randn(12, 2), targets)
    bad = Split(torch.full((12, 2), NAN), targets)
    run = Run(
        kind="final", dataset="nan", model="toy-mlp", method="sgd", activation="relu", seed=0,
        epochs=2, batch_size=6, settings=SETTINGS,
    )  # fmt: skip
    for method in (name for name in METHODS if issubclass(METHODS[name], PSO)):
        for train, expected in ((bad, Divergence(1, "the loss is inf")), (good, None)):
            data = Dataset("nan", train=train, validation=good, test=good, classes=3)
            result = execute(replace(run, method=method), data, torch.device("cpu"))
            assert result.divergence == expected, method


@FEW
def test_the_callers_random_states_and_logging_stay(
    trainer: type[PSO], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    model, inputs, targets = xor()
    root = logging.getLogger()
    before = np.random.get_state(), list(root.handlers), root.level
    swarm = trainer(model, SETTINGS)
    torch_state = torch.get_rng_state()
    swarm.step(inputs, targets)
    after = np.random.get_state(), list(root.handlers), root.level
    assert str(before) == str(after)
    assert torch.get_rng_state().equal(torch_state)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_first_import_of_pyswarms_changes_nothing_either(tmp_path: Path) -> None:
    code = """
import logging, os, sys, torch
logging.getLogger("mine").addHandler(logging.StreamHandler())
root, environment = logging.getLogger(), dict(os.environ)
before = list(root.handlers), root.level
from baselines.pso import Pyswarms, STABLE
assert "pyswarms" not in sys.modules
Pyswarms(STABLE, torch.empty(2), seed=0)
assert "pyswarms" in sys.modules
assert before == (list(root.handlers), root.level)
assert len(logging.getLogger("mine").handlers) == 1 and not logging.getLogger("mine").disabled
assert environment == dict(os.environ)
assert not os.listdir()
"""
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={"PYTHONPATH": root})


@pytest.mark.parametrize("trainer", [FewPyswarms, FewInTorch])
def test_a_swarm_that_does_not_fit_is_refused(
    trainer: type[PSO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pso_trainer, "free_bytes", lambda device: 8_000_000)
    with pytest.raises(MemoryError, match=r"30 particles in 42 dimensions need 0\.0\d GB on cpu"):
        trainer(xor()[0], SETTINGS)


def test_free_memory_is_known() -> None:
    assert pso_trainer.free_bytes(torch.device("cpu")) > 10**7


def live(swarm: Pyswarms, particles: int) -> None:
    """Let every operation of a swarm happen."""
    for cost in (2.0, 1.0, 0.0):
        swarm.judge(torch.full((particles,), cost))
        swarm.move()


def test_the_memory_that_pyswarms_needs_is_what_it_takes() -> None:
    recipe, like = replace(STABLE, particles=50), torch.empty(4000)
    # What is imported and cached at the first use is not the swarm's.
    live(Pyswarms(replace(recipe, particles=2), like, seed=0), particles=2)
    tracemalloc.start()
    live(Pyswarms(recipe, like, seed=0), particles=50)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.85 < peak / Pyswarms.bytes_needed(50, like) <= 1


def test_a_swarm_in_torch_needs_a_fifth_of_that() -> None:
    like = torch.empty(105_214)
    assert TorchSwarm.bytes_needed(1000, like) < Pyswarms.bytes_needed(1000, like) / 5


@pytest.mark.gpu
def test_the_gpu_finds_the_same_costs() -> None:
    model = build("lenet", activation="relu", input_shape=(1, 28, 28), classes=3, seed=0).double()
    batch = problem(model, 1, 28, 28)
    expected = SwarmFitness(model)(*batch)
    found = SwarmFitness(model.cuda())(*(t.cuda() for t in batch))
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.gpu
def test_a_swarm_learns_on_the_gpu() -> None:
    model, inputs, targets = xor()
    swarm = FewInTorch(model.cuda(), SETTINGS)
    losses = [float(swarm.step(inputs.cuda(), targets.cuda()).loss) for _ in range(300)]
    assert losses[-1] < 0.35
