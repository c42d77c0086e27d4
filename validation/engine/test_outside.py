"""What is made outside of the engine's sight, and what a context is given or leaves behind.

Each case is compared with the same function inside of its sight, or is refused by name.
"""

import copy
import pickle
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from lfp_core import _torch, marks, native
from lfp_core.slopes import WeightScale
from validation import spellings
from validation.spellings import distance

pytestmark = pytest.mark.usefixtures("double")
TOLERANCE = 1e-12
WIDTH = 4

Function = Callable[[Tensor], Tensor]


class TwoBranches(nn.Module):
    """A layer of the product of two branches, one of them behind a function.

    Args:
        function: of the second branch, or of the data that it is made of.
        on_data: whether the function comes before the branch's layer.
    """

    def __init__(self, function: Function, on_data: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.last = nn.Linear(WIDTH, 3)
        self.function, self.on_data = function, on_data

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 3)."""
        if self.on_data:
            joined = self.first(x) + self.second(self.function(x)).tanh()
        else:
            joined = self.first(x) * self.function(self.second(x))
        return self.last(joined.tanh())


def inputs() -> Tensor:
    return torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(2))


def feedback_of(model: nn.Module, epsilon: float = 0.1, strict: bool = True) -> dict[str, Tensor]:
    """Return the feedback of every parameter that has one."""
    return spellings.feedback_of(model, inputs(), epsilon, strict=strict)


# --- without gradients ----------------------------------------------------------------------------

VIEWS: dict[str, Function] = {
    "clone": torch.clone,
    "part": lambda h: h[:, :],
    "shape": lambda h: h.view(-1).view(h.shape),
    "transposed twice": lambda h: h.t().t(),
    "chunks": lambda h: torch.cat(h.chunk(2)),
    "rows": lambda h: torch.stack(list(h.unbind())),
    "multiple of a part": lambda h: h[:, :] * 2 / 2,
    "part, detached": lambda h: h[:, :].detach(),
    "expanded": lambda h: h[None].expand(2, -1, -1)[1],
    "times one": lambda h: h * 1,
}


def without_gradients(function: Function) -> Function:
    def run(h: Tensor) -> Tensor:
        with torch.no_grad():
            return function(h)

    return run


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("view", VIEWS)
def test_what_is_made_without_gradients_is_cut_off(view: str, epsilon: float) -> None:
    expected = feedback_of(TwoBranches(torch.detach), epsilon)
    found = feedback_of(TwoBranches(without_gradients(VIEWS[view])), epsilon)
    assert distance(found, expected) < TOLERANCE


def test_a_view_of_what_is_not_cut_off_is_another_function() -> None:
    expected = feedback_of(TwoBranches(torch.detach))
    assert distance(feedback_of(TwoBranches(VIEWS["part"])), expected) > 0.1


LAYERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": F.linear,
    "einsum": lambda x, w: torch.einsum("bi,oi->bo", x, w),
    "tensordot": lambda x, w: torch.tensordot(x, w, ([1], [1])),
    "batched": lambda x, w: torch.matmul(w, x[:, :, None])[..., 0],
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_look_at_a_part_changes_nothing(name: str) -> None:
    """Theorem 1, though a mean is logged of an output that torch computes as a view."""

    class Logged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(6)
            self.w, self.last = nn.Parameter(torch.randn(5, WIDTH)), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = LAYERS[name](x, self.w)
            with torch.no_grad():
                part = h[:, :1]
            part.mean()
            return self.last(h.relu())

    model = Logged()
    found = feedback_of(model, 0.0)
    model.zero_grad()
    output = model(inputs())
    output.backward(output.detach().cos() / output.detach())
    for n, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(-found[n], p.detach().abs() * p.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cut", [torch.detach, lambda x: x.data, lambda x: x.data.clone()])
def test_data_that_are_cut_off_at_once_are_data(cut: Function) -> None:
    class First(nn.Module):
        def __init__(self, cut: Function) -> None:
            super().__init__()
            torch.manual_seed(7)
            self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
            self.cut = cut

        def forward(self, x: Tensor) -> Tensor:
            x = self.cut(x)
            return self.b(self.a(x) * x.cos())

    assert distance(feedback_of(First(cut)), feedback_of(First(lambda x: x))) < TOLERANCE


def test_views_without_gradients_of_data_and_weights_are_what_they_were() -> None:
    class Views(nn.Module):
        def __init__(self, cut: bool) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.w, self.last = nn.Parameter(torch.randn(WIDTH, 2 * WIDTH)), nn.Linear(WIDTH, 3)
            self.cut = cut

        def forward(self, x: Tensor) -> Tensor:
            with torch.set_grad_enabled(not self.cut):
                part, w = x[:, :], self.w[:, :WIDTH]
            if not self.cut:
                part, w = part.detach(), w.detach()
            return self.last((part @ self.w[:, WIDTH:] + part @ w).relu())

    assert distance(feedback_of(Views(True)), feedback_of(Views(False))) < TOLERANCE


UNKNOWN: dict[str, Function] = {
    "i1": torch.special.i1,
    "erfcx": torch.special.erfcx,
    "cumprod": lambda h: h.cumprod(0),
    "renorm": lambda h: torch.renorm(h, 2, 0, 1.0),
    "pinv": lambda h: torch.linalg.pinv(h).t(),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_an_unknown_operation_makes_of_a_frozen_layer_stays_an_activation(name: str) -> None:
    model = TwoBranches(UNKNOWN[name])
    learning = feedback_of(model, strict=False)
    model.second.requires_grad_(False)
    frozen = feedback_of(model, strict=False)
    kept = {n: f for n, f in learning.items() if not n.startswith("second")}
    assert distance(frozen, kept) < TOLERANCE


# --- made where the context does not look ---------------------------------------------------------


def _into(x: Tensor) -> Tensor:
    memory = torch.zeros(x.shape)
    torch.mul(x, x, out=memory)
    return memory


def _into_a_part(x: Tensor) -> Tensor:
    memory = torch.zeros(2, *x.shape)
    torch.mul(x, x, out=memory[1])
    return memory.sum(0)


def _into_two(x: Tensor) -> Tensor:
    places = torch.empty(len(x)), torch.empty(len(x), dtype=torch.long)
    torch.max(x, 1, out=places)
    return x * x + 0 * places[0][:, None]


@pytest.mark.parametrize(
    "function", [_into, lambda x: torch.mul(x, x, out=torch.empty(0)), _into_a_part, _into_two]
)
def test_data_that_are_written_into_another_tensor_are_data(function: Function) -> None:
    expected = feedback_of(TwoBranches(torch.square, on_data=True))
    assert distance(feedback_of(TwoBranches(function, on_data=True)), expected) < TOLERANCE


WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "all": lambda memory, x: memory.copy_(x),
    "a slice": lambda memory, x: memory.__setitem__(slice(None), x),
    "rows": lambda memory, x: memory.__setitem__(torch.arange(len(x)), x),
    "a view": lambda memory, x: memory[:, :].copy_(x),
    "another's view": lambda memory, x: torch.mul(x, 1, out=memory[:, :]),
}


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("name", WRITES)
def test_data_that_are_written_into_a_part_of_a_buffer_are_data(name: str, cut: bool) -> None:
    def written(x: Tensor) -> Tensor:
        memory = torch.zeros(x.shape)
        with torch.set_grad_enabled(not cut):
            WRITES[name](memory, x * x)
        return memory

    expected = feedback_of(TwoBranches(torch.square, on_data=True))
    assert distance(feedback_of(TwoBranches(written, on_data=True)), expected) < TOLERANCE


INTO: dict[str, tuple[Function, Function]] = {
    "a gate": (torch.sigmoid, lambda h: torch.sigmoid(h, out=torch.empty(0))),
    "a norm": (
        lambda h: 1 / torch.norm(h, dim=-1, keepdim=True),
        lambda h: 1 / torch.norm(h, dim=-1, keepdim=True, out=torch.empty(6, 1)),
    ),
    "the largest": (
        lambda h: h.max(1, keepdim=True).values,
        lambda h: (
            torch.max(
                h, 1, keepdim=True, out=(torch.empty(6, 1), torch.empty(6, 1, dtype=torch.long))
            ).values
        ),
    ),
}


@pytest.mark.parametrize("name", INTO)
def test_what_a_frozen_layer_writes_into_another_tensor_is_what_it_was(name: str) -> None:
    found = []
    for function in INTO[name]:
        model = TwoBranches(function)
        model.second.requires_grad_(False)
        found.append(feedback_of(model))
    assert distance(*found) < TOLERANCE


def test_what_learns_is_written_into_no_other_tensor() -> None:
    """As torch says, in its words."""
    with pytest.raises(RuntimeError, match=r"out=.*don't support automatic differentiation"):
        feedback_of(TwoBranches(lambda h: torch.sigmoid(h, out=torch.empty(6, WIDTH))))


def test_constants_that_are_written_into_another_tensor_are_constants() -> None:
    def of_constants(x: Tensor) -> Tensor:
        return torch.add(torch.ones(6, WIDTH), 1, out=torch.empty(6, WIDTH))

    expected = feedback_of(TwoBranches(lambda x: torch.full((6, WIDTH), 2.0), on_data=True))
    assert distance(feedback_of(TwoBranches(of_constants, on_data=True)), expected) < TOLERANCE


def test_a_transform_of_data_is_refused() -> None:
    square = torch.vmap(lambda row: row * row)
    with pytest.raises(lfp.UnsupportedOperation, match=r"mul inside of a transform of torch\.func"):
        feedback_of(TwoBranches(square, on_data=True))


def test_a_transform_of_whole_numbers_and_constants_is_run() -> None:
    def masked(x: Tensor) -> Tensor:
        return x * torch.vmap(lambda i: i % 2)(torch.arange(WIDTH))

    expected = feedback_of(TwoBranches(lambda x: x * (torch.arange(WIDTH) % 2), on_data=True))
    assert distance(feedback_of(TwoBranches(masked, on_data=True)), expected) < TOLERANCE


# --- weights that were made before ----------------------------------------------------------------


class Twofold(torch.autograd.Function):
    """Two weights of one."""

    @staticmethod
    def forward(ctx: object, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return twice and three times the halves."""
        return w[:WIDTH] * 2, w[WIDTH:] * 3

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        """Return the derivative."""
        return torch.cat([gradients[0] * 2, gradients[1] * 3])


MAKINGS: dict[str, Callable[[Tensor, Tensor], Sequence[Tensor]]] = {
    "chunks": lambda a, b: (a @ b).chunk(2),
    "rows": lambda a, b: ((a @ b)[:WIDTH], (a @ b)[WIDTH:]),
    "multiples": lambda a, b: [3 * each.sin() for each in (a @ b).exp().chunk(2)],
    "one of them twice": lambda a, b: [(a @ b)[:WIDTH]] * 2,
    "a Function of two": lambda a, b: Twofold.apply(a @ b),
}


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("making", MAKINGS)
def test_weights_of_one_graph_are_scaled_once(making: str, inside: bool) -> None:
    """Theorem 1 at epsilon 0, whatever of the weights was made outside of the context."""
    a, b = nn.Parameter(torch.randn(2 * WIDTH, 3)), nn.Parameter(torch.randn(3, WIDTH))
    x = torch.randn(6, WIDTH)

    def output_of(made: Sequence[Tensor]) -> Tensor:
        return F.linear(F.linear(x, made[0]).relu(), made[1])

    made = None if inside else MAKINGS[making](a, b)
    with lfp.feedback(0.0):
        output = output_of(MAKINGS[making](a, b) if made is None else made)
    lfp.backward(output, output.detach())
    gradients = torch.autograd.grad(output_of(MAKINGS[making](a, b)).sum(), [a, b])
    for weight, gradient in zip((a, b), gradients, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(-weight.grad, weight.abs() * gradient, rtol=1e-12, atol=1e-12)


def test_two_scalings_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    known = _torch.metadata
    monkeypatch.setattr(_torch, "metadata", lambda node: _without_notes(known(node)))
    with pytest.raises(AssertionError):
        test_weights_of_one_graph_are_scaled_once("chunks", inside=False)


def _without_notes(noted: dict[object, object]) -> dict[object, object]:
    for key in [key for key in noted if isinstance(key, tuple) and key[0] == marks.SCALED]:
        del noted[key]
    return noted


def test_functions_of_functions_of_weights_are_weights() -> None:
    class Rounded(torch.autograd.Function):
        """Rounding, and its straight-through derivative."""

        @staticmethod
        def forward(ctx: object, z: Tensor) -> Tensor:
            """Round."""
            return z.round()

        @staticmethod
        def backward(ctx: object, g: Tensor) -> Tensor:
            """Hand the gradient on."""
            return g

    class Quantised(nn.Module):
        def __init__(self, by_functions: bool) -> None:
            super().__init__()
            torch.manual_seed(5)
            self.first, self.last = nn.Linear(WIDTH, 6), nn.Linear(6, 3)
            self.by_functions = by_functions

        def forward(self, x: Tensor) -> Tensor:
            scaled = 7 * self.last.weight
            if self.by_functions:
                w = Rounded.apply(Rounded.apply(scaled) * 1)
            else:
                w = scaled + (scaled.round() - scaled).detach()
            return F.linear(self.first(x).relu(), w / 7, self.last.bias)

    for strict in (False, True):
        expected = feedback_of(Quantised(False), strict=strict)
        assert distance(feedback_of(Quantised(True), strict=strict), expected) < TOLERANCE


def test_the_node_that_accumulates_a_gradient_is_next_to_a_view_like_itself() -> None:
    """So libraries find it in a model's forward pass, to hook their communication there."""
    w, x = nn.Parameter(torch.randn(3, WIDTH)), torch.randn(5, WIDTH)
    found = []
    for use in (
        lambda w: w,
        lambda w: w.expand_as(w),
        lambda w: Twofold.apply(w.view_as(w))[0] / 2,
    ):
        with lfp.feedback(0.1):
            same = w.expand_as(w)
            output = F.linear(lfp.activation(x), use(w))
        assert same.grad_fn is not None
        (node, _), *_ = same.grad_fn.next_functions
        assert node is not None
        assert node.name() == "torch::autograd::AccumulateGrad"
        lfp.backward(output, output.detach())
        assert w.grad is not None
        found.append(w.grad)
        w.grad = None
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[2], found[0])


# --- contexts -------------------------------------------------------------------------------------


def test_a_context_that_joins_another_names_its_weights() -> None:
    w, x = torch.randn(WIDTH, WIDTH, requires_grad=True), torch.randn(5, WIDTH)
    last = nn.Linear(WIDTH, 2)

    def feedback(joins: bool) -> Tensor:
        w.grad = None
        if joins:
            with lfp.feedback(0.1), lfp.feedback(0.1, parameters=[w]):
                output = last((x @ w).relu())
        else:
            with lfp.feedback(0.1, parameters=[w]):
                output = last((x @ w).relu())
        lfp.backward(output, output.detach())
        assert w.grad is not None
        return w.grad

    assert torch.equal(feedback(True), feedback(False))
    assert not hasattr(w, marks.ATTRIBUTE), "it is a plain tensor again"


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_a_context_can_be_copied(copied: Callable[[lfp.feedback], lfp.feedback]) -> None:
    model, x = nn.Linear(WIDTH, 3), torch.randn(5, WIDTH)
    found = []
    for context in (original := lfp.feedback(0.3, gates="uniform"), copied(original)):
        model.zero_grad()
        with context:
            output = model(x)
        lfp.backward(output, output.detach())
        assert model.weight.grad is not None
        found.append(model.weight.grad)
    assert torch.equal(*found)


def test_a_state_that_a_copied_model_keeps_is_what_it_was() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.state = nn.GRUCell(WIDTH, WIDTH), torch.zeros(6, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            output = self.cell(x, self.state)
            self.state = output.detach()
            return output

    model = Stateful()
    feedback_of(model)
    other = copy.deepcopy(model)
    assert distance(feedback_of(other), feedback_of(model)) == 0.0


def test_rows_by_numbers_that_may_be_data_are_refused() -> None:
    """Where no module is called, tokens are data or positions: two kinds of feedback."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Parameter(torch.randn(5, 4)), nn.Linear(4, 4)

        def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
            return (self.layer.forward(x) + self.table[tokens]).tanh()

    model, x, tokens = Tokens(), torch.randn(6, 4), torch.randint(5, (6,))

    def arrive(run: Callable[[Tensor, Tensor], Tensor], tokens: Tensor) -> None:
        with lfp.feedback(0.1):
            output = run(x, tokens)
        lfp.backward(output, output.detach())

    arrive(model, tokens)
    with pytest.raises(lfp.UnsupportedOperation, match=r"lfp\.activation on the model's input"):
        arrive(model.forward, tokens)
    arrive(lambda x, t: model.forward(x, lfp.activation(t)), tokens)


# --- sparse rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", ["Python", "C++"])
def test_feedback_of_sparse_rows_is_sparse(nodes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if nodes == "C++":
        monkeypatch.setattr(native, "nodes", native.load(native.place()))
        if native.nodes is None:
            pytest.skip("the nodes in C++ are not built")
    found = {}
    for sparse in (False, True):
        torch.manual_seed(4)
        table = nn.Embedding(7, WIDTH, sparse=sparse)
        model = nn.Sequential(table, nn.Linear(WIDTH, 2))
        with lfp.feedback(0.1):
            output = model(torch.tensor([[1, 3, 3], [0, 1, 6]]))
        lfp.backward(output, output.detach())
        assert table.weight.grad is not None
        assert table.weight.grad.is_sparse == sparse
        found[sparse] = table.weight.grad.to_dense()
    torch.testing.assert_close(found[True], found[False], rtol=1e-14, atol=0.0)


def test_the_scaling_of_sparse_gradients_is_that_of_dense_ones() -> None:
    w = torch.randn(5, 3, requires_grad=True)
    places = torch.tensor([[4, 0, 4]])
    gradient = torch.sparse_coo_tensor(places, torch.randn(3, 3), (5, 3), check_invariants=True)
    WeightScale.apply(w).backward(gradient)
    assert w.grad is not None
    assert w.grad.is_sparse
    torch.testing.assert_close(w.grad.to_dense(), w.detach().abs() * gradient.to_dense())
