"""What the options of the context decide, per connection: gates, units, normalisation.

And what products, quotients, powers and biases behind a layer share, in every combination of them.
The oracle says what each option means, as it does for everything else.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import Tensor, nn

import lfp_core as lfp
from lfp_core import calls, elementwise, functions, layers, propagation
from lfp_core.calls import Call, Operation
from lfp_core.marks import ACTIVATION, Mark, used
from lfp_core.propagation import Gates, Normalisation, Units
from lfp_core.slopes import SecantSlope
from validation import oracle
from validation.compare import engine_feedback, relative_error
from validation.networks import Exp, Gated
from validation.selection import example_of, examples
from validation.strategies import OFFSETS, Case, cases, epsilons, products, transformers

TOLERANCE = 1e-9
GATES: tuple[Gates, ...] = ("signal", "uniform")
UNITS: tuple[Units, ...] = ("identity", "reverse", "shifted")
NORMALISATIONS: tuple[Normalisation, ...] = ("gradient", "identity")


def disagreement(case: Case, epsilon: float, **options: Any) -> float | None:
    """Return the relative error against the oracle; None if some sum cancels too far to tell."""
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = oracle.run(case.model, case.inputs, lambda _: case.reward, epsilon, **options)
    if expected.condition > 1e5 or not np.isfinite(expected.outputs).all():  # a quotient by 0
        return None
    found = engine_feedback(case.model, case.inputs, lambda _: case.reward, epsilon, **options)
    assert set(found) == set(expected.feedback)
    return relative_error(found, expected.feedback)


def assert_agreement(case: Case, epsilon: float, **options: Any) -> None:
    """Assert that the engine equals the oracle, if the case allows to tell."""
    error = disagreement(case, epsilon, **options)
    if error is None:
        reject()
    assert error < TOLERANCE


# --- the oracle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("gates", GATES)
def test_products_quotients_and_powers_equal_the_oracle(gates: Gates, units: Units) -> None:
    @examples(60)
    @given(products(), epsilons())
    def check(case: Case, epsilon: float) -> None:
        assert_agreement(case, epsilon, gates=gates, units=units)

    check()


@pytest.mark.parametrize("kind", ["gated", "quotient", "power", "root", "biased"])
def test_each_of_them_alone_equals_the_oracle(kind: str) -> None:
    @examples(40)
    @given(products((kind,)), epsilons())
    def check(case: Case, epsilon: float) -> None:
        assert_agreement(case, epsilon)

    check()


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", OFFSETS)
def test_units_equal_the_oracle(name: str, units: Units) -> None:
    @examples(40)
    @given(products(("unit", "gated", "biased"), (name,)), epsilons())
    def check(case: Case, epsilon: float) -> None:
        assert_agreement(case, epsilon, units=units)

    check()


@pytest.mark.parametrize("gates", GATES)
def test_gates_of_transformers_equal_the_oracle(gates: Gates) -> None:
    @examples(40)
    @given(transformers(["sigmoid", "silu"]), epsilons())
    def check(case: Case, epsilon: float) -> None:
        assert_agreement(case, epsilon, gates=gates)

    check()


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_constant_statistics_equal_the_oracle(train: bool) -> None:
    @examples(80)
    @given(cases(train=train), epsilons())
    def check(case: Case, epsilon: float) -> None:
        assert_agreement(case, epsilon, normalisation="identity")

    check()


@examples(40)
@given(transformers(), epsilons(), st.sampled_from(GATES), st.sampled_from(UNITS))
def test_all_of_them_together(case: Case, epsilon: float, gates: Gates, units: Units) -> None:
    assert_agreement(case, epsilon, gates=gates, units=units, normalisation="identity")


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_an_epsilon_of_the_outputs_equals_the_oracle(train: bool) -> None:
    @examples(60)
    @given(cases(train=train), epsilons(), epsilons())
    def check(case: Case, epsilon: float, own: float) -> None:
        assert_agreement(case, epsilon, output_epsilon=own)

    check()


# --- what must be caught --------------------------------------------------------------------------


def roles(patch: pytest.MonkeyPatch, *gates: Operation) -> None:
    """Let these functions make gates, and no others."""
    for operation, unit in functions.UNITS.items():
        mark = unit.mark._replace(role="gate" if operation in gates else "")
        patch.setitem(functions.UNITS, operation, unit._replace(mark=mark))


def no_gates(patch: pytest.MonkeyPatch) -> None:
    """Take no function for a gate."""
    roles(patch)


def all_gates(patch: pytest.MonkeyPatch) -> None:
    """Take every function with f(0) != 0 for a gate."""
    roles(patch, *functions.OFFSET)


def whole_shares(patch: pytest.MonkeyPatch) -> None:
    """Give every operand all of the reward."""

    def all_of_it(tensor: Tensor, mark: Mark | None, share: float = 1.0, **place: bool) -> Tensor:
        return used(tensor, mark, **place)

    patch.setattr(calls, "used", all_of_it)


def no_degrees(patch: pytest.MonkeyPatch) -> None:
    """Forget that the chain rule multiplies the reward of a power by its exponent."""

    def undivided(tensor: Tensor, mark: Mark | None, *args: Any, **kwargs: Any) -> Tensor:
        return used(tensor, mark and mark._replace(degree=1.0), *args, **kwargs)

    for module in (calls, elementwise, layers):
        patch.setattr(module, "used", undivided)


def separate_bias(patch: pytest.MonkeyPatch) -> None:
    """Let a bias behind a layer be a layer of its own."""
    patch.setattr("lfp_core.sums.ADDITIONS", set[Any]())


class Deaf:
    """Secant slopes that do not hear of `units`."""

    @staticmethod
    def apply(*args: Any) -> Any:
        """Do as if it was "identity"."""
        return SecantSlope.apply(*args[:-1], "identity")


def deaf_units(patch: pytest.MonkeyPatch) -> None:
    """Treat functions with f(0) != 0 as the others."""
    patch.setattr(elementwise, "SecantSlope", Deaf)


def plain_normalised(patch: pytest.MonkeyPatch) -> None:
    """Let the reward of a statistic pass through it, whatever the option says."""

    def through(call: Call, *_: Any) -> Any:
        (statistic,) = (a for a, mark in call.active if mark.role == "statistic")
        call.replace(statistic, ACTIVATION)
        return call.run(call.kind())

    patch.setattr("lfp_core.products.normalised", through)


def deaf_outputs(patch: pytest.MonkeyPatch) -> None:
    """Let the outputs have the epsilon of the rule that made them, whatever they are given."""
    seed = propagation._seed

    def deaf(outputs: Tensor, reward: Tensor, name: str, epsilon: float | None) -> Tensor:
        return seed(outputs, reward, name, None)

    patch.setattr(propagation, "_seed", deaf)


def epsilon_everywhere(patch: pytest.MonkeyPatch) -> None:
    """Let every layer have the epsilon of the outputs."""
    patch.setattr(lfp.feedback, "owing", lambda _: Mark("activation", epsilon=OF_OUTPUTS))


OF_OUTPUTS = 0.5
Damage = Callable[[pytest.MonkeyPatch], None]
BROKEN: dict[str, tuple[Damage, st.SearchStrategy[Case], dict[str, Any]]] = {
    "no gates": (no_gates, products(("gated",)), {"gates": "signal"}),
    "all gates": (all_gates, products(("gated",)), {"gates": "signal"}),
    "shares of a gate": (whole_shares, products(("gated",)), {"gates": "uniform"}),
    "shares of a quotient": (whole_shares, products(("quotient",)), {}),
    "degree of a power": (no_degrees, products(("power",)), {}),
    "degree of a root": (no_degrees, products(("root",)), {}),
    "bias of its own": (separate_bias, products(("biased",)), {}),
    "reverse": (deaf_units, products(("unit",)), {"units": "reverse"}),
    "shifted": (deaf_units, products(("unit",)), {"units": "shifted"}),
    "statistics": (plain_normalised, cases(train=True), {"normalisation": "identity"}),
    "outputs": (deaf_outputs, cases(), {"output_epsilon": OF_OUTPUTS}),
    "outputs alone": (epsilon_everywhere, cases(), {"output_epsilon": OF_OUTPUTS}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_treatment_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, strategy, options = BROKEN[name]
    damage(monkeypatch)

    def differs(case: Case) -> bool:
        error = disagreement(case, 1e-2, **options)
        return error is not None and not error <= TOLERANCE  # NaN, too

    case = example_of(strategy, differs, tries=500)
    monkeypatch.undo()
    error = disagreement(case, 1e-2, **options)
    assert error is not None
    assert error < TOLERANCE


@pytest.mark.parametrize(
    ("strategy", "one", "other"),
    [
        (products(("gated",)), {"gates": "signal"}, {"gates": "uniform"}),
        (products(("unit",)), {"units": "identity"}, {"units": "reverse"}),
        (products(("unit",)), {"units": "identity"}, {"units": "shifted"}),
        (products(("unit",)), {"units": "reverse"}, {"units": "shifted"}),
        (cases(train=True), {"normalisation": "gradient"}, {"normalisation": "identity"}),
        (cases(), {"output_epsilon": None}, {"output_epsilon": OF_OUTPUTS}),
    ],
)
def test_options_are_not_the_same(
    strategy: st.SearchStrategy[Case], one: dict[str, Any], other: dict[str, Any]
) -> None:
    def differ(case: Case) -> bool:
        found = [
            engine_feedback(case.model, case.inputs, lambda _: case.reward, 1e-2, **options)
            for options in (one, other)
        ]
        return relative_error(*found) > 0.1

    example_of(strategy, differ, tries=500)


# --- by hand --------------------------------------------------------------------------------------

EPSILON = 0.1


def rewards_by_hand(model: nn.Sequential, x: float, **options: Any) -> tuple[float, float]:
    """Return the reward of the input 1 for a reward of 1, of the engine and of the oracle."""
    inputs = torch.tensor([[x]], dtype=torch.float64, requires_grad=True)
    with lfp.feedback(EPSILON, **options):
        outputs = model(inputs)
    lfp.backward(outputs, torch.ones_like(outputs))
    assert inputs.grad is not None
    trace = oracle.run(model, inputs, torch.ones_like, EPSILON, **options)
    return float(-inputs.detach() * inputs.grad), trace.input_reward.item()


def line(weight: float) -> nn.Linear:
    """Return a layer of one weight."""
    layer = nn.Linear(1, 1, bias=False).double()
    layer.weight.data.fill_(weight)
    return layer


@pytest.mark.parametrize(
    ("units", "factor"),
    [
        ("identity", 1.0),
        ("reverse", -1.0),  # exp(-1) > 0 > -1
        ("shifted", (math.exp(-1) - 1) / math.exp(-1)),
    ],
)
def test_units_by_hand(units: Units, factor: float) -> None:
    """z = -1, a = exp(z), o = 3 a: the reward of a is ``o / (o + eps)``, that of x by `units`."""
    model = nn.Sequential(line(-1.0), Exp(), line(3.0))
    o = 3 * math.exp(-1)
    expected = -1 / (-1 - EPSILON) * factor * o / (o + EPSILON)
    assert rewards_by_hand(model, 1.0, units=units) == pytest.approx((expected,) * 2, rel=1e-14)


@pytest.mark.parametrize(("gates", "parts"), [("signal", (0.0, 1.0)), ("uniform", (0.5, 0.5))])
def test_gates_by_hand(gates: Gates, parts: tuple[float, float]) -> None:
    """g = sigmoid(2), v = -3, o = g v: each factor's part passes its layer's epsilon rule."""
    model = nn.Sequential(Gated(nn.Sequential(line(2.0), nn.Sigmoid()), line(-3.0)))
    expected = parts[0] * 2 / (2 + EPSILON) + parts[1] * 3 / (3 + EPSILON)
    assert rewards_by_hand(model, 1.0, gates=gates) == pytest.approx((expected,) * 2, rel=1e-14)


def of_outputs(model: nn.Module, epsilon: float, own: float | None) -> Tensor:
    """Return the feedback of a layer of one weight, 3, for an output of 0.6 and a reward of 1."""
    layer = line(3.0)
    inputs = torch.tensor([[0.2]], dtype=torch.float64)
    with lfp.feedback(epsilon):
        outputs = nn.Sequential(layer, model)(inputs)
    lfp.backward(outputs, torch.ones_like(outputs), epsilon=own)
    assert layer.weight.grad is not None
    return -layer.weight.grad


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 5.0])
@pytest.mark.parametrize("own", [0.0, 0.3])
def test_outputs_with_an_epsilon_by_hand(epsilon: float, own: float) -> None:
    """o = 0.6: the weight gets 0.2 * 3 / (0.6 + own); behind ReLU, its own factor comes to it."""
    expected = 0.2 * 3 / (0.6 + own)
    assert of_outputs(nn.Identity(), epsilon, own).item() == pytest.approx(expected, rel=1e-14)
    behind_relu = expected * 0.6 / (0.6 + epsilon)
    assert of_outputs(nn.ReLU(), epsilon, own).item() == pytest.approx(behind_relu, rel=1e-14)


@examples(40)
@given(cases(), epsilons())
def test_the_context_s_own_epsilon_changes_nothing(case: Case, epsilon: float) -> None:
    found = [
        engine_feedback(case.model, case.inputs, lambda _: case.reward, epsilon, output_epsilon=own)
        for own in (None, epsilon)
    ]
    assert relative_error(*found) == 0


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, True, "0.1"])
def test_what_is_no_epsilon_of_outputs_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^epsilon must be .*not "):
        of_outputs(nn.Identity(), 0.1, wrong)


# --- constants ------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False], ids=["in a module", "outside"])
def test_what_is_made_of_constants_is_a_constant(inside: bool) -> None:
    """A product with one is scaled, which owes no stabiliser; one with a weight is a layer."""
    torch.manual_seed(0)
    layer, x = nn.Linear(2, 3).double(), torch.randn(4, 2).double()
    variance, push = torch.rand(3).double(), torch.randn(4, 3).double()

    class Scaled(nn.Module):
        def __init__(self, scale: Callable[[], Tensor]) -> None:
            super().__init__()
            self.layer, self.scale = layer, scale

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.scale()

    def found(scale: Callable[[], Tensor]) -> dict[Tensor, Tensor]:
        layer.zero_grad()
        with lfp.feedback(EPSILON):
            outputs = Scaled(scale)(x) if inside else layer(x) * scale()
        lfp.backward(outputs, -push * outputs.detach())
        return {p: p.grad.clone() for p in layer.parameters() if p.grad is not None}

    ready = (variance + 1).rsqrt()
    expected = found(lambda: ready)
    assert relative_error(found(lambda: torch.rsqrt(variance + 1)), expected) == 0
    weight = nn.Parameter(ready.clone())
    assert relative_error(found(lambda: weight), expected) > 1e-3
