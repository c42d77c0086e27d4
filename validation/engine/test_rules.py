"""Rules of one's own: :func:`lfp_core.register_rule`, and support for snntorch."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

import lfp_core as lfp
from lfp_core import operations, spiking  # whose rules must be there before a test changes any
from lfp_core.calls import Args, Call, Context, Kwargs, Operation, key
from lfp_core.sharing import linear, of_several, rescale, total


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Remove what a test registers, which the public interface cannot."""
    before = dict(operations._rules)
    yield
    operations._rules.clear()
    operations._rules.update(before)


def feedback_of(function: Any, epsilon: float = 0.1) -> list[Tensor]:
    """Return the feedback of two layers, whose outputs the function takes."""
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)]).double()
    x = torch.randn(5, 3).double()
    with lfp.feedback(epsilon):
        y = function(*(layer(x) for layer in layers))
    lfp.backward(y, y.detach().cos())
    return [torch.zeros(()) if p.grad is None else p.grad for p in layers.parameters()]


def agree(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Return whether all of the feedback is the same."""
    return all(torch.allclose(f, e) for f, e in zip(found, expected, strict=True))


def mean_of(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of two tensors; what offers itself to the active mode."""
    if has_torch_function((a, b)):
        return handle_torch_function(mean_of, (a, b), a, b)
    return (a + b) / 2


def to_the_first(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Give the second operand nothing."""
    call = Call(context, operation, args, kwargs)
    owing = call.kind()._replace(epsilon=context.stabiliser())
    return call.run(owing, {key(args[1]): 0.0})


# --- registering ----------------------------------------------------------------------------------


def test_function_of_ones_own_follows_the_rule_that_is_registered() -> None:
    lfp.register_rule(mean_of, to_the_first)
    found = feedback_of(mean_of)
    expected = feedback_of(lambda a, b: a * 0.5 + (b * 0.5).detach())
    assert agree(found[:2], expected[:2])
    assert found[0].any()
    assert not found[2].any()


def test_function_of_ones_own_with_no_rule_is_refused_by_its_name() -> None:
    with pytest.raises(lfp.UnsupportedOperation, match="no LFP rule for mean_of"):
        feedback_of(mean_of)


def test_function_of_ones_own_is_itself_outside_of_the_context() -> None:
    lfp.register_rule(mean_of, to_the_first)
    a = torch.ones(3, requires_grad=True)
    mean_of(a, 2 * a).sum().backward()
    assert torch.equal(a.grad, torch.full((3,), 1.5))  # type: ignore[arg-type]


def test_operation_of_torch_follows_the_rule_that_is_registered() -> None:
    """The secant slope of I1, a Bessel function, is what a derivative of that value would be."""

    def function(a: Tensor, _: Tensor) -> Tensor:
        return torch.special.i1(a)

    with pytest.raises(lfp.UnsupportedOperation, match=r"i1.*lfp\.register_rule"):
        feedback_of(function)
    lfp.register_rule(torch.special.i1, of_several)
    slope = feedback_of(lambda a, _: a * (torch.special.i1(a.detach()) / a.detach()))
    assert agree(feedback_of(function), slope)


@torch.library.custom_op("lfp_validation::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    """Return 2 x, as an operation of a library, which the engine cannot look into."""
    return 2 * x


twice.register_autograd(lambda _, gradient: 2 * gradient)
OF_A_LIBRARY: dict[str, Any] = {
    "function": twice,
    "packet": torch.ops.lfp_validation.twice,
    "overload": torch.ops.lfp_validation.twice.default,
}


@pytest.mark.parametrize("registered", OF_A_LIBRARY)
@pytest.mark.parametrize("called", OF_A_LIBRARY)
def test_operation_of_a_library_has_one_rule_by_all_its_names(registered: str, called: str) -> None:
    def function(a: Tensor, _: Tensor) -> Tensor:
        return OF_A_LIBRARY[called](a)

    with pytest.raises(lfp.UnsupportedOperation, match="no LFP rule for twice"):
        feedback_of(function)
    lfp.register_rule(OF_A_LIBRARY[registered], rescale)
    assert agree(feedback_of(function), feedback_of(lambda a, _: 2 * a))
    with pytest.raises(ValueError, match="twice has a rule"):
        lfp.register_rule(OF_A_LIBRARY[called], rescale)


def test_rules_are_listed_and_cannot_be_changed_there() -> None:
    assert mean_of not in lfp.rules()
    lfp.register_rule(mean_of, to_the_first)
    assert lfp.rules()[mean_of] is to_the_first
    assert lfp.rules()[F.linear] is linear
    with pytest.raises(TypeError):
        lfp.rules()[mean_of] = total  # type: ignore[index]


@pytest.mark.parametrize("operation", [F.relu, torch.add, Tensor.add, mean_of])
def test_rule_is_never_replaced(operation: Any) -> None:
    lfp.register_rule(mean_of, to_the_first)
    before = lfp.rules()[operation]
    with pytest.raises(ValueError, match=f"{operation.__name__} has a rule"):
        lfp.register_rule(operation, total)
    assert lfp.rules()[operation] is before


@pytest.mark.parametrize(("operation", "rule"), [("relu", total), (mean_of, "total")])
def test_what_cannot_be_called_is_no_operation_and_no_rule(operation: Any, rule: Any) -> None:
    with pytest.raises(TypeError, match="must be callable"):
        lfp.register_rule(operation, rule)
    assert operation not in lfp.rules()


WEIGHT = nn.Parameter(torch.tensor([0.5, -1.0, 2.0, 1.5]).double())
SAME = {
    "addition of a negative": (lambda a, b: a - b, lambda a, b: a + -b),
    "division by a number": (lambda a, b: a / 4 + b, lambda a, b: a * 0.25 + b),
    "ReLU as clamp": (lambda a, b: a.relu() + b, lambda a, b: a.clamp(min=0) + b),
    "ReLU as a choice": (lambda a, b: a.relu() + b, lambda a, b: torch.where(a > 0, a, 0) + b),
    "ReLU as a mask": (lambda a, b: a.relu() + b, lambda a, b: a * (a > 0) + b),
    "square": (lambda a, b: a**2 + b, lambda a, b: a * a + b),
    "SiLU": (lambda a, b: F.silu(a) + b, lambda a, b: a * a.sigmoid() + b),
    "GELU": (lambda a, b: F.gelu(a), lambda a, b: a * 0.5 * (1 + torch.erf(a / 2**0.5))),
    "GLU": (lambda a, b: F.glu(torch.cat([a, b], 1)), lambda a, b: a * b.sigmoid()),
    "RMSNorm": (
        lambda a, b: F.rms_norm(a, (4,), WEIGHT, 1e-5) + b,
        lambda a, b: a * torch.rsqrt(a.pow(2).mean(-1, keepdim=True) + 1e-5) * WEIGHT + b,
    ),
}
SAME_AT_0 = {
    "mean": (
        lambda a, b: a.mean(-1, keepdim=True) + b,
        lambda a, b: a.sum(-1, keepdim=True) / 4 + b,
    ),
    "sum of three": (
        lambda a, b: a + b + a.sin(),
        lambda a, b: torch.stack([a, b, a.sin()]).sum(0),
    ),
    "LayerNorm": (
        lambda a, b: F.layer_norm(a, (4,)) + b,
        lambda a, b: (
            (a - a.mean(-1, keepdim=True))
            / torch.sqrt(a.var(-1, keepdim=True, correction=0) + 1e-5)
            + b
        ),
    ),
}
DIFFERENT = {
    "softmax": (lambda a, b: a.softmax(-1) + b, lambda a, b: a.exp() / a.exp().sum(-1, True) + b),
    "sigmoid": (lambda a, b: a.sigmoid() + b, lambda a, b: 1 / (1 + torch.exp(-a)) + b),
    "tanh": (lambda a, b: a.tanh() + b, lambda a, b: 2 * torch.sigmoid(2 * a) - 1 + b),
}


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("name", SAME)
def test_spellings_that_the_guide_calls_equal_are(name: str, epsilon: float) -> None:
    one, other = SAME[name]
    assert agree(feedback_of(one, epsilon), feedback_of(other, epsilon))


@pytest.mark.parametrize("name", SAME_AT_0)
def test_spellings_that_agree_at_epsilon_0_alone(name: str) -> None:
    one, other = SAME_AT_0[name]
    assert agree(feedback_of(one, 0.0), feedback_of(other, 0.0))
    assert not agree(feedback_of(one), feedback_of(other))


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("name", DIFFERENT)
def test_spellings_that_differ(name: str, epsilon: float) -> None:
    one, other = DIFFERENT[name]
    assert not agree(feedback_of(one, epsilon), feedback_of(other, epsilon))


# --- support for snntorch -------------------------------------------------------------------------


def spikes(snntorch: Any) -> Tensor:
    """Return the spikes of a small network in the context."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), snntorch.Leaky(0.9, init_hidden=True))
    with lfp.feedback():
        return model(3 * torch.randn(5, 3))


def test_support_for_snntorch_is_undone_and_done_again() -> None:
    snntorch = pytest.importorskip("snntorch", reason="spiking networks are optional")

    def methods() -> tuple[Any, ...]:
        neuron = snntorch.SpikingNeuron
        return snntorch.Leaky.forward, neuron.fire, neuron.mem_reset

    supported = methods()
    found = spikes(snntorch)
    try:
        spiking.uninstall()
        for method in methods():
            assert method.__module__.startswith("snntorch")
            assert not hasattr(method, "__wrapped__")
        spiking.uninstall()  # twice is as once
        model = nn.Sequential(nn.Linear(3, 4), snntorch.Leaky(0.9, init_hidden=True))
        model(3 * torch.ones(5, 3)).sum().backward()  # by the surrogate, as snntorch has it
        assert model[0].weight.grad is not None
    finally:
        spiking.install()
    assert methods() == supported
    spiking.install()
    assert methods() == supported
    again = spikes(snntorch)
    assert torch.equal(again, found)
    lfp.backward(again, torch.ones_like(again))


def test_context_installs_the_support_for_snntorch() -> None:
    snntorch = pytest.importorskip("snntorch", reason="spiking networks are optional")
    supported = snntorch.Leaky.forward
    spiking.uninstall()
    assert snntorch.Leaky.forward is not supported
    try:
        lfp.feedback()
        assert snntorch.Leaky.forward is supported
    finally:
        spiking.install()
