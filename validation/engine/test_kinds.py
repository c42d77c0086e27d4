"""What the engine takes a tensor for, where that decides what others get of a reward.

Each test has a tensor whose kind is known by how it was made, and asks what is shared with it.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import lfp_core as lfp
from lfp_core import _torch
from lfp_core.calls import overwrites
from lfp_core.marks import ATTRIBUTE, COMPILED
from validation.shares import Net, feedback_to, pushes, rewards, stabilised

REFUSED = lfp.UnsupportedOperation
pytestmark = pytest.mark.usefixtures("double")


def positive(*shape: int) -> Tensor:
    return 0.5 + torch.rand(*shape)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(positive(*shape))


# --- activations that nothing trains --------------------------------------------------------------


def written(h: Tensor) -> Tensor:
    """Return it with another first element."""
    h = h.clone()
    h[:1].add_(1.0)
    return h


def written_later(h: Tensor) -> Tensor:
    """Return a view of a memory that it is written to afterwards."""
    memory = torch.zeros(4)
    view = memory[:]
    memory.add_(h)
    return view


#: What a function makes of an activation and the output h of a frozen layer, and the part of the
#: reward that the activation gets.
WITH_FROZEN: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "product": (lambda a, h: a * h, 0.5),
    "product behind a function": (lambda a, h: a * h.relu(), 0.5),
    "product behind a root": (lambda a, h: a * h**0.5, 0.5),
    "product behind a norm": (lambda a, h: a / h.norm().clamp_min(1e-12), 1.0),
    "product behind a sum of roots": (lambda a, h: a / h.abs().sqrt().sum(), 1.0),
    "product behind a sum": (lambda a, h: a * (h + 1.0), 0.5),
    "product with a gate": (lambda a, h: a * h.sigmoid(), 1.0),
    "product with a mask": (lambda a, h: a * (h > 0), 1.0),
    "product with a mask of its type": (lambda a, h: a * (h > 0).to(h), 1.0),
    "product with what is written in part": (lambda a, h: a * written(h), 0.5),
    "product with what is written": (lambda a, h: a * h.clone().add_(1.0), 0.5),
    "product with what is written to its memory": (lambda a, h: a * written_later(h), 0.5),
    "product with a constant of its shape": (lambda a, h: a * torch.full_like(h, 2.0), 1.0),
}


@pytest.mark.parametrize("name", WITH_FROZEN)
def test_frozen_layers_make_activations(name: str) -> None:
    function, share = WITH_FROZEN[name]
    weight = positive(4, 1)

    def whole(a: Tensor) -> Tensor:
        one = lfp.activation(torch.ones(1))
        return function(a, F.linear(one, nn.Parameter(weight, requires_grad=False)))

    values = positive(4)
    (found,) = rewards(whole, values)
    torch.testing.assert_close(found, share * function(values, weight[:, 0]).cos())


def test_order_of_a_frozen_layer_moves_values_and_is_none() -> None:
    """So what it moves stays the gate that it was."""
    weight = positive(4, 1)

    def function(a: Tensor, b: Tensor) -> Tensor:
        one = lfp.activation(torch.ones(1))
        _, order = F.linear(one, nn.Parameter(weight, requires_grad=False)).sort()
        return a.sigmoid()[order] * b

    a, b = positive(4), positive(4)
    _, found = rewards(function, a, b)
    torch.testing.assert_close(found, (a.sigmoid()[weight[:, 0].argsort()] * b).cos())


def test_product_of_frozen_unknowns_is_unknown() -> None:
    """Where no module is called, a plain tensor times a parameter may be an activation or not."""
    x, p, q = positive(4), positive(4), positive(4)
    p, q = (nn.Parameter(t, requires_grad=False) for t in (p, q))
    weight = parameter(4, 4)
    with lfp.feedback(0.1):
        y = F.linear(x, weight) * ((x * p) * (x * q))
    with pytest.raises(REFUSED, match="may be a weight"):
        lfp.backward(y, y.detach())


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("of", [lambda x: x, torch.relu, lambda x: x.clone()])
def test_data_get_nothing_of_a_product(of: Callable[[Tensor], Tensor], wanted: bool) -> None:
    x, weight = positive(4), parameter(4, 4)
    found = feedback_to(
        weight, lambda x: of(x) * F.linear(x, weight), x.clone().requires_grad_(wanted)
    )
    z = F.linear(x, weight.detach())
    expected = torch.outer((x * z).cos() / stabilised(z, 0.1), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("wanted", [False, True])
def test_what_is_said_to_be_data_is_as_data(wanted: bool) -> None:
    x, layer = positive(4).requires_grad_(wanted), nn.Linear(4, 4)
    with lfp.feedback(0.1):
        given = lfp.activation(x)
        y = given * layer(given)
    lfp.backward(y, y.detach().cos())
    z = layer(x).detach()
    push = (x * z).cos() / stabilised(z, 0.1)
    assert layer.bias.grad is not None
    torch.testing.assert_close(-layer.bias.grad, layer.bias.detach().abs() * push.detach())


def test_input_that_was_written_to_before_is_data() -> None:
    weight, x = parameter(4), positive(4)
    x.mul_(2).add_(1)
    version = x._version
    assert version > 1
    found = feedback_to(weight, lambda x: x * weight, x.requires_grad_())
    y = (x * weight).detach()
    torch.testing.assert_close(found, x.detach() * y.cos() / stabilised(y, 0.1))


def test_input_behind_a_hook_is_data() -> None:
    weight, x = parameter(4), positive(4).requires_grad_()
    plain = feedback_to(weight, lambda x: x * (x * weight), x)
    weight.grad = torch.zeros(4)
    model = Net(lambda x: x * (x * weight))
    model.register_full_backward_hook(lambda *_: None)
    with lfp.feedback(0.1):
        y = model(x)
    lfp.backward(y, y.detach().cos())
    assert weight.grad is not None
    torch.testing.assert_close(-weight.grad / weight.detach(), plain)


def test_parameter_as_an_input_behind_a_hook_is_no_data() -> None:
    prompt, weight = parameter(4), parameter(4, 4)
    model = Net(lambda x: F.linear(x, weight))
    model.register_full_backward_hook(lambda *_: None)
    with lfp.feedback(0.1):
        y = model(prompt)
    with pytest.raises(REFUSED):
        lfp.backward(y, y.detach())


def test_what_was_made_before_the_context_is_no_data() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    hidden = first(positive(4))
    with lfp.feedback(0.1):
        y = second(hidden)
    with pytest.raises(REFUSED):
        lfp.backward(y, y.detach())


def test_nothing_is_left_on_data_and_named_weights() -> None:
    x, weight = positive(4), positive(4).requires_grad_()
    with lfp.feedback(0.1, parameters=[weight]):
        with lfp.feedback(0.1, parameters=[weight]):
            y = Net(lambda x: F.softplus(F.glu(x * weight, 0)))(x)
        assert hasattr(weight, ATTRIBUTE)
    assert not hasattr(x, ATTRIBUTE)
    assert not hasattr(weight, ATTRIBUTE)
    lfp.backward(y, y.detach())


# --- weights --------------------------------------------------------------------------------------


class Named(nn.Parameter):
    """A parameter of a class of its own."""


def test_parameters_of_a_class_of_ones_own_are_parameters() -> None:
    x, plain = positive(4), parameter(4)
    own = Named(plain.detach().clone())
    torch.testing.assert_close(
        feedback_to(own, lambda x: F.relu(x * own), x),
        feedback_to(plain, lambda x: F.relu(x * plain), x),
    )


def test_number_times_a_weight_is_a_weight_and_a_vector_may_be_data() -> None:
    matrix, weight, x, vector = parameter(4, 4), parameter(4), positive(4), positive(4)
    with lfp.feedback(0.1):
        y = F.linear(x, matrix) * (torch.tensor(2.0) * weight)
    lfp.backward(y, y.detach())
    with lfp.feedback(0.1):
        y = F.linear(x, matrix) * (vector * weight)
    with pytest.raises(REFUSED, match="may be a weight"):
        lfp.backward(y, y.detach())


@pytest.mark.parametrize(
    "through", [torch.relu, lambda u: u.relu() + 1.0, lambda u: u.reshape(2, 2).flatten()]
)
def test_what_may_be_a_weight_stays_in_doubt(through: Callable[[Tensor], Tensor]) -> None:
    matrix, weight, x = parameter(4, 4), parameter(4), positive(4)
    with lfp.feedback(0.1):
        y = F.linear(x, matrix) * through(x * weight)
    with pytest.raises(REFUSED, match="may be a weight"):
        lfp.backward(y, y.detach())


def doubtful(function: Callable[..., Tensor], epsilon: float) -> tuple[Tensor, nn.Parameter]:
    """Return a function of a layer's output, of what may be a weight, and of another layer."""
    torch.manual_seed(0)
    one, other, weight, x = parameter(4, 4), parameter(4, 4), parameter(4), positive(4)
    with lfp.feedback(epsilon):
        y = function(F.linear(x, one), x * weight, F.linear(x, other))
    return y, weight


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
@pytest.mark.parametrize(
    "function",
    [torch.addcmul, lambda h, u, g: torch.addcdiv(h, g, u)],
)
def test_sum_of_products_of_what_may_be_a_weight_is_refused(
    function: Callable[..., Tensor], epsilon: float
) -> None:
    y, _ = doubtful(function, epsilon)
    with pytest.raises(REFUSED, match="may be a weight"):
        lfp.backward(y, y.detach())


def test_sum_with_what_may_be_a_weight_is_refused_if_epsilon_tells() -> None:
    y, _ = doubtful(lambda h, u, g: h + u + g, 0.5)
    with pytest.raises(REFUSED, match="may be a weight"):
        lfp.backward(y, y.detach())


@pytest.mark.parametrize(
    "function",
    [
        lambda h, u, g: h + u,
        lambda h, u, g: torch.addcmul(h, u, torch.tensor(2.0)),
        lambda h, u, g: torch.addcmul(u, h, torch.tensor(2.0)),
    ],
)
def test_sum_with_what_may_be_a_weight_is_one_at_epsilon_0(function: Callable[..., Tensor]) -> None:
    y, weight = doubtful(function, 0.0)
    lfp.backward(y, y.detach())
    assert weight.grad is not None
    assert weight.grad.all()


def test_parameter_that_is_written_to_without_gradients_stays_one() -> None:
    """A running mean may be kept in a parameter."""
    layer, weight = nn.Linear(4, 4), parameter(4)

    def function(x: Tensor) -> Tensor:
        h = layer(x)
        with torch.no_grad():
            weight.add_(0 * h)
        return F.relu(h) * weight

    x = positive(4)
    found = feedback_to(weight, function, x)
    h = F.relu(layer(x)).detach()
    y = h * weight.detach()
    torch.testing.assert_close(found, h * y.cos() / stabilised(y, 0.1))


def test_constant_that_a_function_without_gradients_makes_of_data_is_data() -> None:
    weight, factor, x = parameter(4), parameter(4), positive(4)

    def function(x: Tensor) -> Tensor:
        number: Any = x.mean()
        return F.linear(x, weight.diag()) * (torch.full((4,), number) * factor)

    found = feedback_to(weight, function, x)
    z = x * weight.detach()
    y = z * x.mean() * factor.detach()
    torch.testing.assert_close(found, 0.5 * x * y.cos() / stabilised(z, 0.1))


# --- operations that change nothing, or are none --------------------------------------------------


def test_what_is_returned_as_it_was_is_the_same_tensor() -> None:
    def function(a: Tensor) -> Tensor:
        assert F.dropout(a, training=False) is a
        assert F.alpha_dropout(a, training=False) is a
        return a

    pushes(function, positive(4))


def test_hooks_and_kept_gradients_are_of_the_tensor_itself() -> None:
    seen: list[Tensor] = []
    kept: list[Tensor] = []

    def function(a: Tensor) -> Tensor:
        a.retain_grad()  # which owes epsilon, so that operations consume another tensor
        a.register_hook(seen.append)
        kept.append(a)
        return a * 2

    for strict in (True, False):
        pushes(function, positive(4), strict=strict)
        assert torch.equal(seen.pop(), kept.pop().grad)  # type: ignore[arg-type]


def test_write_without_gradients_leaves_what_was_consumed() -> None:
    def function(a: Tensor) -> Tensor:
        b = a * 2  # keeps a, for epsilon
        with torch.no_grad():
            a.add_(1)
        return b

    values = positive(2, 2)
    torch.testing.assert_close(
        pushes(lambda a: function(a.reshape(-1)), values), pushes(lambda a: a * 2, values)
    )


def test_weights_made_of_a_constant_and_a_parameter_where_no_mode_sees() -> None:
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, constant: Tensor, weight: Tensor) -> Tensor:
            ctx.save_for_backward(constant)
            return constant * weight

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
            (constant,) = ctx.saved_tensors
            return None, g * constant

    x, weight, constant = positive(4), parameter(4, 4), positive(4, 4)
    for made in (lambda: weight, lambda: 2 * weight):
        torch.testing.assert_close(
            feedback_to(weight, lambda x, m=made: F.linear(x, Product.apply(constant, m())), x),
            feedback_to(weight, lambda x, m=made: F.linear(x, constant * m()), x),
        )


def test_outputs_behind_a_hook_are_told_apart() -> None:
    """The second of two outputs is a gate, which gets nothing of a product."""

    def run(hooked: bool) -> list[Tensor]:
        both = Net(lambda a, b: (a.relu(), b.sigmoid()))
        if hooked:
            both.register_full_backward_hook(lambda *_: None)

        def function(a: Tensor, b: Tensor) -> Tensor:
            h, gate = both(a, b)
            return h * gate

        torch.manual_seed(1)
        return rewards(function, positive(4), positive(4))

    torch.testing.assert_close(run(True), run(False))
    assert not run(True)[1].any()


# --- what overwrites ------------------------------------------------------------------------------


def test_calls_that_overwrite() -> None:
    x = positive(4)
    assert overwrites(F.dropout, (x, 0.5, True, True), {})
    assert not overwrites(F.dropout, (x, 0.5, True, False), {})
    assert not overwrites(F.dropout, (x, 0.5), {})
    assert overwrites(F.relu, (x,), {"inplace": True})
    assert not overwrites(F.relu, (x,), {"inplace": False})
    assert overwrites(torch.relu_, (x,), {})


def test_view_of_what_a_compiled_graph_made_is_not_written_to() -> None:
    def function(a: Tensor) -> Tensor:
        h = a * 2
        setattr(h, ATTRIBUTE, getattr(h, ATTRIBUTE)._replace(version=COMPILED))
        part = h[:2]
        part += 1.0
        return h

    with pytest.raises(REFUSED, match="of a view"):
        pushes(function, positive(4))

    def whole(a: Tensor) -> Tensor:
        h = a * 2
        setattr(h, ATTRIBUTE, getattr(h, ATTRIBUTE)._replace(version=COMPILED))
        h += 1.0
        return h

    values = positive(4)
    torch.testing.assert_close(pushes(whole, values), pushes(lambda a: a * 2 + 1.0, values))


@pytest.mark.parametrize("write", [torch.relu_, torch.sigmoid_, lambda h: h.neg_().relu_()])
def test_layer_of_tokens_may_be_overwritten(write: Callable[[Tensor], Tensor]) -> None:
    """Its output is a view of what no rule has seen."""
    weight, bias, x = parameter(4, 4), parameter(4), positive(2, 3, 4) - 1.0
    found = feedback_to(weight, lambda x: write(F.linear(x, weight, bias)), x)
    copied = feedback_to(weight, lambda x: write(F.linear(x, weight, bias).clone()), x)
    torch.testing.assert_close(found, copied)


def test_view_that_a_custom_function_makes_of_an_activation_is_refused() -> None:
    class View(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, h: Tensor) -> Tensor:
            return h.view_as(h)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 3 * g

    with pytest.raises(REFUSED, match="ViewBackward"):
        pushes(lambda a: View.apply(a) * 2, positive(4))


def test_gate_that_is_written_to_in_part_is_a_gate() -> None:
    """As is the same out of place."""

    def in_place(a: Tensor, b: Tensor) -> Tensor:
        gate = a.sigmoid()
        gate[:2].mul_(b[:2])
        return gate

    def out_of_place(a: Tensor, b: Tensor) -> Tensor:
        gate = a.sigmoid()
        return torch.cat([gate[:2] * b[:2], gate[2:]])

    values = positive(4), positive(4)
    torch.testing.assert_close(rewards(in_place, *values), rewards(out_of_place, *values))


# --- messages, and the order of contexts ----------------------------------------------------------


def test_nested_options_are_shown() -> None:
    with (
        lfp.feedback(0.25),
        pytest.raises(ValueError, match=r"\(0\.5, True, .*\) inside of \(0\.25, True, "),
        lfp.feedback(0.5),
    ):
        pass


class Other(TorchFunctionMode):
    """A mode that does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        return func(*args, **(kwargs or {}))


def test_context_that_is_left_before_another_mode_leaves_that_alone() -> None:
    context, other = lfp.feedback(0.1), Other()
    context.__enter__()
    other.__enter__()
    with pytest.raises(RuntimeError, match="another order"):
        context.__exit__(None, None, None)
    assert _torch.active_modes()[-1] is other
    other.__exit__(None, None, None)
    assert _torch.active_modes() == [context]
    TorchFunctionMode.__exit__(context, None, None, None)


def test_refusal_outside_of_a_module_names_the_line() -> None:
    x, weight = positive(4), parameter(4, 4)
    with lfp.feedback(0.1):
        y = torch.special.i1(F.linear(x, weight))
    with pytest.raises(REFUSED, match=r" \[.*test_kinds\.py, line \d+\]"):
        lfp.backward(y, y.detach())


def test_refusal_names_the_function_of_torch_that_the_operation_is_in() -> None:
    def function(a: Tensor, b: Tensor) -> Tensor:
        return F.triplet_margin_loss(a, b, a + b, reduction="none")

    with pytest.raises(REFUSED, match=r"\(in triplet_margin_loss\)"):
        pushes(function, positive(4, 4), positive(4, 4))


@pytest.mark.parametrize(
    ("outputs", "example"),
    [
        (lambda y: [y, y], r"outputs\[0\]"),
        (lambda y: {"a": y}, r"outputs\['a'\]"),
        (lambda y: {(1, 2): y}, r"outputs$"),
        (lambda y: 3.5, r"outputs\['logits'\]"),
    ],
)
def test_advice_for_structures_without_rewards(
    outputs: Callable[[Tensor], Any], example: str
) -> None:
    x = positive(4)
    with lfp.feedback(0.1):
        y = nn.Linear(4, 4)(x)
    with pytest.raises(ValueError, match=f"pass a tensor of it, such as {example}"):
        lfp.backward(outputs(y), torch.ones(4))


def test_weights_and_inputs_carry_no_feedback() -> None:
    weight, x = parameter(4), positive(4).requires_grad_()
    with lfp.feedback(0.1):
        made = weight * 2
    for output in (made, weight, x):
        with pytest.raises(ValueError, match="carry no feedback"):
            lfp.backward(output, torch.ones(4))


def test_output_of_zero_has_no_reward_at_epsilon_0() -> None:
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        layer.weight.copy_(-layer.bias[:, None] * torch.eye(4))
    with lfp.feedback(0.0):
        y = layer(torch.ones(4))
    assert not y.any()
    lfp.backward(y, torch.ones(4))
    assert not layer.weight.grad.any()  # type: ignore[union-attr]


def test_autocast_is_left_to_gpus() -> None:
    assert isinstance(_torch.without_autocast("cpu"), nullcontext)
    off = _torch.without_autocast("cuda")
    assert isinstance(off, torch.autocast)
    assert off.device == "cuda"
    assert not off._enabled


def test_models_with_marks_are_copied_without_them() -> None:
    x = positive(4)
    with lfp.feedback(0.1):
        lfp.activation(x)
    assert torch.equal(copy.deepcopy(x), x)
