"""LFP of spiking networks: step by step = fused = the definition, and snntorch left as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import lfp_core as lfp

pytest.importorskip("snntorch", reason="spiking networks are optional")

import snntorch
from snntorch.surrogate import fast_sigmoid, straight_through_estimator

from lfp_core import routes, slopes, spiking
from validation import spiking_oracle
from validation.compare import Feedback, relative_error
from validation.selection import example_of, examples
from validation.spellings import distance
from validation.spiking_oracle import Rules

TOLERANCE = 1e-10
CLASSES = 3


def step_function(x: Tensor) -> Tensor:
    """Spike in the dtype of the membrane; snntorch's own surrogates give float32."""
    return (x > 0).to(x.dtype)


def rest(model: nn.Module) -> None:
    """Forget the membranes. snntorch's own `reset` visits every neuron that was ever made."""
    for module in model.modules():
        if isinstance(module, snntorch.Leaky):
            module.mem = torch.zeros(0)


@dataclass(frozen=True)
class Case:
    """A network in float64, inputs (T, batch, ...) and a reward like its spikes."""

    model: nn.Sequential
    inputs: Tensor
    reward: Tensor

    def __repr__(self) -> str:
        """Show what hypothesis should show of a failing case."""
        return f"Case({self.model}, inputs {list(self.inputs.shape)})"


@st.composite
def cases(draw: st.DrawFn, families: tuple[str, ...] = ("dense", "convolution")) -> Case:
    """Draw a network with one batch; its neurons fire now and then."""
    flip = st.booleans()
    steps, batch = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    reset_delay = draw(flip)

    def neuron() -> nn.Module:
        beta = draw(st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]))
        threshold = draw(st.sampled_from([0.3, 1.0]))
        return snntorch.Leaky(
            beta, threshold, step_function, init_hidden=True, reset_delay=reset_delay
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
        layers: list[nn.Module] = []
        if draw(st.sampled_from(families)) == "convolution":
            shape: tuple[int, ...] = (draw(st.integers(1, 2)), 6, 6)
            layers += [nn.Conv2d(shape[0], 2, 3, bias=draw(flip)), nn.MaxPool2d(2), neuron()]
            pooling: list[nn.Module] = [nn.AvgPool2d(2), nn.MaxPool2d(2)]
            after = draw(st.sampled_from([None, 0, 1]))
            if after is not None:
                layers.append(pooling[after])
            layers.append(nn.Flatten())
            width = 8 if after is None else 2
        else:
            shape = (width := draw(st.integers(1, 6)),)
        for _ in range(draw(st.integers(0, 2))):
            layers += [nn.Linear(width, width := draw(st.integers(1, 6)), draw(flip)), neuron()]
        layers += [nn.Linear(width, CLASSES, draw(flip)), neuron()]
        model = nn.Sequential(*layers).double()
        for parameter in model.parameters():
            parameter.data *= 3
        return Case(
            model,
            torch.randn(steps, batch, *shape, dtype=torch.float64).clamp(min=-0.5),
            2 * torch.rand(steps, batch, CLASSES, dtype=torch.float64) - 1,
        )


def rules() -> st.SearchStrategy[Rules]:
    """Every variant of the rule."""
    return st.builds(
        Rules,
        st.sampled_from([0.0, 1e-6, 1e-2]),
        st.sampled_from(["current", "earlier"]),
        st.booleans(),
    )


def by_steps(model: nn.Sequential, inputs: Tensor) -> Tensor:
    """Return the spikes of the model, called once a step."""
    return torch.stack([model(x) for x in inputs])


PATHS: dict[str, Callable[[nn.Sequential, Tensor], Tensor]] = {
    "steps": by_steps,
    "fused": spiking.unroll,
}


def engine(case: Case, rules: Rules, path: str) -> tuple[Tensor, Feedback]:
    """Return the spikes and the engine's feedback."""
    rest(case.model)
    case.model.zero_grad()
    context = spiking.feedback(
        rules.epsilon,
        normaliser=rules.normaliser,  # type: ignore[arg-type]
        max_norm=rules.max_norm,
    )
    with context:
        spikes = PATHS[path](case.model, case.inputs)
    lfp.backward(spikes, case.reward)
    return spikes.detach(), {
        p: torch.zeros_like(p) if p.grad is None else -p.grad for p in case.model.parameters()
    }


def disagreement(case: Case, rules: Rules, path: str, other: Rules | None = None) -> float | None:
    """Return the relative error of the feedback, None if a sum cancels so far that none can say.

    `other` is what the oracle is told instead of `rules`.
    """
    expected_spikes, trace = spiking_oracle.run(
        case.model, case.inputs, case.reward, other or rules
    )
    if trace.condition > 1e4:
        return None
    spikes, found = engine(case, rules, path)
    assert spikes.numpy().tolist() == expected_spikes.tolist()
    return relative_error(found, trace.feedback)


# --- three ways to the same numbers ---------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@examples(80)
@given(case=cases(), rules=rules())
def test_engine_equals_oracle(path: str, case: Case, rules: Rules) -> None:
    error = disagreement(case, rules, path)
    assume(error is not None)
    assert error is not None
    assert error < TOLERANCE


@examples(80)
@given(cases(), rules())
def test_fused_equals_step_by_step(case: Case, rules: Rules) -> None:
    spikes, feedback = engine(case, rules, "steps")
    fused_spikes, fused = engine(case, rules, "fused")
    assert torch.equal(fused_spikes, spikes)
    assert relative_error(fused, feedback) < TOLERANCE


@pytest.mark.parametrize(
    ("normaliser", "inputs", "expected"),
    [
        # v = 0.5, 0.75; N = 0.5, 0.5 + 0.25; q = (1 + 0.5 0.5 q_2) / N_1, 1 / N_2 = 8/3, 4/3
        ("current", [1.0, 1.0], 0.5 * (8 / 3 + 4 / 3)),
        ("earlier", [1.0, 1.0], 0.5 * (8 / 3 + 4 / 3)),
        # v = 0.5, 0.25; N_2 = 0.5 + 0.25 or 0.25; x_2 = 0, so only q_1 counts
        ("current", [1.0, 0.0], 0.5 * (1 + 0.25 / 0.75) / 0.5),
        ("earlier", [1.0, 0.0], 0.5 * (1 + 0.25 / 0.25) / 0.5),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_two_steps_by_hand_of_a_neuron_that_stays_silent(
    path: str, normaliser: str, inputs: list[float], expected: float
) -> None:
    layer = nn.Linear(1, 1, bias=False).double()
    layer.weight.data.fill_(0.5)
    model = nn.Sequential(layer, snntorch.Leaky(0.5, init_hidden=True))
    case = Case(model, torch.tensor(inputs).double().reshape(2, 1, 1), torch.ones(2, 1, 1).double())
    spikes, found = engine(case, Rules(0.0, normaliser), path)
    assert not spikes.any()
    assert found[layer.weight].item() == pytest.approx(expected, rel=1e-12)


def network(widths: list[int], **options: Any) -> nn.Sequential:
    """Return Linear and Leaky in turn, in float32, that fire now and then."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layer = nn.Linear(before, after)
        layer.weight.data.mul_(3)
        layers += [layer, snntorch.Leaky(**{"beta": 0.7, **options})]
    return nn.Sequential(*layers)


def test_constant_inputs_are_inputs_at_every_step() -> None:
    model, x = network([5, 6, 3]).double(), torch.randn(4, 5).double()
    repeated = Case(model, x.expand(8, 4, 5), torch.rand(8, 4, 3).double())
    _, expected = engine(repeated, Rules(), "fused")
    model.zero_grad()
    with lfp.feedback():
        spikes = spiking.unroll(model, x, steps=8)
    lfp.backward(spikes, repeated.reward)
    found: Feedback = {p: -p.grad for p in model.parameters() if p.grad is not None}
    assert relative_error(found, expected) < TOLERANCE


def test_other_layers_between_neurons() -> None:
    model = network([5, 6, 3], init_hidden=True, spike_grad=step_function).double()
    model.insert(1, nn.BatchNorm1d(6).double())
    model.insert(3, nn.Sequential(nn.Linear(6, 6), nn.ReLU()).double())
    model.eval()
    case = Case(model, torch.randn(7, 4, 5).double(), torch.rand(7, 4, 3).double())
    spikes, feedback = engine(case, Rules(), "steps")
    fused_spikes, fused = engine(case, Rules(), "fused")
    assert torch.equal(fused_spikes, spikes)
    assert relative_error(fused, feedback) < TOLERANCE


def test_neurons_on_spikes_and_currents_that_are_parameters() -> None:
    """A synapse of weight 1 to each neuron: the same as no synapse, but for the feedback of it."""
    current = nn.Parameter(torch.tensor([[0.6, 1.4]]).double())
    one, two = (snntorch.Leaky(0.5, spike_grad=step_function) for _ in range(2))
    identity = nn.Linear(2, 2, bias=False).double()
    identity.weight.data = torch.eye(2).double()
    found: list[Tensor] = []
    for between in (nn.Identity(), identity):
        current.grad = None
        with lfp.feedback():
            first = torch.stack([current] * 5)
            spikes = spiking.scan(two, between(spiking.scan(one, first)))
        lfp.backward(spikes, torch.rand(5, 1, 2, generator=torch.Generator().manual_seed(0)))
        assert current.grad is not None
        found.append(current.grad)
    assert torch.allclose(found[0], found[1], rtol=1e-12)
    assert found[0].all()


@pytest.mark.parametrize("scale", [None, 1, torch.ones(1, 2, dtype=torch.float64)])
def test_an_initial_membrane_that_is_learnt(scale: Any) -> None:
    initial = nn.Parameter(torch.tensor([[0.6, -0.4]]).double())
    with lfp.feedback(epsilon=0):
        spike, _ = snntorch.Leaky(0.5)(
            torch.ones(1, 2).double(), initial if scale is None else initial * scale
        )
    lfp.backward(spike, torch.ones(1, 2))
    v = 0.5 * initial.detach() + 1
    q = 1 / (initial.detach().abs() + (v - initial.detach()).abs())
    assert initial.grad is not None
    assert torch.allclose(-initial.grad, initial.detach().abs() * 0.5 * q, rtol=1e-12)


def test_membranes_take_rewards_as_spikes_do() -> None:
    model = network([5, 3])
    layer, neuron = model
    inputs, reward = torch.randn(6, 4, 5), torch.rand(6, 4, 3)
    found = []
    for place in (0, 1):
        model.zero_grad()
        mem, outputs = torch.zeros(4, 3), []
        with lfp.feedback():
            for x in inputs:
                spike, mem = neuron(layer(x), mem)
                outputs.append((spike, mem)[place])
            stacked = torch.stack(outputs)
        lfp.backward(stacked, reward)
        found.append(layer.weight.grad.clone())  # type: ignore[union-attr, operator]
    assert torch.equal(*found)


def test_a_count_of_spikes_rewards_the_spikes() -> None:
    """n = sum_t S_t is a layer of its own: silent steps contribute nothing and get nothing."""
    model = network([5, 3], init_hidden=True)
    inputs, reward = torch.randn(6, 4, 5), torch.rand(4, 3)
    with lfp.feedback(epsilon=0):
        spikes = spiking.unroll(model, inputs)
        counts = spikes.sum(dim=0)
    lfp.backward(counts, reward)
    found = model[0].weight.grad.clone()  # type: ignore[union-attr, operator]
    model.zero_grad()
    with lfp.feedback(epsilon=0):
        again = spiking.unroll(model, inputs)
    lfp.backward(again, again.detach() * (reward / counts.detach().clamp(min=1)))
    torch.testing.assert_close(model[0].weight.grad, found)


@pytest.mark.parametrize("outputs", [(0,), (1,), (0, 1)])
def test_without_rewards_nothing_is_shared_out(outputs: tuple[int, ...]) -> None:
    class Unrewarding(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, reward: Tensor) -> None:
            return None

    currents = torch.ones(3, 2, requires_grad=True)
    options = torch.tensor(0.9), torch.tensor(1.0), True, 1e-6, 0.0
    made = spiking.LeakyScan.apply(currents, torch.zeros(2), *options)
    sum(Unrewarding.apply(made[i]).sum() for i in outputs).backward()
    assert currents.grad is None


def concatenated(steps: list[Tensor]) -> Tensor:
    """Return the values of all steps (T, batch, n), as the tests of buffers compare with."""
    return torch.cat([step[None] for step in steps])


def filled_by_index(steps: list[Tensor]) -> Tensor:
    """Return a buffer that is filled step by step."""
    buffer = torch.zeros(len(steps), *steps[0].shape, dtype=steps[0].dtype)
    for t, step in enumerate(steps):
        buffer[t] = step
    return buffer


def filled_by_views(steps: list[Tensor]) -> Tensor:
    """Return a buffer that is filled through views of it, made before anything is written."""
    buffer = steps[0].new_empty(len(steps), *steps[0].shape)
    rows = [buffer[t] for t in range(len(steps))]
    for row, step in zip(rows, steps, strict=True):
        row.copy_(step)
    return buffer


def filled_at_the_end(steps: list[Tensor]) -> Tensor:
    """Return a buffer with time as its last dimension, seen with time first."""
    buffer = torch.zeros(*steps[0].shape, len(steps), dtype=steps[0].dtype)
    for t, step in enumerate(steps):
        buffer[..., t] = step
    return buffer.movedim(-1, 0)


def filled_and_masked(steps: list[Tensor]) -> Tensor:
    """Return a buffer that was filled, and parts of it then masked and filled again."""
    buffer = filled_by_index(steps)
    buffer.masked_fill_(torch.arange(len(steps))[:, None, None] == 1, 7.0)
    buffer[1] = steps[1]
    return buffer


def filled_out_of_place(steps: list[Tensor]) -> Tensor:
    """Return what is left of a buffer when every step makes a new one."""
    buffer = torch.zeros(len(steps), *steps[0].shape, dtype=steps[0].dtype)
    for t, step in enumerate(steps):
        buffer = buffer.select_scatter(step, 0, t)
    return buffer


Collect = Callable[[list[Tensor]], Tensor]
BUFFERS: list[Collect] = [
    filled_by_index,
    filled_by_views,
    filled_at_the_end,
    filled_and_masked,
    filled_out_of_place,
]


def feedback_of(*modules: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of the parameters that have one, by name."""
    parameters = nn.ModuleList(modules).named_parameters()
    return {name: p.grad for name, p in parameters if p.grad is not None}


def collected(collect: Collect, what: str) -> dict[str, Tensor]:
    """Return the feedback of a network that collects currents, spikes or membranes over time."""
    torch.manual_seed(0)
    first, second = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
    neurons = [snntorch.Leaky(0.9, 0.3, step_function).double() for _ in range(2)]
    inputs = 3 * torch.randn(5, 2, 3, dtype=torch.float64)

    def over_time(neuron: nn.Module, currents: Tensor) -> dict[str, list[Tensor]]:
        membrane = torch.zeros_like(currents[0])
        made: dict[str, list[Tensor]] = {"spikes": [], "membranes": []}
        for current in currents:
            spike, membrane = neuron(current, membrane)
            made["spikes"].append(spike)
            made["membranes"].append(membrane)
        return made

    with lfp.feedback(0.01):
        currents = [first(x) for x in inputs]
        hidden = over_time(neurons[0], (collect if what == "currents" else concatenated)(currents))
        spikes = (collect if what == "hidden spikes" else concatenated)(hidden["spikes"])
        outputs = over_time(neurons[1], second(spikes))
        made = outputs["membranes" if what == "membranes" else "spikes"]
        output = (collect if what in ("spikes", "membranes") else concatenated)(made)
    lfp.backward(output, torch.rand(output.shape, dtype=output.dtype))  # whatever its strides
    return feedback_of(first, second)


@pytest.mark.parametrize("what", ["currents", "hidden spikes", "spikes", "membranes"])
@pytest.mark.parametrize("collect", BUFFERS)
def test_what_is_collected_in_a_buffer_gets_its_reward(collect: Collect, what: str) -> None:
    assert distance(collected(collect, what), collected(concatenated, what)) < TOLERANCE


@pytest.mark.parametrize("collect", BUFFERS)
def test_a_buffer_that_applies_what_spikes_owe_is_caught(
    collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_owed_by", lambda written: None)
    assert distance(collected(collect, "spikes"), collected(concatenated, "spikes")) > 0.1


#: The layer, the neuron, an input and the membrane before a step, to the spike and the next one.
TimeStep = Callable[[nn.Module, nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


def plain_step(
    layer: nn.Module, neuron: nn.Module, x: Tensor, membrane: Tensor
) -> tuple[Tensor, Tensor]:
    """Make a time step as the documentation of snntorch does."""
    spike, after = neuron(layer(x), membrane)
    return spike, after


def looped(step: TimeStep) -> dict[str, Tensor]:
    """Return the feedback of a layer of neurons, in a loop over time steps."""
    torch.manual_seed(0)
    layer, neuron = nn.Linear(3, 4).double(), snntorch.Leaky(0.9, 0.3, step_function).double()
    spikes, membrane = [], torch.zeros(2, 4, dtype=torch.float64)
    with lfp.feedback(0.01):
        for x in 3 * torch.randn(4, 2, 3, dtype=torch.float64):
            spike, membrane = step(layer, neuron, x, membrane)
            spikes.append(spike)
        outputs = torch.stack(spikes)
    lfp.backward(outputs, torch.ones_like(outputs))
    return feedback_of(layer)


@pytest.mark.parametrize("change", ["clamp", "abs", "zero"])
def test_membranes_may_be_changed_in_place_between_steps(change: str) -> None:
    bounds = {"min": -0.5, "max": 0.5} if change == "clamp" else {}

    def in_place(*given: Any) -> tuple[Tensor, Tensor]:
        spike, after = plain_step(*given)
        getattr(after, f"{change}_")(**bounds)
        return spike, after

    def out_of_place(*given: Any) -> tuple[Tensor, Tensor]:
        spike, after = plain_step(*given)
        if change == "zero":
            return spike, torch.zeros_like(after)
        return spike, getattr(after, change)(**bounds)

    assert distance(looped(in_place), looped(out_of_place)) < TOLERANCE


def test_a_loop_may_keep_its_currents_and_membranes_in_the_same_memory() -> None:
    current = torch.zeros(2, 4, dtype=torch.float64)

    def in_place(
        layer: nn.Module, neuron: nn.Module, x: Tensor, membrane: Tensor
    ) -> tuple[Tensor, Tensor]:
        current.copy_(layer(x))
        spike, after = neuron(current, membrane)
        return spike, membrane.copy_(after)

    assert distance(looped(in_place), looped(plain_step)) < TOLERANCE


# --- what must be caught --------------------------------------------------------------------------


def caught(case: Case, path: str, **other: Any) -> bool:
    """Whether the comparison with the oracle fails by far."""
    error = disagreement(case, Rules(1e-6), path, Rules(**{"epsilon": 1e-6, **other}))
    return error is not None and error > 1e-3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("other", [{"normaliser": "earlier"}, {"max_norm": True}, {"epsilon": 0.1}])
def test_another_rule_is_caught(path: str, other: dict[str, Any]) -> None:
    example_of(cases(("dense",)), lambda case: caught(case, path, **other))


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carry no reward back through time."""
    forward = spiking.LeakyScan.forward

    def forgetful(ctx: Any, *args: Any) -> Any:
        outputs = forward(ctx, *args)
        *kept, beta = ctx.to_save
        ctx.save_for_backward(*kept, torch.zeros_like(beta))
        return outputs

    monkeypatch.setattr(spiking.LeakyScan, "forward", staticmethod(forgetful))


def unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget |w|."""
    monkeypatch.setattr(slopes.WeightScale, "backward", staticmethod(lambda ctx, g: g))


def unpaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the G of a spike for its reward."""
    monkeypatch.setattr(
        slopes.EpsilonShare, "backward", staticmethod(lambda ctx, g: (g, *[None] * 3))
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("broken", [forget, unscaled, unpaid])
def test_a_broken_engine_is_caught(
    path: str, broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    example_of(cases(("dense",)), lambda case: caught(case, path))


def test_the_surrogate_gradient_is_something_else() -> None:
    model = network([5, 6, 3], init_hidden=True)
    inputs, reward = torch.randn(6, 4, 5), torch.rand(6, 4, 3)
    (reward * by_steps(model, inputs)).sum().backward()
    descent: Feedback = {
        p: p.detach().abs() * p.grad for p in model.parameters() if p.grad is not None
    }
    _, found = engine(Case(model, inputs, reward), Rules(), "steps")
    assert relative_error(found, descent) > 0.1


# --- snntorch is left as it was -------------------------------------------------------------------

NEURONS: dict[str, dict[str, Any]] = {
    "default": {},
    "no delay": {"reset_delay": False},
    "no leak": {"beta": 1.0},
    "clamped beta": {"beta": 1.7},
    "threshold": {"threshold": 0.4},
    "one beta a neuron": {"beta": torch.linspace(0, 1, 6), "threshold": torch.linspace(0.2, 1, 6)},
}


@pytest.mark.parametrize("options", NEURONS.values(), ids=NEURONS)
def test_spikes_and_membranes_are_snntorchs_to_the_bit(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    neuron = snntorch.Leaky(**{"beta": 0.9, **options})
    currents = torch.randn(40, 8, 6)
    mem, spikes, membranes = torch.zeros(8, 6), [], []
    for current in currents:
        spike, mem = neuron(current, mem)
        spikes.append(spike)
        membranes.append(mem)
    assert 0 < torch.stack(spikes).mean() < 1

    leaf = currents.clone().requires_grad_()
    mem, found, potentials = torch.zeros(8, 6), [], []
    with lfp.feedback():
        for current in leaf:
            spike, mem = neuron(current, mem)
            found.append(spike)
            potentials.append(mem)
        fused = spiking.scan(neuron, leaf)
    assert torch.equal(torch.stack(found), torch.stack(spikes))
    assert torch.equal(torch.stack(potentials), torch.stack(membranes))
    assert torch.equal(fused, torch.stack(spikes))
    with torch.no_grad():
        assert torch.equal(spiking.scan(neuron, currents), torch.stack(spikes))
    assert torch.equal(spiking.scan(neuron, currents), torch.stack(spikes))


def forbidden(x: Tensor) -> Tensor:
    """A surrogate that nobody may call."""
    raise AssertionError("the surrogate was called")


@pytest.mark.parametrize("path", PATHS)
def test_no_surrogate_derivative_is_used(path: str) -> None:
    found = []
    for surrogate in (None, fast_sigmoid(25), straight_through_estimator(), forbidden):
        model = network([5, 6, 3], init_hidden=True, spike_grad=surrogate)
        case = Case(model, torch.ones(6, 4, 5), torch.ones(6, 4, 3))
        found.append(list(engine(case, Rules(), path)[1].values()))
    assert all(f.any() for f in found[0])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("output", [False, True])
def test_neurons_keep_their_state_as_in_snntorch(output: bool) -> None:
    torch.manual_seed(0)
    theirs, ours = (snntorch.Leaky(0.8, init_hidden=True, output=output) for _ in range(2))
    layer = nn.Linear(3, 3)
    for x in 3 * torch.randn(5, 2, 3):
        expected = theirs(layer(x))
        with lfp.feedback():
            found = ours(layer(x))
        assert isinstance(found, tuple) == isinstance(expected, tuple) == output
        assert torch.equal(ours.mem, theirs.mem)
    before = ours.mem
    with lfp.feedback():
        spiking.unroll(nn.Sequential(layer, ours), torch.randn(5, 2, 3))
    spiking.unroll(nn.Sequential(layer, ours), torch.randn(5, 2, 3))
    assert ours.mem is before


def test_nothing_is_left_behind_after_an_exception() -> None:
    model = network([5, 6, 3], init_hidden=True)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    inputs = torch.randn(6, 4, 5)

    def gradient() -> Tensor:
        rest(model)
        model.zero_grad()
        by_steps(model, inputs).sum().backward()
        return model[0].weight.grad.clone()  # type: ignore[union-attr, operator]

    expected = gradient()
    broken = nn.Sequential(*model, nn.Flatten(5))
    with pytest.raises(IndexError), lfp.feedback():
        broken(inputs[0])
    after = {name: set(vars(module)) - {"reset"} for name, module in model.named_modules()}
    assert after == before
    assert expected.any()
    assert torch.equal(gradient(), expected)


def test_unroll_outside_of_a_context_is_backpropagation_through_time() -> None:
    model = network([5, 6, 3], init_hidden=True)
    inputs = torch.randn(6, 4, 5)
    by_steps(model, inputs).sum().backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    spiking.unroll(model, inputs).sum().backward()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


@pytest.mark.compiled
def test_compiled_layers_around_neurons_change_nothing() -> None:
    model = network([5, 6, 3], init_hidden=True)
    case = Case(model, torch.randn(4, 2, 5), torch.rand(4, 2, 3))
    _, expected = engine(case, Rules(), "steps")
    compiled = torch.compile(model, backend="eager")
    rest(model)
    model.zero_grad()
    with lfp.feedback():
        spikes = torch.stack([compiled(x) for x in case.inputs])
    lfp.backward(spikes, case.reward)
    found: Feedback = {p: -p.grad for p in model.parameters() if p.grad is not None}
    assert relative_error(found, expected) < 1e-5


@pytest.mark.slow
def test_the_engine_does_not_import_snntorch_but_finds_it() -> None:
    program = """
import sys, torch, lfp_core as lfp
layer, x = torch.nn.Linear(2, 2, bias=False), torch.ones(1, 2)
with lfp.feedback():
    layer(x)
assert "snntorch" not in sys.modules
import snntorch
neuron = snntorch.Leaky(0.5, init_hidden=True)
with lfp.feedback(epsilon=0):
    spikes = neuron(layer(x))
lfp.backward(spikes, torch.ones(1, 2))
expected = layer.weight.abs() / layer(x).abs().T
torch.testing.assert_close(-layer.weight.grad, expected.detach())
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# --- errors ---------------------------------------------------------------------------------------


class Louder(snntorch.Leaky):  # type: ignore[misc]  # snntorch has no types
    """A neuron with a forward of its own."""

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        """Double the current."""
        return super().forward(2 * input_, mem)


class Adaptive(snntorch.Leaky):  # type: ignore[misc]
    """A neuron with dynamics of its own, in the forward of a Leaky."""

    def _base_state_function(self, input_: Tensor) -> Any:
        return super()._base_state_function(input_) + 0.3


class Reluctant(snntorch.Leaky):  # type: ignore[misc]
    """A neuron that fires by a rule of its own."""

    def fire(self, mem: Tensor) -> Any:
        """Fire at twice the potential."""
        return super().fire(mem / 2)


UNSUPPORTED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dynamics": (
        lambda: Adaptive(0.5, init_hidden=True),
        "no LFP rule for Adaptive: Adaptive has a _base_state_function of its own",
    ),
    "firing": (
        lambda: Reluctant(0.5, init_hidden=True),
        "no LFP rule for Reluctant: Reluctant has a fire of its own",
    ),
    "zero": (
        lambda: snntorch.Leaky(0.5, reset_mechanism="zero", init_hidden=True),
        "no LFP rule for Leaky: reset_mechanism must be 'subtract', not 'zero'",
    ),
    "none": (
        lambda: snntorch.Leaky(0.5, reset_mechanism="none", init_hidden=True),
        "reset_mechanism must be 'subtract', not 'none'",
    ),
    "learn_beta": (
        lambda: snntorch.Leaky(0.5, learn_beta=True, init_hidden=True),
        "learn_beta is not supported",
    ),
    "learn_threshold": (
        lambda: snntorch.Leaky(0.5, learn_threshold=True, init_hidden=True),
        "learn_threshold is not supported",
    ),
    "graded": (
        lambda: snntorch.Leaky(0.5, graded_spikes_factor=2.0, init_hidden=True),
        "graded_spikes_factor is not supported",
    ),
    "quantised": (
        lambda: snntorch.Leaky(0.5, state_quant=torch.round, init_hidden=True),
        "state_quant is not supported",
    ),
    "lapicque": (
        lambda: snntorch.Lapicque(0.5, init_hidden=True),
        "no LFP rule for Lapicque: only snntorch.Leaky has one",
    ),
    "synaptic": (
        lambda: snntorch.Synaptic(0.5, 0.5, init_hidden=True),
        "no LFP rule for Synaptic",
    ),
    "subclass": (lambda: Louder(0.5, init_hidden=True), "no LFP rule for Louder"),
}


@pytest.mark.parametrize(("build", "message"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_unsupported_neurons_take_no_reward(build: Callable[[], nn.Module], message: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    expected = nn.Sequential(layer, build())(x)
    with lfp.feedback():  # nothing is wrong as long as no reward arrives
        spikes = nn.Sequential(layer, build())(x)
    assert torch.equal(spikes, expected)
    with pytest.raises(lfp.UnsupportedOperation, match=message):
        lfp.backward(spikes, torch.ones_like(spikes))
    assert layer.weight.grad is None
    with lfp.feedback(strict=False):
        spikes = nn.Sequential(layer, build())(x)
    assert torch.equal(spikes, expected)
    lfp.backward(spikes, torch.ones_like(spikes))
    assert layer.weight.grad is not None


def test_an_unsupported_neuron_aside_is_let_alone() -> None:
    """No reward arrives at it, so that it does not matter that it has no rule."""
    torch.manual_seed(0)
    layers, x = [nn.Linear(2, 2), nn.Linear(2, 2)], torch.ones(1, 2)
    with lfp.feedback():
        snntorch.Lapicque(0.5, init_hidden=True)(layers[0](x))
        outputs = layers[1](x)
    lfp.backward(outputs, torch.ones_like(outputs))
    assert layers[1].weight.grad is not None


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
def test_unroll_of_an_unsupported_leaky_takes_no_reward() -> None:
    model = nn.Sequential(nn.Linear(2, 2), snntorch.Leaky(0.5, inhibition=True, init_hidden=True))
    inputs = torch.ones(3, 1, 2)
    message = "no LFP rule for Leaky: inhibition is not supported"
    with lfp.feedback():
        spikes = spiking.unroll(model, inputs)
    with pytest.raises(lfp.UnsupportedOperation, match=message):
        lfp.backward(spikes, torch.ones_like(spikes))
    expected = by_steps(model, inputs)
    assert torch.equal(spikes, expected)
    assert torch.equal(spiking.unroll(model, inputs), expected)
    with torch.no_grad():
        assert torch.equal(spiking.unroll(model, inputs), expected)
    with lfp.feedback(strict=False):
        assert torch.equal(spiking.unroll(model, inputs), expected)


def test_a_membrane_for_a_neuron_with_its_own_raises_as_in_snntorch() -> None:
    neuron = snntorch.Leaky(0.5, init_hidden=True)
    with pytest.raises(TypeError, match="init_hidden=True"), lfp.feedback():
        neuron(torch.ones(1, 2), torch.zeros(1, 2))


class Wrapped(nn.Module):
    """A layer with a neuron inside."""

    def __init__(self) -> None:
        super().__init__()
        self.neuron = snntorch.Leaky(0.5)


class Residual(nn.Sequential):
    """Layers that their input passes by."""

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of the layers."""
        y: Tensor = super().forward(x)
        return x + y


class Named(nn.Sequential):
    """A Sequential with the forward pass of torch."""


def patched(module: nn.Module) -> nn.Module:
    """Return the module with its forward pass exchanged."""
    module.forward = lambda x: x
    return module


LEAKY = snntorch.Leaky(0.5, init_hidden=True)


@pytest.mark.parametrize(
    ("layers", "shape", "steps", "message"),
    [
        (
            [Residual(nn.Linear(2, 2), snntorch.Leaky(0.5)), snntorch.Leaky(0.5)],
            (3, 1, 2),
            None,
            "cannot unroll Residual",
        ),
        (
            [Named(Residual(Named(snntorch.Leaky(0.5)))), snntorch.Leaky(0.5)],
            (3, 1, 2),
            None,
            "cannot unroll Residual",
        ),
        (
            [patched(nn.Sequential(snntorch.Leaky(0.5))), snntorch.Leaky(0.5)],
            (3, 1, 2),
            None,
            "cannot unroll Sequential",
        ),
        ([Louder(0.5)], (3, 1, 2), None, "cannot unroll Louder"),
        ([patched(snntorch.Leaky(0.5))], (3, 1, 2), None, "cannot unroll Leaky"),
        ([LEAKY, nn.Linear(2, 2), LEAKY], (3, 1, 2), None, "Leaky that stands at two places"),
        ([Named(LEAKY, nn.Linear(2, 2)), LEAKY], (3, 1, 2), None, "stands at two places"),
        (
            [Residual(nn.BatchNorm1d(2)), snntorch.Leaky(0.5)],
            (3, 1, 2),
            None,
            "BatchNorm over all time",
        ),
        ([snntorch.Leaky(0.5)], (1, 2), 2.5, "steps must be an integer, not 2.5"),
        ([snntorch.Leaky(0.5)], (1, 2), 2.0, "steps must be an integer, not 2.0"),
        ([snntorch.Leaky(0.5)], (1, 2), True, "steps must be an integer, not True"),
        ([snntorch.Leaky(0.5)], (1, 2), "3", "steps must be an integer, not '3'"),
        ([snntorch.Leaky(0.5)], (1, 2), -1, "at least one time step"),
        ([nn.Linear(2, 2)], (3, 1, 2), None, "last layer"),
        ([], (3, 1, 2), None, "last layer"),
        ([snntorch.Leaky(0.5)], (0, 1, 2), None, "at least one time step"),
        ([snntorch.Leaky(0.5)], (1, 2), 0, "at least one time step"),
        ([Wrapped(), snntorch.Leaky(0.5)], (3, 1, 2), None, "cannot unroll Wrapped"),
        ([snntorch.Lapicque(0.5), snntorch.Leaky(0.5)], (3, 1, 2), None, "cannot unroll Lapicque"),
        ([nn.BatchNorm1d(2), snntorch.Leaky(0.5)], (3, 1, 2), None, "BatchNorm over all time"),
    ],
)
def test_what_unroll_cannot_run_raises_value_error(
    layers: list[nn.Module], shape: tuple[int, ...], steps: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        spiking.unroll(nn.Sequential(*layers), torch.ones(shape), steps)


def test_a_model_with_a_forward_pass_of_its_own_cannot_be_unrolled() -> None:
    for steps in (None, 3):
        with pytest.raises(ValueError, match="cannot unroll Residual"):
            spiking.unroll(Residual(nn.Linear(2, 2), snntorch.Leaky(0.5)), torch.ones(3, 2), steps)


@pytest.mark.parametrize("steps", [None, np.int64(5)])
def test_what_has_no_neurons_runs_by_its_own_forward_pass(steps: Any) -> None:
    """And so do subclasses with the forward pass of torch, and layers at two places."""
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    neurons = [snntorch.Leaky(0.8, init_hidden=True) for _ in range(2)]
    model = Named(Residual(shared, nn.ReLU()), neurons[0], Named(shared, neurons[1]))
    inputs = 3 * torch.randn(5, 2, 4)
    given = inputs if steps is None else inputs[0]
    flow = inputs if steps is None else inputs[0].expand(5, 2, 4)
    expected = by_steps(model, flow)
    assert torch.equal(spiking.unroll(model, given, steps), expected)
    flat = nn.Sequential(shared, nn.ReLU(), *model[1:])
    assert not torch.equal(spiking.unroll(flat, given, steps), expected)


def test_an_unknown_normaliser_raises_value_error() -> None:
    with pytest.raises(ValueError, match="normaliser must be 'current' or 'earlier', not 'both'"):
        spiking.feedback(normaliser="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epsilon must be finite"):
        spiking.feedback(-1.0)


def test_spikes_share_out_all_of_their_reward_and_have_no_epsilon() -> None:
    model, x = network([5, 3]).double(), torch.randn(4, 5).double()
    with lfp.feedback():
        spikes = spiking.unroll(model, x, steps=2)
    with pytest.raises(ValueError, match=r"^epsilon: 0\.1; allowed for outputs, which are spikes"):
        lfp.backward(spikes, torch.ones_like(spikes), epsilon=0.1)


# --- the reward of a rate code --------------------------------------------------------------------


def test_rate_reward_by_hand() -> None:
    spikes = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])[:, None]  # T = 4
    found = lfp.rewards.spike_rate(spikes, torch.tensor([0]))
    grow = 1 - torch.sigmoid(torch.tensor(1.0 - 2))  # fired once of two
    shrink = 1 - torch.sigmoid(torch.tensor(1.0 - 2))  # was silent once of two
    expected = torch.stack([grow.expand(4), -shrink * spikes[:, 0, 1]], dim=1)[:, None]
    torch.testing.assert_close(found, expected)


def test_rate_reward_averages_over_the_batch_alone() -> None:
    spikes = torch.bernoulli(torch.full((7, 4, 3), 0.5))
    targets = torch.tensor([0, 1, 2, 1])
    mean = lfp.rewards.spike_rate(spikes, targets)
    assert torch.equal(4 * mean, lfp.rewards.spike_rate(spikes, targets, reduction="sum"))
    assert mean.shape == spikes.shape


@pytest.mark.parametrize(
    ("shape", "targets", "reduction", "message"),
    [
        ((4, 3), [0, 1, 2, 0], "mean", r"shape \(T, batch, classes\), not \[4, 3\]"),
        ((5, 4, 3), [0, 1, 2], "mean", r"targets must have shape \[4\]"),
        ((5, 2, 3), [0, 3], "mean", r"targets must lie in \[0, 2\]"),
        ((5, 2, 3), [0.0, 1.0], "mean", "integer dtype"),
        ((5, 2, 3), [0, 1], "max", "reduction must be"),
    ],
)
def test_wrong_spikes_targets_or_reduction_raise_value_error(
    shape: tuple[int, ...], targets: list[float], reduction: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lfp.rewards.spike_rate(torch.zeros(shape), torch.tensor(targets), reduction)


def of_one_step(weight: Tensor, x: Tensor, epsilon: float, reward: float, **options: Any) -> Tensor:
    """Return the feedback of a layer in front of a neuron, after one step from rest."""
    layer = nn.Linear(weight.shape[1], len(weight), bias=False)
    neuron = snntorch.Leaky(0.9, 1.0, step_function, init_hidden=True)
    model = nn.Sequential(layer, neuron).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
    with spiking.feedback(epsilon, **options):
        spikes = spiking.unroll(model, x[None])
    lfp.backward(spikes, torch.full_like(spikes, reward))
    assert layer.weight.grad is not None
    return -layer.weight.grad


def test_tiny_rewards_are_not_normalised() -> None:
    """Of 1e-10 or less: the largest of a layer and step is divided by if it exceeds that."""
    weight, x = torch.tensor([[2.0, 1.0]]).double(), torch.ones(1, 2).double()
    for reward in (spiking.TINY, 1e-13):
        found = of_one_step(weight, x, 0.1, reward, max_norm=True)
        plain = of_one_step(weight, x, 0.1, reward, max_norm=False)
        torch.testing.assert_close(found, plain, rtol=1e-9, atol=0)
    for reward in (1.0, 3.0):
        found = of_one_step(weight, x, 0.1, reward, max_norm=True)
        torch.testing.assert_close(found, of_one_step(weight, x, 0.1, 1.0))


def test_contributions_that_cancel_get_nothing_at_epsilon_0() -> None:
    weight, x = torch.tensor([[1.0, -1.0]]).double(), torch.ones(1, 2).double()
    assert not of_one_step(weight, x, 0.0, 1.0).any()


def test_membrane_of_zero_hands_on_what_a_layer_at_zero_does() -> None:
    """At epsilon 0 its reward is 0/0, of which the limit is taken: ``u R / N`` over u."""
    neuron = snntorch.Leaky(0.5, 1.0, step_function).double()
    current, before = nn.Linear(1, 1, bias=False).double(), nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        current.weight.fill_(2.0)
        before.weight.copy_(torch.tensor([[1.0, -1.0]]))

    class Step(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            spike, _ = neuron(current(x), before(y))
            return spike

    model = Step()
    with lfp.feedback(0.0):
        spike = model(torch.ones(1, 1).double(), torch.ones(1, 2).double())
    lfp.backward(spike, torch.ones_like(spike))
    assert before.weight.grad is not None
    # N = |beta u| + |current| = 2; the push on u is beta R / N.
    assert (-before.weight.grad).tolist() == [[0.25, 0.25]]


@pytest.mark.parametrize("reset_delay", [True, False])
def test_membrane_at_the_threshold_does_not_fire(reset_delay: bool) -> None:
    neuron = snntorch.Leaky(1.0, 1.0, step_function, reset_delay=reset_delay).double()
    layer, x, one = nn.Linear(1, 1).double(), torch.ones(1, 1).double(), torch.ones(1, 1).double()
    expected = neuron(layer(x), one)
    with lfp.feedback(0.1):
        found = nn.Sequential(layer)(x)
        found = neuron(found, one)
    torch.testing.assert_close([t.detach() for t in found], [t.detach() for t in expected])


@pytest.mark.parametrize("mechanism", ["subtract", "zero"])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_scan_outside_of_the_context_is_a_loop(mechanism: str, grad: bool, steps: int) -> None:
    def neuron() -> Any:
        leaky = snntorch.Leaky(0.9, 1.0, step_function, init_hidden=True, reset_mechanism=mechanism)
        return leaky.double()

    currents = 1.5 * torch.ones(steps, 2, 3).double()
    with torch.set_grad_enabled(grad):
        one, other = neuron(), neuron()
        expected = torch.stack([one(current) for current in currents])
        torch.testing.assert_close(spiking.scan(other, currents), expected)


def test_scan_of_an_unsupported_neuron_without_gradients_is_a_loop() -> None:
    one, other = (snntorch.Leaky(0.9, graded_spikes_factor=2.0, init_hidden=True) for _ in "ab")
    currents = 1.5 * torch.ones(4, 2, 3)
    with torch.no_grad():
        expected = torch.stack([one(current) for current in currents])
        assert torch.equal(spiking.scan(other, currents), expected)


def test_neuron_without_a_rule_is_paid_what_its_input_owes_if_not_strict() -> None:
    layer, x = nn.Linear(3, 2).double(), torch.ones(4, 3).double()
    nn.init.ones_(layer.weight)  # so that it spikes

    def feedback(before: Callable[[Tensor], Tensor]) -> Tensor:
        neuron = snntorch.Leaky(0.9, 1.0, init_hidden=False).double()

        class Fires(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                spikes: Tensor = neuron.fire(before(layer(x)))
                return spikes

        layer.weight.grad = None
        with lfp.feedback(0.5, strict=False):
            spikes = Fires()(x)
        lfp.backward(spikes, torch.ones_like(spikes))
        assert layer.weight.grad is not None
        assert layer.weight.grad.all()
        return layer.weight.grad

    torch.testing.assert_close(feedback(lambda h: h), feedback(lfp.activation))
