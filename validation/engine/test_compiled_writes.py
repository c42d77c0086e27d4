"""What is compiled has the feedback of eager mode, or is refused by name; never another one."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import lfp_core as lfp
from lfp_core import _torch
from validation.spellings import Network, Spelling, distance, feedback_of

pytestmark = pytest.mark.compiled

TOLERANCE = 1e-9


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _slices(h: Tensor, g: Tensor) -> Tensor:
    y = h * 1
    y[:, :4] = g[:, :4]
    return y


def _masked_assignment(h: Tensor, g: Tensor) -> Tensor:
    y = h.clone()
    y[h > 0] = 0.5
    return y * g


def _copy(h: Tensor, g: Tensor) -> Tensor:
    y = h.clone()
    y[:, 1:3].copy_(g[:, 1:3])
    return y


def _view(h: Tensor, g: Tensor) -> Tensor:
    y = h.clone()
    view = y.view(-1)
    view.mul_(2)
    return y + g


def _inplace_by_place(h: Tensor, g: Tensor) -> Tensor:
    """A compiler shows the arguments of F.dropout where they stand; eager mode shows names."""
    F.dropout(h[:, :3], 0.5, True, True)
    return h * g


def _out_of_place_by_place(h: Tensor, g: Tensor) -> Tensor:
    return torch.cat([F.dropout(h[:, :3], 0.5, True, False), h[:, :2]], 1) * g


def _transposed(h: Tensor, g: Tensor) -> Tensor:
    y = h.clone()
    y.t().add_(g.t())
    return y


def _relu_of_slice(h: Tensor, g: Tensor) -> Tensor:
    F.relu(h[:, :3], inplace=True)
    return h + g


def _plus_slice(h: Tensor, g: Tensor) -> Tensor:
    h[:, :2] += 1
    return h


def _plus_slice_activation(h: Tensor, g: Tensor) -> Tensor:
    h[:, 2:] += g[:, 2:]
    return h


def _times_slice(h: Tensor, g: Tensor) -> Tensor:
    h[:, 2:] *= torch.sigmoid(g[:, 2:])
    return h


def _after_a_view(h: Tensor, g: Tensor) -> Tensor:
    view = h[:, :2]
    h.add_(g)
    return torch.cat([view, h[:, 2:]], 1)


def _scaled_after_a_view(h: Tensor, g: Tensor) -> Tensor:
    view = h[:, :2]
    h.mul_(2)
    return torch.cat([view, h[:, 2:]], 1) * g


def _slice_of_data(h: Tensor, g: Tensor, x: Tensor) -> Tensor:
    y = x[:, :5].clone()
    y[:, 1:] = h[:, 1:]
    return y


def _lstm(s: Any, h: Tensor, g: Tensor) -> Tensor:
    gates = F.linear(h, s.rows[:5], s.b) + F.linear(g, s.w)
    i, f = gates.sigmoid(), torch.sigmoid(gates * 2)
    c = f * g + i * torch.tanh(h)
    return torch.sigmoid(gates + 1) * torch.tanh(c)


CASES: dict[str, Spelling] = {
    "slices": lambda s, h, g, x: _slices(h, g),
    "masked assignment": lambda s, h, g, x: _masked_assignment(h, g),
    "slices of data": lambda s, h, g, x: _slice_of_data(h, g, x),
    "copy_ to a slice": lambda s, h, g, x: _copy(h, g),
    "in place on a view": lambda s, h, g, x: _view(h, g),
    "in place on a transposed": lambda s, h, g, x: _transposed(h, g),
    "relu of a slice": lambda s, h, g, x: _relu_of_slice(h, g),
    "+= 1 on a slice": lambda s, h, g, x: _plus_slice(h, g),
    "+= on a slice": lambda s, h, g, x: _plus_slice_activation(h, g),
    "gate on a slice": lambda s, h, g, x: _times_slice(h, g),
    "in place where views are": lambda s, h, g, x: _after_a_view(h, g),
    "scatter_": lambda s, h, g, x: h.clone().scatter_(1, torch.zeros(4, 1).long(), g[:, :1]),
    "add_": lambda s, h, g, x: h.add_(g),
    "mul_ by a gate": lambda s, h, g, x: h.mul_(g.sigmoid()),
    "noisy weight": lambda s, h, g, x: h @ (s.w + 0.01 * s.e).t(),
    "standardised weight": lambda s, h, g, x: h @ ((s.w - s.w.mean()) / s.w.std()).t(),
    "weight by layer_norm": lambda s, h, g, x: F.linear(h, F.layer_norm(s.w, (5,))),
    "generated weight": lambda s, h, g, x: h @ s.from_data(x.mean(0)).view(5, 5),
    "frozen generated weight": lambda s, h, g, x: F.linear(h, s.frozen(x.mean(0)).view(5, 5)),
    "rms by hand": lambda s, h, g, x: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * s.b,
    "rms by einsum": lambda s, h, g, x: h / torch.einsum("bi,bi->b", h, h)[:, None].sqrt() * s.b,
    "lstm cell": lambda s, h, g, x: _lstm(s, h, g),
    "dropout": lambda s, h, g, x: F.dropout(h, 0.5, True),
    "dropout in place, by place": lambda s, h, g, x: _inplace_by_place(h, g),
    "dropout out of place, by place": lambda s, h, g, x: _out_of_place_by_place(h, g),
    "dropout by hand": lambda s, h, g, x: h * (torch.rand_like(h) > 0.5) * 2,
    "glu": lambda s, h, g, x: F.glu(torch.cat([h, g], 1)),
    "silu by hand": lambda s, h, g, x: h / (1 + torch.exp(-h)),
    "hardswish by hand": lambda s, h, g, x: h * F.relu6(h + 3) / 6,
    "einsum": lambda s, h, g, x: torch.einsum("bi,bi->bi", h, g),
    "product with data": lambda s, h, g, x: h * (x[:, :5] * s.e[0]),
    "scaled where views are": lambda s, h, g, x: _scaled_after_a_view(h, g),
}
INPUT = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


#: What torch 2.11 says of ``add_`` of a layer's output, which later ones compile.
IN_PLACE = "is a view and is being modified inplace"


def compiled_feedback(
    case: Spelling, backend: str, whole: bool, strict: bool
) -> dict[str, Tensor] | str:
    """Return the feedback of a compiled network, or the refusal."""
    network = Network([case], True, 5)
    run: Callable[[Tensor], Tensor]

    if whole:

        def inside(x: Tensor) -> Tensor:
            with lfp.feedback(0.1, strict=strict):
                return network(x)

        run = torch.compile(inside, backend=backend)
    else:
        compiled = torch.compile(network, backend=backend)

        def run(x: Tensor) -> Tensor:
            with lfp.feedback(0.1, strict=strict):
                return compiled(x)

    torch.manual_seed(3)
    try:
        outputs = run(INPUT.clone())
        lfp.backward(outputs, outputs.detach().cos())
    except (lfp.UnsupportedOperation, RuntimeError, torch._dynamo.exc.TorchDynamoException) as e:
        older = _torch.RELEASE < (2, 14) and IN_PLACE in str(e)
        if not older and "no LFP rule" not in str(e):
            raise
        return str(e)
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


#: Each case in one way, as compiling takes seconds: both are in the cases of each kind. Every other
#: case is one of make test-thorough.
WAYS = [("eager", True), ("aot_eager", False)]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("number", "name"),
    [
        pytest.param(number, name, marks=pytest.mark.thorough if number % 2 else ())
        for number, name in enumerate(CASES)
    ],
)
def test_compiled_code_is_as_eager_or_refused(number: int, name: str) -> None:
    want = feedback_of(Network([CASES[name]], True, 5), INPUT.clone(), 0.1)
    backend, whole = WAYS[number % 2]
    got = compiled_feedback(CASES[name], backend, whole, strict=number % 3 > 0)
    if not isinstance(got, str):
        assert distance(got, want) <= TOLERANCE
