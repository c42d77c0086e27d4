"""The context manager on models of every kind: what it gives, what it leaves, what it refuses.

Values are checked through Theorem 1: at epsilon 0 a ReLU network's feedback is ``-|w| dL/dw``,
which plain autograd computes for any way to write the network down.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import lfp_core as lfp
from lfp_core import functions
from lfp_core.propagation import feedback
from validation.compare import Feedback, engine_feedback, relative_error, weight_scaled_gradient
from validation.networks import Residual

TOLERANCE = 1e-10
Forward = Callable[[Any, Tensor], Tensor]
Module = Callable[[], nn.Module]


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads wait for each other longer than these tensors take
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)


class Written(nn.Module):
    """Layers under the names of the keywords, and a forward pass given as a function."""

    def __init__(self, forward: Forward, **layers: nn.Module) -> None:
        super().__init__()
        self.written = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Run the function on the layers."""
        return self.written(self, x)


def push(outputs: Tensor) -> Tensor:
    """Return dL/do of the loss L = sum(push * o) that all checks use."""
    return torch.cos(torch.arange(outputs.numel())).view_as(outputs).to(outputs)


def reward_of(outputs: Tensor) -> Tensor:
    return -outputs.detach() * push(outputs)


def feedback_of(model: nn.Module, x: Tensor, epsilon: float = 0.1) -> Feedback:
    torch.manual_seed(1)  # the same dropout each time
    return engine_feedback(model, x, reward_of, epsilon)


def randomize(model: nn.Module) -> nn.Module:
    """Give every parameter, also a zero bias or a unit scale, a random value."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def error_of_theorem_1(model: nn.Module, x: Tensor) -> float:
    """Return how far the feedback is from ``-|w| dL/dw``, relatively."""
    # Running statistics, and the vectors of a power iteration, move with every pass.
    start = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    outputs = model(x)
    expected = weight_scaled_gradient(model, (push(outputs) * outputs).sum())
    model.load_state_dict(start)
    assert any(value.any() for value in expected.values())
    return relative_error(feedback_of(model, x, epsilon=0.0), expected)


def bits_equal(a: Feedback, b: Feedback) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(16, 3),
    )


IMAGES = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(0)).double()
VECTORS = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).double()
TOKENS = torch.tensor([[1, 4, 4], [0, 2, 6], [3, 3, 5]])


# --- the context manager --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "epsilon", [-1e-9, -1, math.nan, math.inf, -math.inf, "0.1", None, True, False, 1j, [0.1]]
)
def test_bad_epsilon_raises_value_error_that_shows_it(epsilon: Any) -> None:
    with pytest.raises(ValueError, match=r"epsilon must be .*not ") as error:
        lfp.feedback(epsilon)
    assert repr(epsilon) in str(error.value)


@pytest.mark.parametrize("epsilon", [0, 1, 0.0, 1e-300, 1e300])
def test_any_finite_epsilon_from_zero_is_accepted(epsilon: float) -> None:
    assert lfp.feedback(epsilon).epsilon == epsilon


def test_default_epsilon_is_that_of_the_paper() -> None:
    assert (lfp.feedback().epsilon, lfp.feedback().strict) == (1e-6, True)


def state_of(model: nn.Module) -> list[Any]:
    """Return everything that identifies a model: objects, values, attributes and hooks."""
    state: list[Any] = []
    for name, module in model.named_modules():
        state.append((name, id(module), type(module), type(module).forward))
        state.append(sorted((key, id(value)) for key, value in vars(module).items()))
        for key, value in vars(module).items():
            if isinstance(value, dict):  # parameters, buffers, children, and every kind of hook
                state.append((key, [(k, id(v)) for k, v in value.items()]))
    for parameter in model.parameters():
        state.append((vars(parameter), parameter.requires_grad, parameter._backward_hooks))
        state.append((parameter._version, parameter.grad_fn))
    return state


def test_nothing_is_left_on_the_model() -> None:
    model = small_net().eval()
    before, values = state_of(model), copy.deepcopy(model.state_dict())
    with lfp.feedback():
        outputs = model(IMAGES)
    lfp.backward(outputs, reward_of(outputs))
    model.zero_grad(set_to_none=True)
    assert state_of(model) == before
    assert list(model.state_dict()) == list(values)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), values.values()))  # noqa: B905


def fails(m: Any, x: Tensor) -> Tensor:
    m.a(x).relu()
    raise ArithmeticError


def test_nothing_is_left_after_an_exception() -> None:
    model = Written(fails, a=nn.Linear(6, 3))
    before = state_of(model)
    for _ in range(2):
        with pytest.raises(ArithmeticError), lfp.feedback():
            model(VECTORS)
        assert state_of(model) == before
        assert torch.overrides._get_current_function_mode() is None
    model.written = lambda m, x: m.a(x)
    model(VECTORS).sum().backward()


def test_nothing_is_left_after_a_refusal() -> None:
    model = Written(lambda m, x: m.a(x).cumprod(dim=1), a=nn.Linear(6, 3))
    before = state_of(model)
    with lfp.feedback():
        outputs = model(VECTORS)
    with pytest.raises(lfp.UnsupportedOperation):
        lfp.backward(outputs, reward_of(outputs))
    assert state_of(model) == before
    model(VECTORS).sum().backward()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_forward_is_bit_equal_inside_and_outside(training: bool, epsilon: float) -> None:
    inside, outside = small_net().train(training), small_net().train(training)
    outside.load_state_dict(inside.state_dict())
    torch.manual_seed(2)
    expected = outside(IMAGES)
    torch.manual_seed(2)
    with lfp.feedback(epsilon):
        outputs = inside(IMAGES)
    assert torch.equal(outputs, expected)
    statistics = zip(inside.buffers(), outside.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in statistics)


def test_context_can_be_used_again() -> None:
    model, context = small_net().eval(), lfp.feedback(0.1)
    expected = feedback_of(model, IMAGES)
    for _ in range(3):
        model.zero_grad()
        with context:
            outputs = model(IMAGES)
        lfp.backward(outputs, reward_of(outputs))
        assert all(torch.equal(-p.grad, e) for p, e in expected.items() if p.grad is not None)


def in_place_net() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        out = m.b(F.relu(h))
        out += h
        out.add_(m.b(x))
        out *= 0.5
        out.neg_()
        return m.c(F.dropout(F.relu(out, inplace=True) - h, 0.2, True, True))

    layers = {"a": nn.Linear(6, 6), "b": nn.Linear(6, 6), "c": nn.Linear(6, 3)}
    return Written(forward, **layers)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(
    ("build", "x"), [(small_net, IMAGES), (in_place_net, VECTORS)], ids=["plain", "in place"]
)
def test_nested_contexts_give_the_same_as_one(build: Module, x: Tensor, depth: int) -> None:
    model = build().eval()
    expected = feedback_of(model, x)
    model.zero_grad()
    torch.manual_seed(1)
    with ExitStack() as stack:
        for _ in range(depth):
            stack.enter_context(lfp.feedback(0.1))
        outputs = model(x)
    lfp.backward(outputs, reward_of(outputs))
    assert all(torch.equal(-p.grad, e) for p, e in expected.items() if p.grad is not None)


@pytest.mark.parametrize("outermost", [True, False])
def test_context_goes_along_with_other_function_modes(outermost: bool) -> None:
    model = small_net().eval()
    expected = feedback_of(model, IMAGES)
    contexts: list[Any] = [lfp.feedback(0.1), torch.device("cpu")]
    model.zero_grad()
    with ExitStack() as stack:
        for context in contexts if outermost else reversed(contexts):
            stack.enter_context(context)
        outputs = model(IMAGES)
    lfp.backward(outputs, reward_of(outputs))
    assert all(torch.equal(-p.grad, e) for p, e in expected.items() if p.grad is not None)


def test_ordinary_autograd_is_untouched_afterwards() -> None:
    model = small_net()

    def gradients() -> list[Tensor]:
        torch.manual_seed(3)
        loss = F.cross_entropy(model(IMAGES), torch.tensor([0, 1, 2, 0, 1]))
        return list(torch.autograd.grad(loss, list(model.parameters())))

    before = gradients()
    feedback_of(model, IMAGES)
    with lfp.feedback():
        loss = F.cross_entropy(model(IMAGES), torch.tensor([0, 1, 2, 0, 1]))
    with pytest.raises(lfp.UnsupportedOperation):
        lfp.backward(loss, loss.detach())
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))


def test_backward_may_run_inside_the_context() -> None:
    model = small_net().eval()
    expected = feedback_of(model, IMAGES)
    model.zero_grad()
    with lfp.feedback(0.1):
        outputs = model(IMAGES)
        lfp.backward(outputs, reward_of(outputs))
    assert all(torch.equal(-p.grad, e) for p, e in expected.items() if p.grad is not None)


def test_two_batches_may_be_in_flight() -> None:
    model = small_net().eval()
    first, second = feedback_of(model, IMAGES), feedback_of(model, IMAGES + 1)
    model.zero_grad()
    with lfp.feedback(0.1):
        outputs, others = model(IMAGES), model(IMAGES + 1)
    lfp.backward(others, reward_of(others))
    lfp.backward(outputs, reward_of(outputs))
    assert all(torch.equal(-p.grad, second[p] + first[p]) for p in first if p.grad is not None)


# --- activations in every spelling ----------------------------------------------------------------


def bare(method: str) -> Callable[[Tensor], Tensor]:
    """Return the in-place method as a statement whose result nobody takes."""

    def function(z: Tensor) -> Tensor:
        getattr(z, method)()
        return z

    return function


def discard(function: Callable[..., Any], **options: Any) -> Callable[[Tensor], Tensor]:
    """Return the in-place function as a statement whose result nobody takes."""

    def statement(z: Tensor) -> Tensor:
        function(z, inplace=True, **options)
        return z

    return statement


SPELLINGS: dict[str, tuple[Module, dict[str, Callable[[Tensor], Tensor]]]] = {
    "relu": (
        nn.ReLU,
        {
            "F": F.relu,
            "F inplace": lambda z: F.relu(z, inplace=True),
            "F inplace positional": lambda z: F.relu(z, True),
            "F by keyword": lambda z: F.relu(input=z),
            "F_": F.relu_,
            "torch": torch.relu,
            "torch_": torch.relu_,
            "method": lambda z: z.relu(),
            "method_": lambda z: z.relu_(),
            "bare method_": bare("relu_"),
            "bare F": discard(F.relu),
            "module inplace": nn.ReLU(True),
        },
    ),
    "silu": (
        nn.SiLU,
        {
            "F": F.silu,
            "F inplace": lambda z: F.silu(z, inplace=True),
            "bare F": discard(F.silu),
            "module inplace": nn.SiLU(inplace=True),
        },
    ),
    "tanh": (
        nn.Tanh,
        {
            "F": F.tanh,
            "torch": torch.tanh,
            "torch_": torch.tanh_,
            "method": lambda z: z.tanh(),
            "method_": lambda z: z.tanh_(),
            "bare method_": bare("tanh_"),
        },
    ),
    "sigmoid": (
        nn.Sigmoid,
        {
            "F": F.sigmoid,
            "torch": torch.sigmoid,
            "torch_": torch.sigmoid_,
            "method": lambda z: z.sigmoid(),
            "method_": lambda z: z.sigmoid_(),
            "bare method_": bare("sigmoid_"),
        },
    ),
    "leaky_relu": (
        lambda: nn.LeakyReLU(0.2),
        {
            "F": lambda z: F.leaky_relu(z, 0.2),
            "F by keyword": lambda z: F.leaky_relu(z, negative_slope=0.2),
            "F inplace": lambda z: F.leaky_relu(z, 0.2, True),
            "F_": lambda z: F.leaky_relu_(z, 0.2),
            "bare F": discard(F.leaky_relu, negative_slope=0.2),
            "module inplace": nn.LeakyReLU(0.2, inplace=True),
        },
    ),
    "elu": (
        lambda: nn.ELU(1.7),
        {
            "F": lambda z: F.elu(z, 1.7),
            "F by keyword": lambda z: F.elu(z, alpha=1.7),
            "F inplace": lambda z: F.elu(z, 1.7, True),
            "F_": lambda z: F.elu_(z, 1.7),
            "module inplace": nn.ELU(1.7, inplace=True),
        },
    ),
    "hardtanh": (
        lambda: nn.Hardtanh(-0.5, 0.7),
        {
            "F": lambda z: F.hardtanh(z, -0.5, 0.7),
            "F by keyword": lambda z: F.hardtanh(z, max_val=0.7, min_val=-0.5),
            "F inplace": lambda z: F.hardtanh(z, -0.5, 0.7, True),
            "F_": lambda z: F.hardtanh_(z, -0.5, 0.7),
            "module inplace": nn.Hardtanh(-0.5, 0.7, inplace=True),
        },
    ),
    "hardtanh one-sided": (lambda: nn.Hardtanh(0.0, 0.7), {"F": lambda z: F.hardtanh(z, 0, 0.7)}),
    "relu6": (
        nn.ReLU6,
        {
            "F": F.relu6,
            "F inplace": lambda z: F.relu6(z, inplace=True),
            "as hardtanh": lambda z: F.hardtanh(z, 0.0, 6.0),
            "module inplace": nn.ReLU6(True),
        },
    ),
    "gelu": (nn.GELU, {"F": F.gelu, "F by keyword": lambda z: F.gelu(z, approximate="none")}),
    "gelu tanh": (
        lambda: nn.GELU(approximate="tanh"),
        {"F": lambda z: F.gelu(z, approximate="tanh")},
    ),
    "softplus": (nn.Softplus, {"F": F.softplus, "options": lambda z: F.softplus(z, 1.0, 20.0)}),
    "softplus beta": (
        lambda: nn.Softplus(beta=3.0, threshold=1.0),
        {
            "F": lambda z: F.softplus(z, 3.0, 1.0),
            "F by keyword": lambda z: F.softplus(z, threshold=1.0, beta=3.0),
        },
    ),
    "heaviside": (
        lfp.Heaviside,
        {
            "torch": lambda z: torch.heaviside(z, torch.zeros(())),
            "method": lambda z: z.heaviside(torch.zeros(())),
        },
    ),
}
EVERY_SPELLING = [(name, how) for name, (_, ways) in SPELLINGS.items() for how in ways]


def around(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a network with an activation after a Linear, a normalisation and an in-place sum."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = function(m.a(x))
        h = function(m.norm(m.b(h)))
        out = m.c(h)
        out += h
        return m.d(function(out))

    torch.manual_seed(4)
    return Written(
        forward,
        a=nn.Linear(6, 5),
        b=nn.Linear(5, 5),
        c=nn.Linear(5, 5),
        d=nn.Linear(5, 3),
        norm=nn.LayerNorm(5),
    )


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize(("name", "how"), EVERY_SPELLING)
def test_every_spelling_gives_the_feedback_of_the_module(
    name: str, how: str, epsilon: float
) -> None:
    build, ways = SPELLINGS[name]
    expected = feedback_of(around(build()), VECTORS, epsilon)
    assert all(value.isfinite().all() for value in expected.values())
    found = feedback_of(around(ways[how]), VECTORS, epsilon)
    assert bits_equal(found, expected)


GRID = torch.tensor([-8 + 0.2 * i for i in range(81)] + [1e-300, -1e-300, 1e-9, -1e-9]).double()


def slope_of(
    activation: Callable[[Tensor], Tensor], z: Tensor, epsilon: float, **options: Any
) -> Tensor:
    """Return the factor by which the backward pass of the activation multiplies."""
    x = z.clone().requires_grad_()
    with lfp.feedback(epsilon, **options):
        net_input = F.linear(x, torch.eye(len(z)))  # so that z is the output of an epsilon rule
        outputs = F.linear(activation(net_input), torch.eye(len(z)), torch.full((len(z),), 1e6))
    lfp.backward(outputs, outputs.detach(), epsilon=0.0)  # a push of 1
    assert x.grad is not None
    return -x.grad


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize("name", SPELLINGS)
def test_slope_is_the_secant_slope(name: str, epsilon: float) -> None:
    activation = SPELLINGS[name][0]()
    z = GRID[GRID != 0]
    expected = activation(z) / (z + epsilon * torch.where(z >= 0, 1.0, -1.0))
    assert torch.allclose(slope_of(activation, z, epsilon), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SPELLINGS)
def test_slope_at_zero_is_the_derivative_where_the_activation_is_zero(name: str) -> None:
    activation = SPELLINGS[name][0]()
    z = torch.zeros(1)
    x = z.clone().requires_grad_()
    a = activation(x)
    expected = torch.zeros(1)
    if a.requires_grad and a.item() == 0:
        (expected,) = torch.autograd.grad(a, x)
    assert torch.equal(slope_of(activation, z, 0.0), expected)
    assert torch.equal(slope_of(activation, z, 0.5), a.detach() / 0.5)


#: Functions that need no spelling of their own to be tested: each on its grid of net inputs.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "selu": F.selu,
    "celu": lambda z: F.celu(z, 1.3),
    "mish": F.mish,
    "softsign": F.softsign,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "softshrink": F.softshrink,
    "hardshrink": F.hardshrink,
    "tanhshrink": F.tanhshrink,
    "logsigmoid": F.logsigmoid,
    "threshold": lambda z: F.threshold(z, 0.1, 0.3),
    "threshold below 0": lambda z: F.threshold(z, -0.1, 0.3),
    "clamp": lambda z: z.clamp(-0.5, 0.7),
    "clamp from below": lambda z: z.clamp(min=0.2),
    "clamp by tensors": lambda z: z.clamp(torch.tensor(-0.5), torch.tensor(0.7)),
    "maximum": lambda z: torch.maximum(torch.tensor(0.1), z),
    "minimum": lambda z: z.minimum(torch.tensor(0.1)),
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": lambda z: torch.tan(z / 8),
    "sinh": torch.sinh,
    "asinh": torch.asinh,
    "atan": torch.atan,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "normal distribution": torch.special.ndtr,
    "sinc": torch.sinc,
    "sign": torch.sign,
    "round": torch.round,
    "floor": torch.floor,
    "square": torch.square,
    "cube": lambda z: z**3,
    "power of 5": lambda z: torch.pow(z, 5),
    "root": lambda z: (z + 9).sqrt(),
    "logarithm": lambda z: (z + 9).log(),
    "reciprocal": lambda z: (z + 9).reciprocal(),
    "number by activation": lambda z: 2 / (z + 9),
    "number to the power of activation": lambda z: 2**z,
    "abs": torch.abs,
    "prelu": lambda z: F.prelu(z, torch.tensor(0.3)),
    "remainder": lambda z: z.fmod(0.7),
    "atan2": lambda z: torch.atan2(z, torch.tensor(2.0)),
    "nan_to_num": torch.nan_to_num,
}
#: Functions of z + 9, whose secant goes through -9.
SHIFTED = {"root", "logarithm", "reciprocal", "number by activation"}


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_its_secant_slope(name: str, epsilon: float) -> None:
    function = FUNCTIONS[name]
    z = GRID[GRID != 0]
    whole = z + 9 if name in SHIFTED else z
    expected = function(z) / (whole + epsilon * torch.where(whole >= 0, 1.0, -1.0))
    found = slope_of(function, z, epsilon)
    live = found.isfinite()
    assert live.sum() >= len(z) - 4  # 1e-300 squared is 0
    assert torch.allclose(found[live], expected[live], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - SHIFTED))
def test_slope_at_zero_of_every_function(name: str) -> None:
    function = FUNCTIONS[name]
    x = torch.zeros(1, requires_grad=True)
    a = function(x)
    expected = torch.zeros(1)
    if a.item() == 0:
        (expected,) = torch.autograd.grad(a, x)
    # torch rounds 1 / alpha of celu to float32, and so its derivative.
    assert torch.allclose(slope_of(function, torch.zeros(1), 0.0), expected, rtol=1e-7, atol=0)


#: Functions of which the derivative at 0 depends on an option, where f(0) is 0.
AT_A_BOUND: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp from 0": lambda x: x.clamp(min=0),
    "clamp to 0": lambda x: x.clamp(max=0),
    "clamp between 0 and 1": lambda x: x.clamp(0, 1),
    "clamp between -1 and 0": lambda x: torch.clip(x, max=0, min=-1),
    "clamp around 0": lambda x: torch.clamp(x, -0.5, 0.5),
    "clamp, one bound": lambda x: torch.clamp(x, -1),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_max": lambda x: x.clamp_max(0.5),
    "hardtanh from 0": lambda x: F.hardtanh(x, 0.0, 1.0),
    "hardtanh to 0": lambda x: F.hardtanh(x, -1.0, 0.0),
    "hardtanh around 0": lambda x: F.hardtanh(x, -0.5, 0.5),
    "threshold at 0": lambda x: F.threshold(x, 0.0, 0.0),
    "threshold below 0": lambda x: F.threshold(x, -0.5, 0.0),
    "threshold above 0": lambda x: F.threshold(x, 0.5, 0.0),
    "elu": lambda x: F.elu(x, 0.3),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3),
}


@pytest.mark.parametrize("name", AT_A_BOUND)
def test_slope_at_zero_at_a_bound(name: str) -> None:
    x = torch.zeros(1, requires_grad=True)
    (expected,) = torch.autograd.grad(AT_A_BOUND[name](x), x)
    assert torch.equal(slope_of(AT_A_BOUND[name], torch.zeros(1), 0.0), expected)


UNITS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "softplus": F.softplus,
    "exp": torch.exp,
    "logsigmoid": F.logsigmoid,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "silu": F.silu,
}


@pytest.mark.parametrize("units", ["reverse", "shifted"])
@pytest.mark.parametrize("name", UNITS)
def test_treatments_of_functions_that_are_not_0_at_0(name: str, units: Any) -> None:
    """`reverse` takes the magnitude of the slope, `shifted` the slope of f(z) - f(0)."""
    function, epsilon = UNITS[name], 0.1
    z = GRID[GRID != 0]
    a = function(z)
    offset = function(torch.zeros(()))
    if units == "shifted":
        a = a - offset
    expected = a / (z + epsilon * z.sign())
    if units == "reverse" and offset != 0:
        expected = expected.abs()
    assert torch.allclose(slope_of(function, z, epsilon, units=units), expected, rtol=1e-12)


def test_heaviside_has_no_gradient_outside() -> None:
    model = nn.Sequential(nn.Linear(6, 5), lfp.Heaviside(), nn.Linear(5, 3))
    model(VECTORS).sum().backward()
    first, last = model[0], model[2]
    assert first.weight.grad is None
    assert last.weight.grad is not None
    assert torch.equal(lfp.Heaviside()(torch.tensor([-1.0, -0.0, 0.0, 2.0])), torch.eye(4)[3])


def test_heaviside_network_learns_inside() -> None:
    x = torch.randn(64, 6)
    targets = (x[:, 0] > 0).long()
    # With fewer units or a lower rate, how far it gets depends on the initial weights.
    model = nn.Sequential(nn.Linear(6, 128), lfp.Heaviside(), nn.Linear(128, 2))
    optimizer = torch.optim.SGD(model[:1].parameters(), lr=0.5)  # the hidden layer alone
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        with lfp.feedback():
            outputs = model(x)
        lfp.backward(outputs, lfp.rewards.softmax(outputs, targets))
        nn.utils.clip_grad_norm_(model[:1].parameters(), 1.0)
        optimizer.step()
        losses.append(F.cross_entropy(outputs, targets).item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("follow_up", ["+=", "*=", "dropout in place", "masked_fill_"])
@pytest.mark.parametrize("name", ["leaky_relu", "silu", "elu", "gelu", "softplus", "hardtanh"])
def test_activation_may_be_overwritten_where_autograd_allows_it(name: str, follow_up: str) -> None:
    steps: dict[str, Callable[[Tensor], Tensor]] = {
        "+=": lambda h: h.add_(1.0),
        "*=": lambda h: h.mul_(0.5),
        "dropout in place": lambda h: F.dropout(h, 0.5, True, True),
        "masked_fill_": lambda h: h.masked_fill_(h < 0.1, 0.0),
    }
    copied: dict[str, Callable[[Tensor], Tensor]] = {
        "+=": lambda h: h + 1.0,
        "*=": lambda h: h * 0.5,
        "dropout in place": lambda h: F.dropout(h, 0.5, True),
        "masked_fill_": lambda h: h.masked_fill(h < 0.1, 0.0),
    }
    activation = SPELLINGS[name][0]()
    layers = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 3)}
    in_place = Written(lambda m, x: m.b(steps[follow_up](activation(m.a(x)))), **layers)
    in_place(VECTORS).sum().backward()
    plain = Written(lambda m, x: m.b(copied[follow_up](activation(m.a(x)))), **layers)
    assert bits_equal(feedback_of(in_place, VECTORS), feedback_of(plain, VECTORS))


# --- every layer, by Theorem 1 --------------------------------------------------------------------

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def of_dimension(d: int, name: str, *args: Any, **kwargs: Any) -> nn.Module:
    return getattr(nn, f"{name}{d}d")(*args, **kwargs)


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "Conv": lambda d: of_dimension(d, "Conv", 4, 6, 3),
    "Conv strided": lambda d: of_dimension(d, "Conv", 4, 3, 3, stride=2, padding=1, bias=False),
    "Conv dilated": lambda d: of_dimension(d, "Conv", 4, 3, 2, dilation=2),
    "Conv grouped": lambda d: of_dimension(d, "Conv", 4, 4, 3, groups=2, padding="same"),
    "Conv depthwise": lambda d: of_dimension(d, "Conv", 4, 8, 3, groups=4),
    "Conv circular": lambda d: of_dimension(d, "Conv", 4, 3, 3, padding=1, padding_mode="circular"),
    "ConvTranspose": lambda d: of_dimension(d, "ConvTranspose", 4, 3, 3, stride=2),
    "ConvTranspose grouped": lambda d: of_dimension(d, "ConvTranspose", 4, 4, 2, groups=2),
    "BatchNorm": lambda d: of_dimension(d, "BatchNorm", 4),
    "BatchNorm eval": lambda d: of_dimension(d, "BatchNorm", 4).eval(),
    "BatchNorm without scale": lambda d: of_dimension(d, "BatchNorm", 4, affine=False),
    "BatchNorm without statistics": lambda d: of_dimension(
        d, "BatchNorm", 4, track_running_stats=False
    ),
    "InstanceNorm": lambda d: of_dimension(d, "InstanceNorm", 4, affine=True),
    "GroupNorm": lambda d: nn.GroupNorm(2, 4),
    "LayerNorm": lambda d: nn.LayerNorm([4] + [4] * d),
    "LayerNorm without bias": lambda d: nn.LayerNorm(4, bias=False),
    "RMSNorm": lambda d: nn.RMSNorm([4] + [4] * d, eps=1e-5),
    "AvgPool": lambda d: of_dimension(d, "AvgPool", 2),
    "AvgPool padded": lambda d: of_dimension(d, "AvgPool", 3, 2, padding=1),
    "AdaptiveAvgPool": lambda d: of_dimension(d, "AdaptiveAvgPool", 3),
    "MaxPool": lambda d: of_dimension(d, "MaxPool", 2),
    "MaxPool overlapping": lambda d: of_dimension(d, "MaxPool", 3, 2, padding=1, ceil_mode=True),
    "AdaptiveMaxPool": lambda d: of_dimension(d, "AdaptiveMaxPool", 3),
    "Dropout": lambda d: nn.Dropout(0.4),
    "Dropout eval": lambda d: nn.Dropout(0.4).eval(),
    "Dropout in place": lambda d: nn.Dropout(0.4, inplace=True),
    "Dropout of channels": lambda d: of_dimension(d, "Dropout", 0.4),
    "ConstantPad": lambda d: of_dimension(d, "ConstantPad", 1, 0.7),
    "ReflectionPad": lambda d: of_dimension(d, "ReflectionPad", 1),
    "Flatten": lambda d: nn.Flatten(),
    "Unflatten": lambda d: nn.Unflatten(1, (2, 2)),
    "Linear": lambda d: nn.Linear(4, 3),
    "Identity": lambda d: nn.Identity(),
    "ReLU in place": lambda d: nn.ReLU(inplace=True),
    "Residual": lambda d: Residual(of_dimension(d, "Conv", 4, 4, 3, padding=1)),
}


@pytest.mark.parametrize("activated", [True, False], ids=["after ReLU", "after Conv"])
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_obeys_theorem_1(name: str, d: int, activated: bool) -> None:
    if activated and name in ("ReLU in place", "Dropout in place"):
        pytest.skip("autograd itself refuses to overwrite the output of ReLU")
    # No bias: in front of a normalisation its gradient is nothing but rounding errors.
    first = CONV[d](2, 4, 3, padding=1, bias=False)
    body = nn.Sequential(
        first, nn.ReLU() if activated else nn.Identity(), LAYERS[name](d), nn.ReLU(), nn.Flatten()
    )
    x = torch.randn(5, 2, *[4] * d)
    with torch.no_grad():
        features = body(x).shape[1]
    model = randomize(nn.Sequential(*body, nn.Linear(features, 3)))
    assert error_of_theorem_1(model, x) < TOLERANCE


EMBEDDINGS: dict[str, Module] = {
    "plain": lambda: nn.Embedding(7, 5),
    "padding_idx": lambda: nn.Embedding(7, 5, padding_idx=4),
    "scale_grad_by_freq": lambda: nn.Embedding(7, 5, scale_grad_by_freq=True),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embedding_obeys_theorem_1(name: str) -> None:
    model = nn.Sequential(
        EMBEDDINGS[name](), nn.Flatten(), nn.ReLU(), nn.Linear(15, 4), nn.ReLU(), nn.Linear(4, 3)
    )
    assert error_of_theorem_1(model, TOKENS) < TOLERANCE


def test_sparse_embedding_gets_the_same_feedback() -> None:
    model = nn.Sequential(nn.Embedding(7, 5, sparse=True), nn.Flatten(), nn.Linear(15, 3))
    sparse = feedback_of(model, TOKENS)
    model[0].sparse = False  # type: ignore[assignment]
    for parameter, expected in feedback_of(model, TOKENS).items():
        assert torch.allclose(sparse[parameter].to_dense(), expected, rtol=1e-12)


def dense(forward: Forward, **more: nn.Module) -> nn.Module:
    layers: dict[str, nn.Module] = {
        "a": nn.Linear(6, 5),
        "b": nn.Linear(5, 5),
        "c": nn.Linear(5, 3),
    }
    return randomize(Written(forward, **(layers | more)))


def by_functional_call(m: Any, x: Tensor) -> Tensor:
    fresh = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    weights = {"0.weight": m.a.weight, "0.bias": m.a.bias, "2.weight": m.c.weight}
    return torch.func.functional_call(fresh, weights | {"2.bias": m.c.bias}, x)


def in_place_residual(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    out = m.b(h.relu())
    out += h
    out = m.b(out)
    out.add_(h)
    out.sub_(m.b(h), alpha=0.5)
    return m.c(out.relu_())


def in_place_arithmetic(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    h.mul_(0.5)
    h /= 3
    h -= 1
    h *= 2
    h.neg_()
    h.unsqueeze_(1).squeeze_(1)
    h.masked_fill_(h > 1, 0.0)
    return m.c(h.relu_())


def in_place_on_a_view(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    h.view(-1).relu_()
    return m.c(h)


def in_place_on_a_part(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    h[:, :2].relu_()
    return m.c(h)


def into_a_buffer(m: Any, x: Tensor) -> Tensor:
    buffer = x.new_zeros(len(x), 5)
    buffer[:, :2] = m.a(x)[:, :2]
    buffer[:, 2:] = m.a(x)[:, 2:].relu()
    return m.c(buffer.relu())


def features_without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        return (x[:, :5] * 2).tanh()


def part_of_a_weight(m: Any, x: Tensor) -> Tensor:
    bias = m.c.bias.clone()
    bias[:2].zero_()
    return F.linear(m.a(x).relu(), m.c.weight, bias)


def part_set_to_zero(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    h[:, :2].zero_()
    h[1].fill_(0.5)
    return m.c(h.relu())


def looks_at_itself(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    n, width = h.shape
    best = h.argmax(dim=1)
    scale = h.detach().abs().amax() + len(h) + h.numel() + h.size(0) + h.dim()
    if h.is_contiguous() and not torch.isnan(h).any() and float(h.sum().item()) != math.pi:
        h = h.reshape(n, -1, width).squeeze(1)
    with torch.no_grad():
        scale = scale + h.std() + h.norm()
    mask = torch.ones_like(h).scatter_(1, best[:, None], 0.0) * (h.data > -1)
    repr(h)
    return m.c(torch.relu(h * mask / scale))


WRITTEN: dict[str, Forward] = {
    "by hand": lambda m, x: (x @ m.a.weight.t() + m.a.bias).relu() @ m.c.weight.T + m.c.bias,
    "bias first": lambda m, x: m.c.bias + torch.matmul(m.a(x).relu(), m.c.weight.mT),
    "left product": lambda m, x: (m.c.weight @ (m.a.weight @ x.T).relu()).T,
    "mm": lambda m, x: m.a(x).relu().mm(m.c.weight.transpose(0, 1)),
    "mv": lambda m, x: torch.stack([m.c.weight.mv(h) for h in m.a(x).relu().unbind()]),
    "bmm": lambda m, x: torch.bmm(m.a(x).relu()[None], m.c.weight.t().unsqueeze(0)).squeeze(0),
    "addmm": lambda m, x: torch.addmm(m.c.bias, m.a(x).relu(), m.c.weight.t()),
    "einsum": lambda m, x: torch.einsum("ni,ji->nj", m.a(x).relu(), m.c.weight) + m.c.bias,
    "einsum weight first": lambda m, x: torch.einsum("ji,ni->nj", m.c.weight, m.a(x).relu()),
    "F.linear by keyword": lambda m, x: F.linear(
        input=m.a(x).relu(), weight=m.c.weight, bias=m.c.bias
    ),
    "F.linear by keyword, weight first": lambda m, x: F.linear(
        weight=m.c.weight, bias=m.c.bias, input=m.a(x).relu()
    ),
    "cat by keyword, dim first": lambda m, x: m.c(
        torch.cat(dim=1, tensors=[m.a(x)[:, :2], m.a(x)[:, 2:]]).relu()
    ),
    "shared layer": lambda m, x: m.c(m.b(m.b(m.a(x).relu()).relu()).relu()),
    "shared weight": lambda m, x: m.c(F.linear(m.a(x).relu() @ m.b.weight, m.b.weight).relu()),
    "tied transpose": lambda m, x: (m.a(x).relu() @ m.a.weight).relu() @ m.a.weight.t(),
    "residual": lambda m, x: m.c(m.b(m.a(x).relu()) + m.a(x)),
    "residual in place": in_place_residual,
    "arithmetic in place": in_place_arithmetic,
    "arithmetic": lambda m, x: m.c((2 - (m.a(x) - 1) * 0.3 / 2 + (1 + m.b(m.a(x))).neg()).relu()),
    "subtraction": lambda m, x: m.c((m.a(x) - m.b(m.a(x).relu())).relu()),
    "builtin sum": lambda m, x: m.c(sum([m.a(x), m.b(m.a(x).relu())]).relu()),
    "mean and sum": lambda m, x: m.c((m.a(x) + m.a(x).mean(0, keepdim=True)).relu()).sum(0),
    "cat of debtors": lambda m, x: m.c(
        torch.cat([m.a(x)[:, :1], m.a(x).relu()[:, 1:3], m.b(m.a(x))[:, 3:]], dim=1)
    ),
    "stack, split, chunk, unbind": lambda m, x: m.c(
        torch.cat(
            [*torch.stack([*m.a(x).split([2, 3], 1)[1].chunk(3, 1)]).unbind(), m.a(x)[:, :2]], 1
        ).relu()
    ),
    "indexing": lambda m, x: m.c(m.a(x)[..., [4, 1, 0, 2, 2]].flip(0).roll(1, 1).relu()),
    "gather and index_select": lambda m, x: m.c(
        m.a(x).gather(1, torch.tensor([[0, 1, 1, 2, 3]] * 5)).index_select(0, torch.arange(3))
    ),
    "where": lambda m, x: m.c(torch.where(x[:, :5] > 0, m.a(x), m.b(m.a(x).relu())).relu()),
    "reshape": lambda m, x: m.c(
        m.a(x).view(1, 5, 5).permute(1, 0, 2).reshape(5, 5).T.T.contiguous().expand(5, 5).relu()
    ),
    "scale and shift": lambda m, x: m.c((m.a(x) * m.b.weight[0] + m.b.bias).relu()),
    "scale first": lambda m, x: m.c((m.b.bias * m.a(x)).relu()),
    "division by a weight": lambda m, x: m.c((m.a(x) / m.b.bias).relu()),
    "scale in place": lambda m, x: m.c(m.a(x).mul(2).relu() * m.b.bias),
    "class token": lambda m, x: m.c(
        torch.cat([m.b.bias.expand(1, -1), m.a(x).relu()]).mean(0, keepdim=True)
    ),
    "weight through softplus": lambda m, x: m.c(m.a(x).relu() * F.softplus(m.b.bias)),
    "weight through exp": lambda m, x: m.c(m.a(x).relu() * m.b.bias.exp()),
    "normalised weight": lambda m, x: F.linear(m.a(x).relu(), F.normalize(m.c.weight), m.c.bias),
    "masked weight": lambda m, x: F.linear(
        m.a(x).relu(), m.c.weight * (torch.arange(15).view(3, 5) % 2)
    ),
    "sum of weights": lambda m, x: F.linear(m.a(x).relu(), m.b.weight + m.b.weight.t()),
    "functional_call": by_functional_call,
    "ends in an activation": lambda m, x: m.c(m.a(x).relu()).relu(),
    "ends in a route": lambda m, x: m.c(m.a(x).relu()).unsqueeze(1),
    "ends in a sum over the batch": lambda m, x: m.c(m.a(x).relu()).sum(),
    "looks at itself": looks_at_itself,
    "keyword activation": lambda m, x: m.c(F.relu(inplace=True, input=m.a(x))),
    "part of an activation in place": in_place_on_a_part,
    "into a buffer": into_a_buffer,
    "masked weight by hand": lambda m, x: (
        m.a(x).relu() @ (m.c.weight * (torch.arange(15).view(3, 5) % 2)).t()
    ),
    "gathered weight": lambda m, x: m.a(x).relu() @ m.c.weight[torch.tensor([2, 0, 1])].t(),
    "features without gradients": lambda m, x: m.c(
        (features_without_gradients(x) * m.b.weight[0]).relu()
    ),
    "layer of tokens in place": lambda m, x: m.c(
        F.dropout(m.a(x.expand(2, 5, 6)), 0.2, True, True).neg_().relu()
    ),
    "part of a weight set to 0": part_of_a_weight,
    "part of an activation set to 0": part_set_to_zero,
    "dtype and back": lambda m, x: m.c(m.a(x).relu().to(torch.float64).double().type_as(x)),
    "clone": lambda m, x: m.c(m.a(x).clone().relu()),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_network_written_out_obeys_theorem_1(name: str) -> None:
    assert error_of_theorem_1(dense(WRITTEN[name]), VECTORS) < TOLERANCE


def test_every_in_place_form_equals_its_copying_form_at_any_epsilon() -> None:
    def residual(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        out = m.b(m.b(h.relu()) + h) + h
        return m.c((out - 0.5 * m.b(h)).relu())

    def arithmetic(m: Any, x: Tensor) -> Tensor:
        h = ((m.a(x) * 0.5 / 3 - 1) * 2).neg()
        return m.c(h.masked_fill(h > 1, 0.0).relu())

    def whole(m: Any, x: Tensor) -> Tensor:
        return m.c(m.a(x).relu())

    wrong = []
    pairs = [(in_place_residual, residual), (in_place_arithmetic, arithmetic)]
    for in_place, copying in [*pairs, (in_place_on_a_view, whole)]:
        model = dense(in_place)
        found = feedback_of(model, VECTORS)
        model.written = copying  # type: ignore[assignment]
        if relative_error(found, feedback_of(model, VECTORS)) > TOLERANCE:
            wrong.append(in_place.__name__)
    assert not wrong


def parametrized(wrap: Callable[[nn.Module], Any]) -> nn.Module:
    model = randomize(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    for layer in (model[0], model[2]):  # type: ignore[index]
        wrap(layer)
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda m: parametrizations.spectral_norm(m).eval(),
        parametrizations.orthogonal,
        lambda m: prune.random_unstructured(m, "weight", 0.4),
    ],
    ids=["weight_norm", "spectral_norm", "spectral_norm eval", "orthogonal", "prune"],
)
def test_parametrized_weights_obey_theorem_1(wrap: Callable[[nn.Module], Any]) -> None:
    assert error_of_theorem_1(parametrized(wrap), VECTORS) < TOLERANCE


def test_embedding_by_index_is_an_embedding() -> None:
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 3))
    by_index = Written(lambda m, x: m.b(m.a.weight[x]), a=model[0], b=model[1])
    assert bits_equal(feedback_of(model, TOKENS), feedback_of(by_index, TOKENS))


def vgg() -> nn.Module:
    features = torchvision.models.vgg.make_layers([8, "M", 16, "M"], batch_norm=True)
    return nn.Sequential(features, nn.Flatten(), nn.Linear(16 * 8 * 8, 3))


#: The architectures of torchvision as they are, most of them with fewer channels and layers.
TORCHVISION: dict[str, Module] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=3),
    "resnet bottleneck": lambda: torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], 3, groups=4, width_per_group=4
    ),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=3),
    "shufflenet": lambda: torchvision.models.ShuffleNetV2([2, 2, 2], [8, 8, 16, 32, 32], 3),
    "vgg with normalisation": vgg,
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_model_runs_unmodified_and_obeys_theorem_1(name: str) -> None:
    model = TORCHVISION[name]().eval()
    with torch.no_grad():  # biases and shifts start at zero, where nothing would be checked
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    assert error_of_theorem_1(model, torch.randn(1, 3, 32, 32)) < TOLERANCE


# --- what has no rule -----------------------------------------------------------------------------

#: Operations that no rule is for, and the name that the error gives.
REFUSED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "cross_entropy": ("cross_entropy", lambda h: F.cross_entropy(h, torch.arange(5) % 3)),
    "mse_loss": ("mse_loss", lambda h: F.mse_loss(h, torch.zeros_like(h))),
    "cumprod": ("cumprod", lambda h: h.cumprod(dim=1)),
    "cumprod in place": ("cumprod_", lambda h: h.cumprod_(dim=1)),
    "inverse": ("inverse", lambda h: torch.inverse(h + 9 * torch.eye(5))),
    "determinant": ("det", torch.det),
    "singular values": ("svd", lambda h: torch.svd(h).S),
    "hyperbola of two": ("atan2", lambda h: torch.atan2(h, h.roll(1))),
    "power of two": ("pow", lambda h: h.abs() ** h),
    "aten": ("i1", torch.ops.aten.special_i1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operation_without_a_rule_is_refused_by_name_where_a_reward_arrives(name: str) -> None:
    operation, function = REFUSED[name]
    model = Written(lambda m, x: function(m.a(x)) * 1.0, a=nn.Linear(6, 5))
    with lfp.feedback():
        outputs = model(VECTORS)
    message = rf"no LFP rule for \w*{operation}.*\[Written.*test_engine\.py, line \d+\]"
    with pytest.raises(lfp.UnsupportedOperation, match=message):
        lfp.backward(outputs, outputs.detach())
    model(VECTORS).sum().backward()


@pytest.mark.parametrize("name", REFUSED)
def test_operation_without_a_rule_costs_nothing_where_no_reward_arrives(name: str) -> None:
    layers = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 3)}
    plain = Written(lambda m, x: m.b(m.a(x).relu()), **layers)

    def beside(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        m.auxiliary = REFUSED[name][1](h.clone())
        return m.b(h.relu() * (1 + 0 * m.auxiliary.detach().mean()))

    expected = feedback_of(plain, VECTORS)
    assert bits_equal(feedback_of(Written(beside, **layers), VECTORS), expected)


CHAINED: dict[str, Callable[[Tensor], Tensor]] = {
    "cumprod": lambda h: h.cumprod(dim=1),
    "aten": torch.ops.aten.special_i1,
    "in place": lambda h: h.cumprod_(dim=1),
    "Bessel function": torch.special.i1,
    "inverse": lambda h: torch.inverse(h + 9 * torch.eye(5)),
}


@pytest.mark.parametrize("name", CHAINED)
def test_operation_without_a_rule_follows_the_chain_rule_if_not_strict(name: str) -> None:
    """At epsilon 0 the factors of the epsilon rules are 1, so Theorem 1 holds here, too."""
    model = dense(lambda m, x: m.c(m.b(CHAINED[name](m.a(x))).relu()))
    outputs = model(VECTORS)
    expected = weight_scaled_gradient(model, (push(outputs) * outputs).sum())
    model.zero_grad()
    with lfp.feedback(0, strict=False):
        outputs = model(VECTORS)
    lfp.backward(outputs, reward_of(outputs))
    found: Feedback = {p: -p.grad for p in model.parameters() if p.grad is not None}
    assert relative_error(found, expected) < TOLERANCE


def test_operation_without_a_rule_pays_what_its_input_owes_if_not_strict() -> None:
    """z of a = f(z) is the output of an epsilon rule: the factor z / (z + eps s(z)) remains."""
    model, epsilon = nn.Linear(6, 5), 0.2
    with lfp.feedback(epsilon, strict=False):
        z = model(VECTORS)
        a = torch.special.i1(z)
    lfp.backward(a, -a.detach())
    z = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(torch.special.i1(z).sum(), z)
    factor = z.detach() / (z.detach() + epsilon * torch.where(z >= 0, 1.0, -1.0)) * slope
    expected = model.weight.abs() * (factor.T @ VECTORS)
    assert model.weight.grad is not None
    assert torch.allclose(model.weight.grad, expected, rtol=1e-12)


class Hidden(torch.autograd.Function):
    """SiLU where no torch function shows it."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(z)
        return F.silu(z)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # noqa: D102
        (z,) = ctx.saved_tensors
        s = torch.sigmoid(z)
        return g * s * (1 + z * (1 - s))


def copied_into_a_buffer(z: Tensor) -> Tensor:
    buffer = torch.zeros(5, 5)
    buffer[:] = z
    return F.silu(buffer)


UNSEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "autograd.Function": Hidden.apply,
    "setitem": copied_into_a_buffer,
    "reentrant checkpoint": lambda z: checkpoint(F.silu, z, use_reentrant=True),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_the_context_cannot_see_is_refused_or_right_but_never_silently_wrong(
    name: str,
) -> None:
    layers = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 3)}
    expected = feedback_of(Written(lambda m, x: m.b(F.silu(m.a(x))), **layers), VECTORS)
    model = Written(lambda m, x: m.b(UNSEEN[name](m.a(x))), **layers)
    try:
        found = feedback_of(model, VECTORS)
    except lfp.UnsupportedOperation:
        return
    assert relative_error(found, expected) < TOLERANCE


# --- parameters that do not train, and inputs that do ---------------------------------------------


@pytest.mark.parametrize("frozen", [(0,), (1,), (5,), (0, 1), (0, 1, 5)])
def test_frozen_layers_get_nothing_and_stop_nothing(frozen: tuple[int, ...]) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(64, 8),
        nn.SiLU(),
        nn.Linear(8, 3),
    )
    model.eval()
    whole = {
        name: value
        for (name, _), value in zip(
            model.named_parameters(), feedback_of(model, IMAGES).values(), strict=True
        )
    }
    model.zero_grad(set_to_none=True)
    for index in frozen:
        model[index].requires_grad_(False)
    feedback_of(model, IMAGES)
    for name, parameter in model.named_parameters():
        if int(name.split(".")[0]) in frozen:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None
            assert torch.equal(-parameter.grad, whole[name])


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_accumulate_until_they_are_zeroed(set_to_none: bool) -> None:
    model = small_net().eval()
    once = feedback_of(model, IMAGES)
    with lfp.feedback(0.1):
        outputs = model(IMAGES)
    lfp.backward(outputs, reward_of(outputs))
    assert all(torch.equal(-p.grad, 2 * once[p]) for p in once if p.grad is not None)
    model.zero_grad(set_to_none=set_to_none)
    assert all((p.grad is None) == set_to_none for p in once)
    with lfp.feedback(0.1):
        outputs = model(IMAGES)
    lfp.backward(outputs, reward_of(outputs))
    assert all(torch.equal(-p.grad, once[p]) for p in once if p.grad is not None)


def test_reward_of_an_input_is_input_times_its_negated_gradient() -> None:
    """Without biases the reward is conserved down to the inputs, sample by sample."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3, bias=False)
    )
    x = IMAGES.clone().requires_grad_()
    with lfp.feedback(0):
        outputs = model(x)
    reward = torch.rand_like(outputs)
    lfp.backward(outputs, reward)
    assert x.grad is not None
    received = (x.detach() * -x.grad).flatten(1).sum(dim=1)
    assert torch.allclose(received, reward.sum(dim=1), rtol=1e-10)


def test_input_that_wants_its_reward_changes_no_feedback() -> None:
    model = small_net().eval()
    expected = feedback_of(model, IMAGES)
    assert bits_equal(feedback_of(model, IMAGES.clone().requires_grad_()), expected)


def test_plain_tensors_in_place_of_parameters_get_the_same_feedback() -> None:
    model = small_net().eval()
    expected = feedback_of(model, IMAGES)
    leaves = {k: p.detach().clone().requires_grad_() for k, p in model.named_parameters()}
    with lfp.feedback(0.1):
        outputs = torch.func.functional_call(model, leaves, (IMAGES,))
    lfp.backward(outputs, reward_of(outputs))
    for (name, parameter), leaf in zip(model.named_parameters(), leaves.values(), strict=True):
        assert leaf.grad is not None, name
        assert torch.equal(-leaf.grad, expected[parameter])


def test_weight_at_zero_never_moves() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.SiLU(), nn.Linear(5, 3))
    nn.init.zeros_(model[0].bias)  # type: ignore[arg-type]
    found = feedback_of(model, VECTORS)
    assert not found[model[0].bias].any()  # type: ignore[index]


# --- backward -------------------------------------------------------------------------------------


def outputs_without_feedback() -> dict[str, Callable[[nn.Module], Any]]:
    def inside(model: nn.Module) -> Tensor:
        with lfp.feedback():
            return model(IMAGES)

    def without_gradients(model: nn.Module) -> Tensor:
        with torch.no_grad():
            return inside(model)

    def frozen(model: nn.Module) -> Tensor:
        return inside(model.requires_grad_(False))

    def inference(model: nn.Module) -> Tensor:
        with torch.inference_mode():
            return inside(model)

    return {
        "from outside": lambda model: model(IMAGES),
        "changed outside": lambda model: inside(model) * 2,
        "detached": lambda model: inside(model).detach(),
        "without gradients": without_gradients,
        "in inference mode": inference,
        "of a frozen model": frozen,
        "data": lambda model: torch.zeros(5, 3),
        "a tuple": lambda model: (inside(model),),
        "a dict": lambda model: {"logits": inside(model)},
    }


@pytest.mark.parametrize("case", outputs_without_feedback())
def test_outputs_without_feedback_raise_value_error(case: str) -> None:
    outputs = outputs_without_feedback()[case](small_net())
    with pytest.raises(ValueError, match="outputs carry no feedback"):
        lfp.backward(outputs, torch.zeros(5, 3))


@pytest.mark.parametrize("shape", [(3,), (5,), (5, 1), (1, 3), (5, 3, 1), ()])
def test_reward_of_another_shape_raises_value_error(shape: tuple[int, ...]) -> None:
    with lfp.feedback():
        outputs = small_net()(IMAGES)
    with pytest.raises(ValueError, match=r"reward has shape \[.*\], outputs \[5, 3\]"):
        lfp.backward(outputs, torch.zeros(shape))


def test_output_of_zero_takes_no_reward_and_no_nan() -> None:
    layer = nn.Linear(6, 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), layer, nn.ReLU())
    assert all(not value.any() for value in feedback_of(model, VECTORS, 0.0).values())


def test_reward_may_come_in_another_dtype() -> None:
    model = small_net().eval()
    with lfp.feedback(0.1):
        outputs = model(IMAGES)
    lfp.backward(outputs, torch.ones_like(outputs, dtype=torch.float32))
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters())


@contextmanager
def counting_calls(counts: list[str]) -> Iterator[None]:
    """Note every operation that a context sees."""
    original = feedback.__torch_function__

    def spy(self: feedback, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        counts.append(getattr(func, "__name__", str(func)))
        return original(self, func, types, args, kwargs)

    feedback.__torch_function__ = spy  # type: ignore[method-assign]
    try:
        yield
    finally:
        feedback.__torch_function__ = original  # type: ignore[method-assign]


def test_rewards_and_backward_add_no_rules_of_their_own() -> None:
    counts: list[str] = []
    model = small_net().eval()
    with counting_calls(counts):
        with lfp.feedback():
            outputs = model(IMAGES)
        seen = len(counts)
        lfp.backward(outputs, lfp.rewards.softmax(outputs, torch.tensor([0, 1, 2, 0, 1])))
    assert len(counts) == seen


@pytest.mark.parametrize("at_a_bound", [0.0, 1.0])
@pytest.mark.parametrize("low", [None, -1, 0, 1])
@pytest.mark.parametrize("high", [None, -1, 0, 1, 2])
def test_slope_of_a_clamp_at_zero(
    low: int | None, high: int | None, at_a_bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is 1 between the bounds, and at a bound what this torch has, or another."""
    monkeypatch.setattr(functions, "AT_A_BOUND", at_a_bound)
    below = low is None or low <= 0
    above = high is None or high >= 0
    expected = (at_a_bound if 0 in (low, high) else 1.0) if below and above else 0.0
    assert functions._inside(low, high) == expected
    assert functions._inside(min=low, max=high) == expected
