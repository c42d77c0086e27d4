"""Contexts, hooks, custom Functions and the like: the right feedback, or an error that names them.

Nothing here may change the feedback silently, which is what each test compares with.
"""

import collections
import contextlib
import dataclasses
import io
import pickle
import threading
import warnings
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError, checkpoint

import lfp_core as lfp
from validation.spellings import distance, feedback_of

TOLERANCE = 1e-12
REFUSED = (lfp.UnsupportedOperation, ValueError)


class Net(nn.Module):
    """Linear, a function of its output, Linear."""

    def __init__(self, function: Callable[["Net", Tensor], Tensor] | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            self.a, self.b = nn.Linear(7, 6), nn.Linear(6, 4)
            self.w = nn.Parameter(torch.randn(6, 6) / 2)
        self.function = function
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 4)."""
        h = self.a(x)
        return self.b(F.relu(h) if self.function is None else self.function(self, h))


def inputs(batch: int = 3) -> Tensor:
    """Draw numbers (batch, 7)."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(batch, 7, dtype=torch.float64, generator=generator)


def stack() -> nn.Sequential:
    """Return layers with a product, an in-place activation and a container in them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        inner = nn.Sequential(nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 5))
        return nn.Sequential(nn.Linear(7, 6), nn.ReLU(), inner, nn.Tanh(), nn.Linear(5, 4)).double()


def agrees(model: nn.Module, reference: nn.Module, **options: Any) -> None:
    """Assert that two models of the same parameters have the same feedback."""
    got = feedback_of(model, inputs(), 0.1, **options)
    assert distance(got, feedback_of(reference, inputs(), 0.1)) <= TOLERANCE


# --- contexts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("same", [True, False], ids=["one object", "equal ones"])
def test_equal_contexts_inside_of_each_other_are_one(depth: int, same: bool) -> None:
    model = Net(lambda s, h: h * torch.sigmoid(h) @ s.w)
    want = feedback_of(model, inputs(), 0.1)
    model.zero_grad()
    context = lfp.feedback(0.1)
    with contextlib.ExitStack() as contexts:
        for _ in range(depth):
            contexts.enter_context(context if same else lfp.feedback(0.1))
        outputs = model(inputs())
    lfp.backward(outputs, outputs.detach().cos())
    got = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert distance(got, want) <= TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        {"epsilon": 0.2},
        {"strict": False},
        {"gates": "uniform"},
        {"units": "shifted"},
        {"normalisation": "identity"},
        {"attention": "constant"},
    ],
)
def test_contexts_with_other_options_do_not_nest(options: dict[str, Any]) -> None:
    with lfp.feedback(0.1), pytest.raises(ValueError, match="cannot be nested"):
        lfp.feedback(**{"epsilon": 0.1, **options}).__enter__()
    agrees(stack(), stack())  # and nothing is left behind


def test_a_model_that_enters_a_context_itself_is_as_without() -> None:
    class Entering(Net):
        def forward(self, x: Tensor) -> Tensor:
            with lfp.feedback(0.1):
                h = self.a(x)
            return self.b(F.silu(h))

    agrees(Entering(), Net(lambda s, h: F.silu(h)))


def test_an_exception_leaves_nothing_behind() -> None:
    def fails(s: Net, h: Tensor) -> Tensor:
        raise ArithmeticError

    for _ in range(3):
        with pytest.raises(ArithmeticError), lfp.feedback(0.1), lfp.feedback(0.1):
            Net(fails)(inputs())
    agrees(stack(), stack())
    plain = Net()
    outputs = plain(inputs())
    with pytest.raises(ValueError, match="carry no feedback"):
        lfp.backward(outputs, outputs.detach())


def passes(model: nn.Module, epsilon: float, limit: int = 9) -> Generator[Tensor, None, None]:
    """Yield outputs from inside of a context, which waits there."""
    with lfp.feedback(epsilon):
        for _ in range(limit):
            yield model(inputs())


@pytest.mark.parametrize("second", [0.1, 5.0])
@pytest.mark.parametrize("way", ["close", "exhaust"])
def test_a_suspended_context_that_is_left_too_early_is_an_error(second: float, way: str) -> None:
    model = stack()
    want = feedback_of(model, inputs(), second)
    one, two = passes(model, 0.1, limit=1), passes(model, second)
    next(one)
    if second != 0.1:  # the options differ, so the second is not entered at all
        with pytest.raises(ValueError, match="nested"):
            next(two)
        one.close()
    else:
        model.zero_grad()
        outputs = next(two)
        lfp.backward(outputs, outputs.detach().cos())
        got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        assert distance(got, want) <= TOLERANCE
        with pytest.raises(RuntimeError, match="another order"):
            one.close() if way == "close" else list(one)
        with pytest.raises(RuntimeError, match="another order"):
            two.close()
    agrees(model, stack())


def test_generators_that_are_left_in_order_are_right() -> None:
    model = stack()
    want = feedback_of(model, inputs(), 0.1)
    one, two = passes(model, 0.1), passes(model, 0.1)
    next(one)
    next(two)
    two.close()
    model.zero_grad()
    outputs = next(one)
    one.close()
    lfp.backward(outputs, outputs.detach().cos())
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert distance(got, want) <= TOLERANCE


def test_leaving_out_of_order_is_an_error() -> None:
    outer, inner = lfp.feedback(0.1), lfp.feedback(0.1)
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError, match="another order"):
        outer.__exit__(None, None, None)
    with contextlib.suppress(RuntimeError):
        inner.__exit__(None, None, None)
    agrees(stack(), stack())


def test_a_context_serves_many_passes_and_models() -> None:
    models, context = [stack(), Net()], lfp.feedback(0.1)
    for _ in range(2):
        for model in models:
            model.zero_grad()
            with context:
                outputs = model(inputs())
            lfp.backward(outputs, outputs.detach().cos())
            got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            assert distance(got, feedback_of(model, inputs(), 0.1)) <= TOLERANCE


# --- threads and transforms -----------------------------------------------------------------------


def test_a_forward_pass_in_another_thread_is_refused_or_right() -> None:
    model, found = stack(), []

    def work() -> None:
        found.append(model(inputs()))

    with lfp.feedback(0.1):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    with pytest.raises(ValueError, match="thread"):
        lfp.backward(found[0], found[0].detach())


def test_half_of_a_model_in_another_thread_is_refused() -> None:
    def threaded(s: Net, h: Tensor) -> Tensor:
        found: list[Tensor] = []
        thread = threading.Thread(target=lambda: found.append(F.silu(h @ s.w)))
        thread.start()
        thread.join()
        return found[0]

    with pytest.raises(lfp.UnsupportedOperation, match="thread"):
        feedback_of(Net(threaded), inputs(), 0.1)


def test_contexts_of_threads_do_not_meet() -> None:
    models = [stack() for _ in range(3)]
    epsilons = [0.0, 0.1, 3.0]
    want = [feedback_of(m, inputs(), e) for m, e in zip(models, epsilons, strict=True)]
    barrier, found = threading.Barrier(3), {}

    def work(i: int) -> None:
        model = models[i]
        model.zero_grad()
        for _ in range(3):
            barrier.wait()
            with lfp.feedback(epsilons[i]):
                outputs = model(inputs())
                barrier.wait()
        lfp.backward(outputs, outputs.detach().cos())
        found[i] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        assert distance(found[i], want[i]) <= TOLERANCE


@pytest.mark.parametrize(
    "transform",
    [
        lambda s, h: torch.func.vmap(lambda row: F.silu(row @ s.w))(h),
        lambda s, h: torch.func.vmap(lambda row: row * 2)(h),
        lambda s, h: torch.func.grad(lambda z: (z @ s.w).square().sum())(h),
        lambda s, h: torch.func.grad(lambda z: z.square().sum())(inputs()[0, :6]) * h,
        lambda s, h: torch.func.jacrev(lambda z: z.sin().sum(0))(h).sum((0, 1)),
        lambda s, h: torch.func.jvp(lambda z: z @ s.w, (h,), (h,))[1],
    ],
    ids=["vmap", "vmap of a product", "grad", "grad of constants", "jacrev", "jvp"],
)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch.func.jvp uses it
def test_transforms_are_refused_by_name(transform: Any, strict: bool) -> None:
    with pytest.raises(lfp.UnsupportedOperation, match=r"vmap|transform|hides|cannot see"):
        feedback_of(Net(transform), inputs(), 0.1, strict=strict)


def test_vmap_over_stacked_models_is_refused_by_name() -> None:
    models = [Net() for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(models)

    def run(p: Any, b: Any, x: Tensor) -> Any:
        return torch.func.functional_call(models[0], (p, b), (x,))

    together = torch.func.vmap(run, in_dims=(0, 0, None))
    with lfp.feedback(0.1), pytest.raises(lfp.UnsupportedOperation, match="vmap"):
        together(parameters, buffers, inputs())


def stepped(s: Net, h: Tensor) -> Tensor:
    """Take a step down an energy, as models of forces and of energies do."""
    (towards,) = torch.autograd.grad(s.b(h.tanh()).square().sum(), h, create_graph=True)
    return h - 0.1 * towards


def adapted(s: Net, h: Tensor) -> Tensor:
    """Use a weight after a step of gradient descent, as MAML does."""
    (towards,) = torch.autograd.grad((h @ s.w).square().mean(), s.w)
    return h @ (s.w - 0.1 * towards)


def salient(s: Net, h: Tensor) -> Tensor:
    """Use gradients with respect to the input, which nothing passes through."""
    x = inputs().requires_grad_()
    s.a(x).sigmoid().sum().backward()
    assert x.grad is not None
    return h * x.grad[:, :6]


def of_data(s: Net, h: Tensor) -> Tensor:
    x = inputs()[:, :6].requires_grad_()
    with torch.no_grad():
        with torch.enable_grad():
            energy = x.sin().square().sum()
        (towards,) = torch.autograd.grad(energy, x)
    return h + towards


def of_a_function(s: Net, h: Tensor) -> Tensor:
    def energy(z: Tensor) -> Tensor:
        return (z.tanh() @ s.w).sum(0)

    jacobian = torch.autograd.functional.jacobian(energy, h, create_graph=True)
    assert isinstance(jacobian, Tensor)
    return jacobian.sum((0, 1))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "function", [stepped, adapted, salient, of_data, of_a_function], ids=lambda f: f.__name__
)
def test_gradients_of_what_a_context_records_are_refused(function: Any, strict: bool) -> None:
    """Autograd would return feedback, and the model an output that is not its own."""
    with pytest.raises(lfp.UnsupportedOperation, match=r"grad|backward"):
        feedback_of(Net(function), inputs(), 0.0, strict=strict)


def test_gradients_of_what_no_context_has_recorded_are_gradients() -> None:
    x = inputs()[:, :6].requires_grad_()
    energy = x.sin().square().sum()
    expected = 2 * x.detach().sin() * x.detach().cos()

    def function(s: Net, h: Tensor) -> Tensor:
        (towards,) = torch.autograd.grad(energy, x, retain_graph=True)
        torch.testing.assert_close(towards, expected)
        return h * towards

    agrees(Net(function), Net(lambda s, h: h * expected))


def test_a_context_may_hold_the_backward_pass() -> None:
    model, want = Net(), feedback_of(Net(), inputs(), 0.1)
    with lfp.feedback(0.1):
        outputs = model(inputs())
        lfp.backward(outputs, outputs.detach().cos())
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert distance(found, want) <= TOLERANCE


def test_transforms_of_what_gets_no_reward_are_let_through() -> None:
    """Masks are made so in libraries of language models."""

    def function(s: Net, h: Tensor) -> Tensor:
        mask = torch.func.vmap(lambda i: i % 2 == 0)(torch.arange(6))
        return h * mask

    agrees(Net(function), Net(lambda s, h: h * (torch.arange(6) % 2 == 0)))


class BackwardHookFunction(torch.autograd.Function):
    """Has the name of torch's identity, which gives no derivative to what has none."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return a.clone(), b.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        a, b = gradients
        return a, b


def test_an_identity_of_a_constant_is_not_taken_for_that_of_another_input() -> None:
    model = Net(lambda s, h: BackwardHookFunction.apply(h, torch.ones_like(h))[1])
    with pytest.raises(lfp.UnsupportedOperation, match="cannot see"):
        feedback_of(model, inputs(), 0.1, strict=True)


def test_normalisation_by_activations_is_refused_if_strict() -> None:
    model = Net(lambda s, h: F.layer_norm(h, (6,), h.mean(0)))
    with pytest.raises(lfp.UnsupportedOperation, match="weights that are activations"):
        feedback_of(model, inputs(), 0.1, strict=True)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda h: torch.div(h, h.flip(1), rounding_mode="floor"), "div of an activation"),
        (lambda h: torch.div(h, h.flip(1), rounding_mode="trunc"), "div of an activation"),
        (lambda h: torch.cumulative_trapezoid(h, h.exp()), "cumulative_trapezoid with weights"),
        (lambda h: torch.trapezoid(h, x=h.exp())[:, None], "trapezoid with weights"),
        (lambda h: torch.gradient(h, spacing=(h[0].cumsum(0),), dim=1)[0], "gradient with weights"),
    ],
)
def test_products_of_activations_that_torch_hides_are_refused_if_strict(
    function: Callable[[Tensor], Tensor], name: str
) -> None:
    """Their derivatives would give each factor the whole reward, or nothing to any."""
    model = Net(lambda s, h: function(h)[:, :1].expand(-1, 6))
    with pytest.raises(lfp.UnsupportedOperation, match=name):
        feedback_of(model, inputs(), 0.1, strict=True)


@pytest.mark.parametrize("points", [None, torch.tensor([0.0, 1.0, 3.0, 4.0, 6.0, 7.0])])
def test_a_sum_by_trapezoids_is_a_sum(points: Tensor | None) -> None:
    steps = torch.ones(5) if points is None else points.diff()

    def written_out(h: Tensor) -> Tensor:
        return torch.cat([h[:, :-1] * steps / 2, h[:, 1:] * steps / 2], 1).sum(1)

    at = () if points is None else (points,)
    fused = Net(lambda s, h: torch.trapezoid(h, *at)[:, None].expand(-1, 6))
    written = Net(lambda s, h: written_out(h)[:, None].expand(-1, 6))
    got, expected = (feedback_of(model, inputs(), 0.0) for model in (fused, written))
    assert distance(got, expected) <= TOLERANCE


def test_the_product_of_a_single_number_is_that_number() -> None:
    def with_first(function: Callable[[Tensor], Tensor]) -> Net:
        return Net(lambda s, h: function(h[0, 0]) + h * 0)

    agrees(with_first(torch.prod), with_first(torch.clone))


def test_terms_that_were_made_outside_of_the_context_are_refused_if_strict() -> None:
    """At epsilon 0, where it makes no difference whether a term is a bias."""
    model = Net()
    made = model.w.sin().sum(0)
    model.function = lambda s, h: h + made
    with pytest.raises(lfp.UnsupportedOperation, match="hides"):
        feedback_of(model, inputs(), 0.0, strict=True)


@pytest.mark.filterwarnings("ignore:Sparse")  # CSR is in beta state
def test_a_constant_that_is_sparse_is_as_if_it_were_dense() -> None:
    adjacency = torch.rand(6, 6, dtype=torch.float64).round(decimals=1)

    def dense(s: Net, h: Tensor) -> Tensor:
        return (adjacency @ h.mT + adjacency @ h.mT).mT / 2

    def of_sparse(s: Net, h: Tensor) -> Tensor:
        coordinates, rows = adjacency.to_sparse(), adjacency.to_sparse_csr()
        return (torch.sparse.mm(coordinates, h.mT) + rows @ h.mT).mT / 2

    agrees(Net(of_sparse), Net(dense))


@pytest.mark.parametrize(
    "function",
    [
        lambda s, h: h.to_sparse() @ torch.eye(6).double(),
        lambda s, h: (h.to_sparse() * h.to_sparse()).to_dense(),
        lambda s, h: (h.to_sparse() * 2).to_dense(),
        lambda s, h: h.to_sparse().relu().to_dense(),
        lambda s, h: h.to_sparse_csr() @ h.mT @ h,
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_activations_that_are_sparse_are_refused_by_name(function: Any, strict: bool) -> None:
    with pytest.raises(lfp.UnsupportedOperation, match=r"sparse.*to_dense\(\)"):
        feedback_of(Net(function), inputs(), epsilon=0.1, strict=strict)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_inputs_that_are_nested_are_refused_by_name() -> None:
    parts = [inputs(2), inputs(3)]
    ragged = torch.nested.nested_tensor(parts, layout=torch.jagged)
    for nested in (ragged, torch.nested.nested_tensor(parts)):
        with lfp.feedback(), pytest.raises(lfp.UnsupportedOperation, match=r"nested.*values\(\)"):
            Net()(nested)


def test_outputs_of_weights_alone_say_what_is_missing() -> None:
    layer = nn.Linear(3, 2)
    with lfp.feedback():
        outputs = layer.weight.exp().sum(1)
    with pytest.raises(ValueError, match=r"parameters and constants alone.*lfp\.activation"):
        lfp.backward(outputs, outputs.detach())


def test_a_reward_that_is_sparse_is_refused() -> None:
    with lfp.feedback():
        outputs = nn.Linear(3, 2)(torch.ones(1, 3))
    with pytest.raises(ValueError, match="dense"):
        lfp.backward(outputs, outputs.detach().to_sparse())


def test_attributes_that_are_set_inside_of_a_context_are_set() -> None:
    model = Net()

    def function(s: Net, h: Tensor) -> Tensor:
        s.w.data = s.w.data.clamp(-0.5, 0.5)  # a constraint, applied in the forward pass
        return h @ s.w.t()

    model.function = function
    got = feedback_of(model, inputs(), 0.1)
    assert float(model.w.detach().abs().max()) <= 0.5
    clamped = Net(lambda s, h: h @ s.w.t())
    clamped.load_state_dict(model.state_dict())
    assert distance(got, feedback_of(clamped, inputs(), 0.1)) <= TOLERANCE
    with lfp.feedback(0.1):
        assert nn.Linear(2, 2).double().weight.dtype == torch.float64


# --- hooks ----------------------------------------------------------------------------------------


def _nothing(*_: Any) -> None:
    """Observe."""


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "full backward": lambda m: m.register_full_backward_hook(_nothing),
    "full backward, before": lambda m: m.register_full_backward_pre_hook(_nothing),
    "both": lambda m: (
        m.register_full_backward_hook(_nothing),
        m.register_full_backward_pre_hook(_nothing),
    ),
    "forward": lambda m: m.register_forward_hook(_nothing),
    "forward, returns": lambda m: m.register_forward_hook(lambda m, x, y: y),
    "forward, views": lambda m: m.register_forward_hook(lambda m, x, y: y.view_as(y)),
    "before forward": lambda m: m.register_forward_pre_hook(_nothing),
    "before forward, returns": lambda m: m.register_forward_pre_hook(lambda m, x: x),
    "tensor": lambda m: m.register_forward_hook(lambda m, x, y: y.register_hook(_nothing) and None),
    "retain_grad": lambda m: m.register_forward_hook(lambda m, x, y: y.retain_grad()),
    "keywords": lambda m: m.register_forward_hook(lambda m, x, k, y: None, with_kwargs=True),
}
PLACES: dict[str, tuple[str, ...]] = {
    "first": ("0",),
    "activation": ("1",),
    "container": ("2",),
    "inside": ("2.0", "2.1"),
    "whole": ("",),
    "all": ("", "0", "1", "2", "2.0", "2.1", "2.2", "3", "4"),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("place", PLACES)
def test_hooks_change_nothing(hook: str, place: str) -> None:
    for strict in (True, False):
        for wanted in (True, False):
            model = stack()
            for name in PLACES[place]:
                HOOKS[hook](model.get_submodule(name))
            with warnings.catch_warnings():
                # torch says so of hooks on a module whose input wants no gradient.
                warnings.filterwarnings("ignore", "Full backward hook is firing")
                x = inputs().requires_grad_(wanted)
                got = feedback_of(model, x, 0.1, strict=strict)
            assert distance(got, feedback_of(stack(), inputs(), 0.1)) <= TOLERANCE


def test_old_backward_hooks_change_nothing() -> None:
    model = stack()
    for module in (model, model[0], model[2]):
        module.register_backward_hook(_nothing)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*non-full backward hook.*")
        agrees(model, stack())


def test_hooks_of_all_modules_change_nothing() -> None:
    want = feedback_of(stack(), inputs(), 0.1)
    handles = [
        nn.modules.module.register_module_full_backward_hook(_nothing),
        nn.modules.module.register_module_forward_hook(_nothing),
        nn.modules.module.register_module_forward_pre_hook(_nothing),
    ]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            got = feedback_of(stack(), inputs(), 0.1)
    finally:
        for handle in handles:
            handle.remove()
    assert distance(got, want) <= TOLERANCE


def test_a_hook_on_a_layer_with_two_outputs_changes_nothing() -> None:
    class Halves(nn.Module):
        def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
            a, b = h.chunk(2, -1)
            return a, b

    def run(hooked: bool, strict: bool) -> dict[str, Tensor]:
        halves = Halves()
        if hooked:
            halves.register_full_backward_hook(_nothing)

        def function(s: Net, h: Tensor) -> Tensor:
            a, b = halves(h)
            return torch.cat([a * b.sigmoid(), a], -1)

        return feedback_of(Net(function), inputs(), 0.1, strict=strict)

    want = run(False, True)
    for strict in (True, False):
        assert distance(run(True, strict), want) <= TOLERANCE


# --- custom Functions -----------------------------------------------------------------------------


class Sign(torch.autograd.Function):
    """The sign, with the derivative of the identity."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        """Return the sign."""
        return w.sign()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """Return the gradient."""
        return g


class Affine(torch.autograd.Function):
    """A linear layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """Return x w^T."""
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return both gradients."""
        x, w = ctx.saved_tensors
        return g @ w, g.t() @ x


class Double(torch.autograd.Function):
    """Twice a tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return 2 x."""
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        """Return the gradient."""
        return 2 * g


def straight_through(w: Tensor) -> Tensor:
    """Return the sign of w, with the derivative of the identity, by operations of torch."""
    return w + (w.sign() - w).detach()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        lambda w, h: F.linear(h, w),
        lambda w, h: h @ lfp.weight(w).t(),
        lambda w, h: F.conv1d(h[..., None], w[..., None])[..., 0],
        lambda w, h: torch.einsum("oi,bi->bo", lfp.weight(w * 0.5), h * 2),
    ],
)
def test_custom_functions_on_weights_are_weights(layer: Any, strict: bool) -> None:
    """The gradient of the weight itself is multiplied by its magnitude."""
    agrees(
        Net(lambda s, h: layer(Sign.apply(s.w), h)),
        Net(lambda s, h: layer(straight_through(s.w), h)),
        strict=strict,
    )


@pytest.mark.parametrize("strict", [True, False])
def test_a_product_with_what_a_custom_function_made_is_refused_with_advice(strict: bool) -> None:
    with pytest.raises(lfp.UnsupportedOperation, match=r"lfp\.weight"):
        feedback_of(Net(lambda s, h: h @ Sign.apply(s.w).t()), inputs(), 0.1, strict=strict)


@pytest.mark.parametrize(
    "function",
    [
        lambda s, h: Double.apply(h),
        lambda s, h: F.relu(Double.apply(h)),
        lambda s, h: Affine.apply(h, s.w),
        lambda s, h: h + Double.apply(h),
        lambda s, h: torch.cat([h[:, :3], Double.apply(h)[:, 3:]], 1),
        lambda s, h: h * Sign.apply(h),
        lambda s, h: Double.apply(h).mul_(3),
    ],
)
def test_custom_functions_on_activations_are_refused(function: Any) -> None:
    # Also if not strict: the Function cannot apply what the layer's output owes.
    for strict in (True, False):
        with pytest.raises(lfp.UnsupportedOperation, match="custom Function"):
            feedback_of(Net(function), inputs(), 0.1, strict=strict)


def test_a_custom_function_behind_lfp_activation_follows_its_derivative() -> None:
    agrees(
        Net(lambda s, h: Double.apply(lfp.activation(h))),
        Net(lambda s, h: h * 2),
        strict=False,
    )


def test_a_layer_that_is_a_custom_function_on_the_data_is_refused() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 7, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(Affine.apply(x, self.w)) @ torch.eye(4, dtype=x.dtype)

    with pytest.raises(REFUSED):
        feedback_of(First(), inputs(), 0.1)


# --- other things that no mode sees ---------------------------------------------------------------


def _scripted_function(h: Tensor) -> Tensor:
    return h.sigmoid() * h


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("kind", ["trace", "script"])
@pytest.mark.parametrize("strict", [True, False])
def test_compiled_scripts_are_refused(kind: str, strict: bool) -> None:
    if kind == "trace":
        scripted: Any = torch.jit.trace(_scripted_function, torch.ones(3, 6, dtype=torch.float64))
    else:
        scripted = torch.jit.script(_scripted_function)
    with pytest.raises(lfp.UnsupportedOperation, match=r"script|hides"):
        feedback_of(Net(lambda s, h: scripted(h)), inputs(), 0.1, strict=strict)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_traced_model_is_refused() -> None:
    model = torch.jit.trace(stack(), inputs())
    with lfp.feedback(0.1):
        outputs = model(inputs())
    with pytest.raises(REFUSED):
        lfp.backward(outputs, outputs.detach())


def _context_fn() -> Any:
    return contextlib.nullcontext(), lfp.feedback(0.1)


def test_checkpoints_are_right_with_a_context_and_say_so_without() -> None:
    def body(s: Net, h: Tensor) -> Tensor:
        return F.silu(F.linear(h, s.w)) * h

    def checkpointed(s: Net, h: Tensor) -> Any:
        return checkpoint(body, s, h, use_reentrant=False, context_fn=_context_fn)

    agrees(Net(checkpointed), Net(body))
    with pytest.raises(CheckpointError, match="context_fn"):
        feedback_of(Net(lambda s, h: checkpoint(body, s, h, use_reentrant=False)), inputs(), 0.1)
    with pytest.raises(lfp.UnsupportedOperation, match="reentrant"):
        feedback_of(Net(lambda s, h: checkpoint(body, s, h, use_reentrant=True)), inputs(), 0.1)


#: What a segment that is computed again may consist of.
SEGMENTS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "leaky_relu": lambda s, h: F.leaky_relu(h),
    "gelu": lambda s, h: F.gelu(h),
    "elu": lambda s, h: F.elu(h),
    "softplus": lambda s, h: F.softplus(h),
    "tanh": lambda s, h: h.tanh(),
    "sigmoid": lambda s, h: h.sigmoid(),
    "exp": lambda s, h: h.exp(),
    "sin": lambda s, h: h.sin(),
    "relu": lambda s, h: h.relu(),
    "clamp": lambda s, h: h.clamp(-0.5, 0.5),
    "root": lambda s, h: h.square().sum(-1, keepdim=True).sqrt() * h,
    "softmax": lambda s, h: h.softmax(-1),
    "normalisation": lambda s, h: F.layer_norm(h, (6,)),
    "square": lambda s, h: h.square(),
    "step": lambda s, h: lfp.Heaviside()(h),
    "two": lambda s, h: F.gelu(h).tanh(),
    "gated": lambda s, h: F.silu(h) * (h + 1),
    "layer": lambda s, h: F.linear(h, s.w),
}


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("name", SEGMENTS)
def test_a_checkpoint_without_a_context_is_never_silently_wrong(name: str, epsilon: float) -> None:
    segment = SEGMENTS[name]

    def again(s: Net, h: Tensor) -> Any:
        return checkpoint(segment, s, h, use_reentrant=False)

    expected = feedback_of(Net(segment), inputs(), epsilon)
    with contextlib.suppress(CheckpointError):
        assert distance(feedback_of(Net(again), inputs(), epsilon), expected) <= TOLERANCE


def test_an_activation_that_is_computed_again_needs_the_context() -> None:
    """As it keeps one tensor of the same shape with the context and without."""
    with pytest.raises(CheckpointError, match="context_fn"):
        feedback_of(Net(lambda s, h: checkpoint(torch.tanh, h, use_reentrant=False)), inputs(), 0.1)


# --- plain tensors --------------------------------------------------------------------------------


class Plain(nn.Module):
    """Keeps tensors that require gradients, and are no parameters."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        source = Net()
        self.weights = [source.a.weight.detach().clone(), source.b.weight.detach().clone()]
        for weight in self.weights:
            weight.requires_grad_()
        self.kind = kind
        self.one, self.two = self.weights  # attributes, which are not registered
        if kind == "list":
            self.parameters_in_list = nn.ParameterList([nn.Parameter(w) for w in self.weights])

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 4)."""
        one, two = self.one, self.two
        if self.kind == "list":
            one, two = self.parameters_in_list
        if self.kind == "linear":
            return F.linear(F.relu(F.linear(x, one)), two)
        return torch.relu(x @ one.t()) @ two.t()


def _reference() -> dict[str, Tensor]:
    source = Net()
    model = nn.Sequential(nn.Linear(7, 6, False), nn.ReLU(), nn.Linear(6, 4, False)).double()
    model.load_state_dict({"0.weight": source.a.weight, "2.weight": source.b.weight})
    return feedback_of(model, inputs(), 0.1)


@pytest.mark.parametrize("kind", ["list", "linear", "named", "functional_call"])
def test_plain_tensors_that_are_weights_by_name_or_place(kind: str) -> None:
    model = Plain(kind)
    weights = list(model.parameters()) if kind == "list" else model.weights
    named = weights if kind == "named" else []
    with lfp.feedback(0.1, parameters=named):
        if kind == "functional_call":
            source = nn.Sequential(nn.Linear(7, 6, False), nn.ReLU(), nn.Linear(6, 4, False))
            state = {"0.weight": weights[0], "2.weight": weights[1]}
            outputs = torch.func.functional_call(source, state, (inputs(),))
        else:
            outputs = model(inputs())
    lfp.backward(outputs, outputs.detach().cos())
    got = {str(2 * i) + ".weight": w.grad for i, w in enumerate(weights) if w.grad is not None}
    assert distance(got, _reference()) <= TOLERANCE


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("called", [True, False], ids=["module", "function"])
def test_plain_tensors_in_products_are_refused(strict: bool, called: bool) -> None:
    model = Plain("@")
    with lfp.feedback(0.1, strict=strict):
        outputs = model(inputs()) if called else model.forward(inputs())
    with pytest.raises(REFUSED, match="parameters="):
        lfp.backward(outputs, outputs.detach())


def test_weight_and_activation_say_what_a_tensor_is() -> None:
    weights = Plain("@").weights
    with lfp.feedback(0.1):
        x = lfp.activation(inputs())
        h = torch.relu(x @ lfp.weight(weights[0]).t())
        outputs = h @ lfp.weight(weights[1]).t()
    lfp.backward(outputs, outputs.detach().cos())
    got = {str(2 * i) + ".weight": w.grad for i, w in enumerate(weights) if w.grad is not None}
    assert distance(got, _reference()) <= TOLERANCE


def test_an_activation_is_no_weight() -> None:
    with pytest.raises(ValueError, match="cannot be a weight"):
        feedback_of(Net(lambda s, h: h @ lfp.weight(h[:1].t() @ h[:1])), inputs(), 0.1)


def test_weight_and_activation_change_nothing_where_they_are_right() -> None:
    agrees(
        Net(lambda s, h: lfp.activation(F.relu(h)) @ lfp.weight(s.w).t()),
        Net(lambda s, h: F.relu(h) @ s.w.t()),
    )


def test_weights_computed_before_the_context() -> None:
    """A cached product of weights is a weight, whose parameters are scaled."""
    cached: list[Tensor] = []

    def use(s: Net, h: Tensor) -> Tensor:
        return F.linear(h, cached[0])

    net = Net(use)
    cached.append(net.w * 0.5 + 0.1)
    got = feedback_of(net, inputs(), 0.1)
    want = feedback_of(Net(lambda s, h: F.linear(h, s.w * 0.5 + 0.1)), inputs(), 0.1)
    assert distance(got, want) <= TOLERANCE


# --- float16 --------------------------------------------------------------------------------------


def test_float16_names_an_epsilon_that_works() -> None:
    model = nn.Sequential(nn.Linear(20, 30), lfp.Heaviside(), nn.Linear(30, 4))
    x = torch.randn(16, 20, generator=torch.Generator().manual_seed(0))
    with (
        pytest.raises(ValueError, match=r"smallest|at least (\S+),") as error,
        lfp.feedback(1e-6),
        torch.autocast("cpu", torch.float16),
    ):
        model(x)
    words = str(error.value).replace(",", "").split()
    epsilon = float(words[words.index("least") + 1])
    with lfp.feedback(epsilon), torch.autocast("cpu", torch.float16):
        outputs = model(x)
    lfp.backward(outputs, torch.ones_like(outputs))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_bfloat16_takes_small_epsilons() -> None:
    model = nn.Sequential(nn.Linear(20, 30), lfp.Heaviside(), nn.Linear(30, 4))
    with lfp.feedback(1e-6), torch.autocast("cpu", torch.bfloat16):
        outputs = model(torch.randn(16, 20))
    lfp.backward(outputs, torch.ones_like(outputs))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- refusals come in the backward pass -----------------------------------------------------------


@pytest.mark.parametrize(
    "aside",
    [
        lambda s, h: F.kl_div(h, h.softmax(1)),
        lambda s, h: torch.linalg.svdvals(h).sum(),
        lambda s, h: h.cumprod(1),
        lambda s, h: F.cross_entropy(h, torch.tensor([0, 1, 2])),
        lambda s, h: torch.linalg.det(h @ h.t()),
        lambda s, h: F.ctc_loss(
            h.log_softmax(-1)[:, None],
            torch.tensor([[1]]),
            torch.tensor([3]),
            torch.tensor([1]),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:reduction. 'mean'")  # of the Kullback-Leibler divergence
def test_what_gets_no_reward_costs_nothing(aside: Any) -> None:
    def function(s: Net, h: Tensor) -> Tensor:
        s.kept = aside(s, h)
        return F.relu(h)

    agrees(Net(function), Net())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda s, h: h / h.norm().detach(), lambda s, h: h * (1 / h.detach().norm())),
        (lambda s, h: h + (h.round() - h).detach(), lambda s, h: h + (h.round() - h).data),
        (
            lambda s, h: h * torch.linalg.svdvals(h).detach().sum(),
            lambda s, h: h * torch.linalg.svdvals(h.data).sum(),
        ),
    ],
)
def test_detached_parts_are_constants(one: Any, other: Any) -> None:
    agrees(Net(one), Net(other))


def test_a_refusal_names_operation_module_and_line() -> None:
    class Odd(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h.cumprod(1)

    model = nn.Sequential(
        nn.Linear(7, 6), nn.Sequential(nn.ReLU(), Odd()), nn.Linear(6, 4)
    ).double()
    with lfp.feedback(0.1):
        outputs = model(inputs())
    with pytest.raises(lfp.UnsupportedOperation) as error:
        lfp.backward(outputs, outputs.detach())
    message = str(error.value)
    for part in ("cumprod", "Odd", "'1.1'", "test_never_silent.py, line"):
        assert part in message, message


# --- outputs --------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """Two outputs."""

    logits: Tensor
    value: Tensor


@dataclasses.dataclass
class Data:
    """Two outputs."""

    logits: Tensor
    value: Tensor


class ModelOutput(collections.OrderedDict[str, Tensor]):
    """Two outputs, as libraries of language models have them."""

    @property
    def logits(self) -> Tensor:
        """The first."""
        return self["logits"]


STRUCTURES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"logits": a, "value": b},
    "namedtuple": Pair,
    "dataclass": Data,
    "OrderedDict": lambda a, b: ModelOutput(logits=a, value=b),
    "nested": lambda a, b: {"logits": (a,), "rest": [{"value": b}]},
}


class Heads(nn.Module):
    """Two heads on one trunk, in a structure."""

    def __init__(self, structure: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(13)
            self.trunk, self.a, self.b = nn.Linear(7, 8), nn.Linear(8, 3), nn.Linear(8, 2)
        self.structure = structure
        self.double()

    def forward(self, x: Tensor) -> Any:
        """Return both outputs."""
        h = self.trunk(x).relu()
        return self.structure(self.a(h), self.b(h))


def _two_passes() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    model, both = Heads(lambda a, b: (a, b)), []
    for i in (0, 1):
        with lfp.feedback(0.1):
            outputs = model(inputs())[i]
        both.append(outputs.detach())
        lfp.backward(outputs, outputs.detach())
    want = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return both[0], both[1], want


@pytest.mark.parametrize("kind", STRUCTURES)
def test_structures_of_outputs_get_the_sum_of_two_passes(kind: str) -> None:
    a, b, want = _two_passes()
    model = Heads(STRUCTURES[kind])
    with lfp.feedback(0.1):
        outputs = model(inputs())
    lfp.backward(outputs, STRUCTURES[kind](a, b))
    got = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert distance(got, want) <= TOLERANCE


@pytest.mark.parametrize(
    "kind", ["tuple", "list", "dict", "namedtuple", "dataclass", "OrderedDict"]
)
def test_outputs_without_a_reward(kind: str) -> None:
    _, b, _ = _two_passes()
    model = Heads(STRUCTURES[kind])
    with lfp.feedback(0.1):
        outputs = model(inputs())
    reward: Any = STRUCTURES[kind](None, b)  # type: ignore[arg-type]
    lfp.backward(outputs, reward)
    assert model.a.weight.grad is None
    assert model.b.weight.grad is not None


def test_two_calls_with_retain_graph_are_the_sum() -> None:
    a, b, want = _two_passes()
    model = Heads(lambda a, b: (a, b))
    with lfp.feedback(0.1):
        one, two = model(inputs())
    lfp.backward(one, a, retain_graph=True)
    lfp.backward(two, b)
    got = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert distance(got, want) <= TOLERANCE


@pytest.mark.parametrize("kind", ["tuple", "dict", "dataclass", "OrderedDict"])
def test_structures_that_differ_are_named(kind: str) -> None:
    model = Heads(STRUCTURES[kind])
    with lfp.feedback(0.1):
        outputs = model(inputs())
    for reward in (torch.ones(3, 3), (torch.ones(3, 3),), {"other": torch.ones(3, 3)}, 1.0):
        with pytest.raises(ValueError, match="outputs"):
            lfp.backward(outputs, reward)
    with pytest.raises(ValueError, match="shape"):
        lfp.backward(outputs, STRUCTURES[kind](torch.ones(3, 2), torch.ones(3, 2)))


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda o: o.flatten(),
    "view": lambda o: o.view(-1, 2),
    "slice": lambda o: o[:, 1:],
    "select": lambda o: o[0],
    "transposed": lambda o: o.t(),
    "unsqueezed": lambda o: o[None].squeeze(0),
    "expanded": lambda o: o[:, :, None].expand(-1, -1, 2),
    "chunk": lambda o: o.chunk(2, 1)[1],
    "unbind": lambda o: o.unbind(0)[1],
    "clone": lambda o: o.clone(),
    "index": lambda o: o[torch.tensor([2, 0])],
    "gather": lambda o: o.gather(1, torch.tensor([[0], [1], [2]])),
    "cat": lambda o: torch.cat([o, o]),
    "float": lambda o: o.float().double(),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_outside_of_the_context_keep_the_mark_or_say_so(view: str) -> None:
    inside = Net(None)

    def run(outside: bool) -> dict[str, Tensor]:
        inside.zero_grad()
        with lfp.feedback(0.1):
            outputs = inside(inputs())
            viewed = None if outside else VIEWS[view](outputs)
        if viewed is None:
            viewed = VIEWS[view](outputs)
        lfp.backward(viewed, viewed.detach().cos())
        return {n: p.grad.clone() for n, p in inside.named_parameters() if p.grad is not None}

    want = run(False)
    if view in ("index", "gather", "cat"):  # which the engine would have to follow
        with pytest.raises(ValueError, match="carry no feedback"):
            run(True)
    else:
        assert distance(run(True), want) <= TOLERANCE


# --- tensors that are stored ----------------------------------------------------------------------


class Remembers(Net):
    """A network that keeps its input, its features and a running mean of them."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the network does."""
        with torch.no_grad():
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        self.input, self.features = x, super().forward(x) * 2
        return self.features + 1


def test_tensors_of_a_context_are_stored_and_read_as_others() -> None:
    model, x = Remembers(), inputs()
    with lfp.feedback(0.1):
        outputs = model(x)
    lfp.backward(outputs, outputs.detach())
    for tensor in (outputs, model.features, model.input, model.mean, x, *model.parameters()):
        file = io.BytesIO()
        torch.save({"it": tensor}, file)
        file.seek(0)
        read = torch.load(file, weights_only=True)["it"]
        assert torch.equal(read, tensor)
        assert torch.equal(pickle.loads(pickle.dumps(tensor.detach())), tensor)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    model.load_state_dict(torch.load(file, weights_only=True))


def test_data_that_was_stored_inside_of_a_context_is_data_again() -> None:
    model, x, file = Net(), inputs(), io.BytesIO()
    with lfp.feedback(0.1):
        made = nn.Linear(x.shape[-1], x.shape[-1]).to(x)(x).detach()
        torch.save(made, file)
    file.seek(0)
    fresh, read = made.detach().clone(), torch.load(file, weights_only=True)
    found = [feedback_of(model, data, 0.1) for data in (fresh, read)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
