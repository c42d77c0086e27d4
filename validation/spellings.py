"""Networks in which every part is a function with several spellings that must agree.

A :class:`Block` holds parameters and a buffer, and applies one spelling of a family of functions to
its input (batch, 5). A spelling is ``f(block, h, g, x)``: h is the input of the block, g another
activation, and x the input of the network, which is data.

Left out are spellings that differ for a reason, at epsilon > 0 alone: the order of operations that
each owe an epsilon, such as a sum divided by n against a mean, a chain of additions against one
sum, ``w * h / rms`` against ``h / rms * w``, and what is centred by hand against a fused layer.
They agree at epsilon 0. Data that are concatenated with activations are activations from then on,
so that ``F.glu`` of both is not the product of data and a gate.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import lfp_core as lfp

WIDTH, FEATURES = 5, 6
Spelling = Callable[["Block", Tensor, Tensor, Tensor], Tensor]
Making = Callable[["Block", Tensor, Tensor], Tensor]
Using = Callable[[Tensor, Tensor], Tensor]


class Block(nn.Module):
    """One spelling of a function, with all the parameters that any of them uses."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        n = WIDTH
        self.spelling = spelling
        self.other = nn.Linear(FEATURES, n)
        self.w, self.v = (nn.Parameter(torch.randn(n, n) / 2) for _ in range(2))
        self.b, self.c = (nn.Parameter(torch.randn(n)) for _ in range(2))
        self.rows = nn.Parameter(torch.randn(n + 4, n) / 2)
        self.down, self.up = nn.Parameter(torch.randn(n, 2)), nn.Parameter(torch.randn(2, n))
        self.from_data, self.from_hidden = nn.Linear(FEATURES, n * n), nn.Linear(n, n * n)
        self.frozen = nn.Linear(FEATURES, n * n).requires_grad_(False)
        self.e: Tensor
        self.mask: Tensor
        self.register_buffer("e", torch.randn(n, n))
        self.register_buffer("mask", torch.rand(n, n) > 0.4)
        layers = [nn.Linear(n, n, bias=False) for _ in range(4)]
        self.normed = parametrizations.weight_norm(layers[0])
        self.spectral = parametrizations.spectral_norm(layers[1])
        self.orthogonal = parametrizations.orthogonal(layers[2])
        self.pruned = prune.l1_unstructured(layers[3], "weight", 0.4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the older kind, which is a hook
            self.hooked = nn.utils.weight_norm(nn.Linear(n, n, bias=False))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Apply the spelling to (batch, 5)."""
        return self.spelling(self, h, self.other(x), x)


class Network(nn.Module):
    """Maybe a linear layer, blocks one after the other, and a linear layer.

    Args:
        spellings: of the blocks.
        behind: whether a layer comes first, or the first block is applied to the data themselves.
        seed: of the parameters, which do not depend on the spellings.
    """

    def __init__(self, spellings: list[Spelling], behind: bool, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(FEATURES, WIDTH) if behind else None
            self.blocks = nn.ModuleList(Block(spelling) for spelling in spellings)
            self.last = nn.Linear(WIDTH, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 3)."""
        h = x[:, :WIDTH] if self.first is None else self.first(x)
        for block in self.blocks:
            h = block(h, x)
        return self.last(h)


def feedback_of(model: nn.Module, x: Tensor, epsilon: float, **options: Any) -> dict[str, Tensor]:
    """Return the feedback of every parameter that has one, for a reward that changes its sign."""
    model.zero_grad()
    torch.manual_seed(3)
    with lfp.feedback(epsilon, **options):
        outputs = model(x)
    lfp.backward(outputs, outputs.detach().cos())
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the largest relative distance of a tensor in a from that in b; none is zero.

    It is infinite if a number is not finite.
    A tensor whose feedback is a millionth of the network's is rounding, such as of a bias before a
    normalisation, and is measured by that.
    """
    if not all(tensor.isfinite().all() for tensor in (*a.values(), *b.values())):
        return math.inf
    norms = {name: float(tensor.norm()) for name, tensor in b.items()}
    smallest = 1e-6 * max(norms.values())
    zero = torch.zeros(())
    return max(
        float((a.get(name, zero) - b.get(name, zero)).norm()) / max(norms.get(name, 0.0), smallest)
        for name in a.keys() | b.keys()
    )


# --- weights --------------------------------------------------------------------------------------


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _written(s: Block) -> Tensor:
    weight = torch.zeros(WIDTH, WIDTH, dtype=s.w.dtype)
    weight[:2], weight[2:] = s.w[:2], s.v[2:]
    return weight


def _masked_in_place(s: Block) -> Tensor:
    weight = s.w.clone()
    weight[~s.mask] = 0
    return weight


def _by_hook(s: Block) -> Tensor:
    s.hooked(torch.zeros(1, WIDTH, dtype=s.w.dtype))
    return s.hooked.weight


def _pruned(s: Block) -> Tensor:
    s.pruned(torch.zeros(1, WIDTH, dtype=s.w.dtype))
    return s.pruned.weight


def _two_experts(p: Tensor, s: Block) -> Tensor:
    return torch.einsum("k,kij->ij", p.mean(0)[:2].softmax(0), torch.stack([s.w, s.v]))


def _square(w: Tensor) -> Tensor:
    return w.view(WIDTH, WIDTH)


#: How a weight (5, 5) is made, of parameters or of activations: f(block, h, x).
MADE: dict[str, Making] = {
    "parameter": lambda s, h, x: s.w,
    "transposed": lambda s, h, x: s.w.t(),
    "masked": lambda s, h, x: s.w * s.mask,
    "masked in place": lambda s, h, x: _masked_in_place(s),
    "masked_fill": lambda s, h, x: s.w.masked_fill(s.mask, 0),
    "chosen": lambda s, h, x: torch.where(s.mask, s.w, s.v),
    "noisy": lambda s, h, x: s.w + 0.01 * s.e,
    "reversed": lambda s, h, x: s.e - s.w,
    "interpolated": lambda s, h, x: torch.lerp(s.w, s.e, 0.2),
    "scaled": lambda s, h, x: 0.3 * s.w,
    "over its largest": lambda s, h, x: s.w / s.w.abs().max(),
    "standardised": lambda s, h, x: (
        (s.w - s.w.mean(1, keepdim=True)) / (s.w.std(1, keepdim=True) + 1e-3)
    ),
    "standardised by batch_norm": lambda s, h, x: F.batch_norm(
        s.w[None], None, None, training=True
    )[0],
    "layer_norm": lambda s, h, x: F.layer_norm(s.w, (WIDTH,)),
    "normalised": lambda s, h, x: F.normalize(s.w),
    "expanded as another": lambda s, h, x: s.w / s.w.norm(dim=1, keepdim=True).expand_as(s.e),
    "weight_norm by hand": lambda s, h, x: s.b[:, None] * s.w / s.w.norm(dim=1, keepdim=True),
    "tied": lambda s, h, x: s.w + s.w.t(),
    "two": lambda s, h, x: s.w + s.v,
    "low rank": lambda s, h, x: s.down @ s.up,
    "low rank, added": lambda s, h, x: torch.addmm(s.w, s.down, s.up),
    "by linear": lambda s, h, x: F.linear(s.w, s.v),
    "by convolution": lambda s, h, x: F.conv1d(s.w[:, None], s.e[:1, None, :3], padding=1)[:, 0],
    "a constant by linear": lambda s, h, x: F.linear(s.e, s.w, s.b),
    "a constant by convolution": lambda s, h, x: F.conv1d(s.e[None], s.w[..., None])[0],
    "a constant by @, normalised": lambda s, h, x: F.layer_norm(s.e @ s.w, (WIDTH,), s.b),
    "looked up": lambda s, h, x: F.embedding(torch.arange(WIDTH), s.rows),
    "by einsum": lambda s, h, x: torch.einsum("ik,kj->ij", s.w, s.v),
    "kron": lambda s, h, x: torch.kron(s.w[:1], s.w[:, :1]),
    "outer": lambda s, h, x: torch.outer(s.b, s.w[0]),
    "expanded": lambda s, h, x: s.b.expand(WIDTH, WIDTH),
    "diagonal": lambda s, h, x: torch.diag(s.b),
    "rows": lambda s, h, x: s.rows[:WIDTH],
    "indexed": lambda s, h, x: s.rows[torch.tensor([1, 0, 3, 7, 8])],
    "columns": lambda s, h, x: s.w[:, torch.arange(4, -1, -1)],
    "concatenated": lambda s, h, x: torch.cat([s.w[:2], s.v[2:]]),
    "stacked": lambda s, h, x: torch.stack([s.w[0], s.v[2], s.w[1], s.w[0], s.c]),
    "written to slices": lambda s, h, x: _written(s),
    "softplus": lambda s, h, x: F.softplus(s.w),
    "tanh": lambda s, h, x: torch.tanh(s.w),
    "exp": lambda s, h, x: s.w.exp(),
    "relu": lambda s, h, x: F.relu(s.w),
    "relu in place": lambda s, h, x: F.relu(s.w + s.e, inplace=True),
    "relu_": lambda s, h, x: (s.w * 1.0).relu_(),
    "a network of a constant": lambda s, h, x: F.linear(
        nn.ReLU(inplace=True)(F.linear(s.e, s.w, s.b)), s.v
    ),
    "softmax": lambda s, h, x: s.w.softmax(-1),
    "gated": lambda s, h, x: s.w * torch.sigmoid(s.v),
    "rounded": lambda s, h, x: s.w + (s.w.round() - s.w).detach(),
    "rotation": lambda s, h, x: torch.matrix_exp(s.w - s.w.t()),
    "inverse": lambda s, h, x: torch.linalg.inv(s.w + 5 * torch.eye(WIDTH, dtype=s.w.dtype)),
    "filtered": lambda s, h, x: torch.fft.irfft(torch.fft.rfft(s.w), n=WIDTH),
    "weight_norm": lambda s, h, x: _weight(s.normed),
    "weight_norm by hook": lambda s, h, x: _by_hook(s),
    "spectral_norm": lambda s, h, x: _weight(s.spectral),
    "orthogonal": lambda s, h, x: _weight(s.orthogonal),
    "pruned": lambda s, h, x: _pruned(s),
    "detached": lambda s, h, x: s.w.detach(),
    "generated from data": lambda s, h, x: _square(s.from_data(x.mean(0))),
    "generated, frozen": lambda s, h, x: _square(s.frozen(x.mean(0))),
    "scaled by data": lambda s, h, x: s.w * x.mean(),
    "moved by data": lambda s, h, x: s.w + x.mean(0)[:WIDTH],
    "experts by data": lambda s, h, x: _two_experts(x, s),
}
#: The same, of what is behind the first layer.
MADE_BEHIND: dict[str, Making] = {
    "generated": lambda s, h, x: _square(s.from_hidden(h.mean(0))),
    "scaled by activations": lambda s, h, x: s.w * h.mean(),
    "moved by activations": lambda s, h, x: s.w + h.mean(0),
    "experts": lambda s, h, x: _two_experts(h, s),
}

_LINEAR = nn.Linear(WIDTH, WIDTH, bias=False)
#: h (batch, 5) times the transposed weight (5, 5): f(h, weight).
USED: dict[str, Using] = {
    "F.linear": F.linear,
    "keywords": lambda h, w: F.linear(input=h, weight=w),
    "@": lambda h, w: h @ w.t(),
    "reversed @": lambda h, w: (w @ h.t()).t(),
    "matmul": lambda h, w: torch.matmul(h, w.T),
    "linalg.matmul": lambda h, w: torch.linalg.matmul(h, w.T),
    "matmul of a stack": lambda h, w: (h.unsqueeze(1) @ w.mT).squeeze(1),
    "__rmatmul__": lambda h, w: w.t().__rmatmul__(h),
    "mm": lambda h, w: h.mm(w.mT),
    "mm by keyword": lambda h, w: torch.mm(input=h, mat2=w.t()),
    "bmm": lambda h, w: torch.bmm(w[None].expand(len(h), -1, -1), h[:, :, None])[:, :, 0],
    "mv": lambda h, w: torch.stack([w.mv(row) for row in h]),
    "dot": lambda h, w: torch.stack([torch.stack([row.dot(v) for v in w]) for row in h]),
    "vecdot": lambda h, w: torch.linalg.vecdot(h[:, None], w[None]),
    "columns": lambda h, w: torch.stack([h @ w[i] for i in range(WIDTH)], 1),
    "einsum": lambda h, w: torch.einsum("bi,oi->bo", h, w),
    "einsum, weight first": lambda h, w: torch.einsum("oi,...i->...o", w, h),
    "einsum of a list": lambda h, w: torch.einsum("bi,oi->bo", [h, w]),
    "einsum of three": lambda h, w: torch.einsum("bi,oi,i->bo", h, w, torch.ones_like(h[0])),
    "einsum, then a sum": lambda h, w: torch.einsum("bi,oi->boi", h, w).sum(-1),
    "addmm": lambda h, w: torch.addmm(torch.zeros_like(h[0]), h, w.t()),
    "addmm, beta 0": lambda h, w: torch.addmm(torch.zeros_like(h), h, w.t(), beta=0),
    "baddbmm": lambda h, w: torch.baddbmm(torch.zeros_like(h)[None], h[None], w.t()[None])[0],
    "addmv": lambda h, w: torch.stack([torch.addmv(torch.zeros_like(r), w, r) for r in h]),
    "tensordot": lambda h, w: torch.tensordot(h, w, ([1], [1])),
    "tensordot, weight first": lambda h, w: torch.tensordot(w, h, ([1], [1])).t(),
    "inner": torch.inner,
    "multi_dot": lambda h, w: torch.linalg.multi_dot([h, w.t()]),
    "conv1d": lambda h, w: F.conv1d(h[:, :, None], w[:, :, None])[:, :, 0],
    "conv2d": lambda h, w: F.conv2d(h[:, :, None, None], w[:, :, None, None]).flatten(1),
    "conv3d": lambda h, w: F.conv3d(h[..., None, None, None], w[..., None, None, None]).flatten(1),
    "conv_transpose1d": lambda h, w: F.conv_transpose1d(h[..., None], w.t()[..., None])[..., 0],
    "bilinear": lambda h, w: F.bilinear(h, torch.ones_like(h[:, :1]), w[:, :, None]),
    "product and sum": lambda h, w: (h[:, None, :] * w).sum(-1),
    "product and sum, over rows": lambda h, w: torch.mul(h[:, :, None], w.t()).sum(1),
    "functional_call": lambda h, w: torch.func.functional_call(_LINEAR, {"weight": w}, (h,)),
    "in two parts": lambda h, w: torch.cat([h @ w[:2].t(), F.linear(h, w[2:])], 1),
    "lookup": lambda h, w: F.embedding(torch.arange(len(h)), h) @ w.t(),
    "weighted rows": lambda h, w: F.embedding_bag(
        torch.arange(WIDTH).expand(len(h), -1), w.t(), per_sample_weights=h, mode="sum"
    ),
}


def layer(make: Making, use: Using) -> Spelling:
    """Return the spelling of a layer with a weight that is made and used in these ways."""
    return lambda s, h, g, x: use(h, make(s, h, x))


# --- functions ------------------------------------------------------------------------------------


def _part(i: int) -> bool:
    return i in (1, 3)


def _assigned(h: Tensor, g: Tensor, into: str) -> Tensor:  # noqa: PLR0912  (a list of ways)
    """Return h with the columns 1 and 3 of g, written in one way or another."""
    y, columns = h.clone(), torch.tensor([1, 3])
    mask = torch.tensor([_part(i) for i in range(WIDTH)])
    if into == "slice":
        y[:, 1::2] = g[:, 1::2]
    elif into == "view":
        view = y[:, 1::2]
        view.copy_(g[:, 1::2])
    elif into == "empty":
        y = torch.empty_like(h)
        y[..., 0::2], y[..., 1::2] = h[..., 0::2], g[..., 1::2]
    elif into == "mask":
        y[:, mask] = g[:, mask]
    elif into == "mask of all":
        y[mask.expand(h.shape)] = g[mask.expand(h.shape)]
    elif into == "columns":
        y[:, columns] = g[:, columns]
    elif into == "select":
        y.select(1, 1).copy_(g[:, 1])
        y.select(1, 3).copy_(g[:, 3])
    elif into == "transposed":
        y.t()[1], y.t()[3] = g[:, 1], g.t()[3]
    elif into == "scatter_":
        index = columns.expand(len(h), 2)
        y.scatter_(1, index, g.gather(1, index))
    elif into == "masked_scatter_":
        y.masked_scatter_(mask.expand(h.shape), g[mask.expand(h.shape)])
    elif into == "index_copy_":
        y.index_copy_(1, columns, g[:, columns])
    elif into == "loop":
        for i in range(WIDTH):
            y[:, i] = (g if _part(i) else h)[:, i]
    return y


def _assigning(into: str) -> Spelling:
    return lambda s, h, g, x: _assigned(h, g, into)


def _changing(how: str) -> Spelling:
    return lambda s, h, g, x: _on_part(h.clone(), how)


def _on_part(h: Tensor, how: str, g: Tensor | None = None) -> Tensor:
    """Return h, the columns from 2 on of which an in-place operation has changed."""
    if how == "mul_":
        h[:, 2:].mul_(3)
    elif how == "*=":
        h[:, 2:] *= 3
    elif how == "view":
        view = h.view(-1, WIDTH)[:, 2:]
        view *= 3
    elif how == "assigned":
        h = h.clone()
        h[:, 2:] = h[:, 2:] * 3
    elif how == "relu_":
        h[:, 2:].relu_()
    elif how == "inplace=True":
        F.relu(h[:, 2:], inplace=True)
    elif how == "clamp_":
        h[:, 2:].clamp_(min=0)
    elif how == "assigned relu":
        h[:, 2:] = F.relu(h[:, 2:])
    elif how == "+=" and g is not None:
        h[:, 2:] += g[:, 2:]
    elif how == "add_" and g is not None:
        h[:, 2:].add_(g[:, 2:])
    elif how == "gate" and g is not None:
        h[:, 2:] *= torch.sigmoid(g[:, 2:])
    return h


def _parts(h: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([h[:, :2], function(h[:, 2:])], 1)


def _stacked(h: Tensor, g: Tensor) -> Tensor:
    return torch.stack([h, g], -1)


def _mean_square(h: Tensor) -> Tensor:
    return h.pow(2).mean(-1, keepdim=True)


def _alpha_dropout(h: Tensor, p: float) -> Tensor:
    """Return h with a part p of it set to the value that SELU saturates at, and rescaled."""
    kept = torch.empty_like(h).bernoulli_(1 - p)
    saturated = 1.7580993408473766  # -SELU(-inf)
    scale = 1 / ((saturated**2 * p + 1) * (1 - p)) ** 0.5
    return h * (kept * scale) + ((kept - 1) * (saturated * scale) + saturated * scale * p)


def _copy(h: Tensor) -> Tensor:
    return h.clone(memory_format=torch.contiguous_format)


def _windows(h: Tensor) -> Tensor:
    return torch.stft(h, 4, window=torch.ones(4, dtype=h.dtype), return_complex=True)


def by_rows(values: Tensor) -> Tensor:
    """Return a buffer that was filled sample by sample."""
    buffer = torch.zeros_like(values)
    for row, value in enumerate(values):
        buffer[row] = value
    return buffer


def _at_places(h: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(len(h))[:, None].expand_as(h), _PLACES.expand_as(h)


def _flat_places(h: Tensor) -> Tensor:
    rows, columns = _at_places(h)
    return rows * WIDTH + columns


def _last(values: Tensor, like: Tensor) -> Tensor:
    return values.flatten()[-like.numel() :].view(like.shape)


def _matrices(h: Tensor) -> Tensor:
    return h[:, :4].reshape(-1, 2, 2)


def _padded(matrices: Tensor) -> Tensor:
    return torch.cat([matrices.flatten(1), torch.ones_like(matrices[:, 0, :1])], 1)


def _normal(exponentials: Tensor) -> Tensor:
    return exponentials / exponentials.sum(1, keepdim=True)


def _not_negative(squares: Tensor) -> Tensor:
    return squares.clamp(min=1e-30)


def _changed_in_part(values: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    change(values[:, :2])
    return values


def _tokens(x: Tensor) -> Tensor:
    return (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def _exponentials(h: Tensor) -> Tensor:
    return (h - h.detach().amax(1, keepdim=True)).exp()


def _with_one(h: Tensor, other: Tensor) -> Tensor:
    exponentials = (h - h.amax(1, keepdim=True)).exp()
    return exponentials / (other + exponentials.sum(1, keepdim=True))


def _with_none(h: Tensor, largest: Tensor) -> Tensor:
    exponentials = (h - largest).exp()
    return exponentials / (exponentials.sum(1, keepdim=True) + (-largest).exp())


def _two(h: Tensor) -> tuple[Tensor, Tensor]:
    return h[:, 1:3], h[:, 3:]


def _turned(h: Tensor) -> Tensor:
    turned = torch.view_as_complex(torch.stack(_two(h), -1)) * torch.tensor(-1j)
    return torch.cat([turned.imag, h[:, :1]], 1)


_GELU = (2 / torch.pi) ** 0.5
_PLACES = torch.tensor([1, 1, 3, 3, 0])
_SEEN = torch.arange(WIDTH) != 1
_FIRST = torch.zeros(WIDTH, dtype=torch.long)
_BACK = list(range(WIDTH - 1, -1, -1))

#: Spellings of one function each; the first is the usual one.
FUNCTIONS: dict[str, list[Spelling]] = {
    "alpha dropout": [
        lambda s, h, g, x: F.alpha_dropout(h.contiguous(), 0.5, True),
        lambda s, h, g, x: F.alpha_dropout(_copy(h), 0.5, True, True),
        lambda s, h, g, x: torch.alpha_dropout(h.contiguous(), 0.5, train=True),
        lambda s, h, g, x: nn.AlphaDropout(0.5)(h.contiguous()),
        lambda s, h, g, x: _alpha_dropout(h.contiguous(), 0.5),
    ],
    "alpha dropout in evaluation": [
        lambda s, h, g, x: h,
        lambda s, h, g, x: F.alpha_dropout(h, 0.5, training=False),
        lambda s, h, g, x: F.alpha_dropout(h, 0.5, False, inplace=True),
        lambda s, h, g, x: nn.FeatureAlphaDropout(0.5).eval()(h),
        lambda s, h, g, x: F.alpha_dropout(h, 0.0, True),
        lambda s, h, g, x: F.alpha_dropout(h.clone(), 0.0, True, inplace=True),
    ],
    "positions": [  # which a model adds to its tokens
        lambda s, h, g, x: h + s.rows[:1],
        lambda s, h, g, x: h + F.embedding(torch.arange(1), s.rows),
        lambda s, h, g, x: h + s.rows[torch.arange(1)],
        lambda s, h, g, x: h + F.linear(torch.eye(len(s.rows), dtype=h.dtype)[:1], s.rows.t()),
        lambda s, h, g, x: h + torch.eye(len(s.rows), dtype=h.dtype)[:1] @ s.rows,
    ],
    "number as a bias": [
        lambda s, h, g, x: F.linear(h, s.w) + 0.5,
        lambda s, h, g, x: torch.tensor(0.5) + h @ s.w.t(),
        lambda s, h, g, x: F.linear(h, s.w, torch.full_like(s.b, 0.5)),
    ],
    "codebooks": [
        lambda s, h, g, x: h * (F.embedding(_tokens(x), s.rows[:3]) + g),
        lambda s, h, g, x: h * (s.rows[:6].view(2, 3, 5)[0][_tokens(x)] + g),
        lambda s, h, g, x: h * (s.rows[:6].view(2, 3, 5)[0, _tokens(x)] + g),
        lambda s, h, g, x: h * (s.rows[:6].view(2, 3, 5)[0, _tokens(x), :] + g),
        lambda s, h, g, x: h * (torch.embedding(weight=s.rows[:3], indices=_tokens(x)) + g),
    ],
    "gate of a tanh": [
        lambda s, h, g, x: h * (0.5 + 0.5 * g.tanh()),
        lambda s, h, g, x: h * (0.5 + 0.5 * (g.tanh() + 0)),
        lambda s, h, g, x: h * (0.5 + 0.5 * g.tanh().clone() - 0),
        lambda s, h, g, x: h * (0.5 + 0.5 * F.hardtanh(g.tanh()).clamp(-1, 1).nan_to_num()),
    ],
    "relu": [
        lambda s, h, g, x: F.relu(h),
        lambda s, h, g, x: h.clamp(min=0),
        lambda s, h, g, x: torch.where(h > 0, h, 0.0),
        lambda s, h, g, x: h * (h > 0),
        lambda s, h, g, x: h.clone().mul_(h > 0),
        lambda s, h, g, x: h.masked_fill(h <= 0, 0),
        lambda s, h, g, x: torch.fmax(h, torch.zeros_like(h[0])),
        lambda s, h, g, x: nn.Threshold(0, 0)(h),
        lambda s, h, g, x: nn.ReLU(inplace=True)(h.clone()),
    ],
    "leaky_relu": [
        lambda s, h, g, x: F.leaky_relu(h, 0.1),
        lambda s, h, g, x: torch.where(h > 0, h, 0.1 * h),
        lambda s, h, g, x: torch.maximum(h, 0.1 * h),
        lambda s, h, g, x: F.prelu(h, torch.full_like(h[0, :1], 0.1)),
    ],
    "abs": [
        lambda s, h, g, x: h.abs(),
        lambda s, h, g, x: h * h.sign().detach(),
        lambda s, h, g, x: torch.where(h > 0, h, -h),
        lambda s, h, g, x: torch.maximum(h, -h),
    ],
    "silu": [
        lambda s, h, g, x: F.silu(h),
        lambda s, h, g, x: h * torch.sigmoid(h),
        lambda s, h, g, x: torch.special.expit(h).mul(h),
        lambda s, h, g, x: h / (1 + torch.exp(-h)),
        lambda s, h, g, x: h * (1 / (1 + torch.exp(-h))),
        lambda s, h, g, x: h * (0.5 * (1 + torch.tanh(h / 2))),
        lambda s, h, g, x: torch.einsum("bi,bi->bi", h, h.sigmoid()),
        lambda s, h, g, x: nn.SiLU(inplace=True)(h.clone()),
    ],
    "hardswish": [
        lambda s, h, g, x: F.hardswish(h),
        lambda s, h, g, x: h * F.hardsigmoid(h),
        lambda s, h, g, x: h * F.relu6(h + 3) / 6,
        lambda s, h, g, x: h * ((h + 3).clamp(0, 6) / 6),
        lambda s, h, g, x: h * F.hardtanh(h / 6 + 0.5, 0, 1),
        lambda s, h, g, x: h.clone().mul_(F.relu6(3 + h, inplace=True).div(6)),
    ],
    "gelu": [
        lambda s, h, g, x: F.gelu(h),
        lambda s, h, g, x: h * 0.5 * (1 + torch.erf(h / 2**0.5)),
        lambda s, h, g, x: (h / 2) * (torch.special.erf(h * 2**-0.5) + 1),
        lambda s, h, g, x: h * torch.special.ndtr(h),
    ],
    "gelu_new": [
        lambda s, h, g, x: F.gelu(h, approximate="tanh"),
        lambda s, h, g, x: 0.5 * h * (1 + torch.tanh(_GELU * (h + 0.044715 * torch.pow(h, 3)))),
        lambda s, h, g, x: h * (0.5 * (1 + torch.tanh(_GELU * (h + 0.044715 * h * h * h)))),
    ],
    "glu": [
        lambda s, h, g, x: F.glu(torch.cat([h, g], 1)),
        lambda s, h, g, x: h * torch.sigmoid(g),
        lambda s, h, g, x: h / (1 + (-g).exp()),
        lambda s, h, g, x: torch.einsum("bi,bi->bi", g.sigmoid(), h),
        lambda s, h, g, x: h.clone().mul_(g.sigmoid()),
        lambda s, h, g, x: nn.GLU(1)(torch.cat([h, g], -1)),
    ],
    "rms_norm": [
        lambda s, h, g, x: F.rms_norm(h, (WIDTH,), s.b, 1e-6),
        lambda s, h, g, x: h * torch.rsqrt(_mean_square(h) + 1e-6) * s.b,
        lambda s, h, g, x: s.b * (h / torch.sqrt(torch.mean(h**2, -1, True) + 1e-6)),
        lambda s, h, g, x: s.b * (h * ((h * h).mean(-1, True) + 1e-6) ** -0.5),
        lambda s, h, g, x: s.b * (h / (h.norm(2, -1, True).square() / WIDTH + 1e-6).sqrt()),
        lambda s, h, g, x: s.b * h.div((1e-6 + _mean_square(h)).sqrt()),
        lambda s, h, g, x: torch.einsum(
            "bi,b,i->bi", h, torch.rsqrt(h.square().mean(-1) + 1e-6), s.b
        ),
        lambda s, h, g, x: (
            h / (torch.einsum("bi,bi->b", h, h)[:, None] / WIDTH + 1e-6).sqrt() * s.b
        ),
    ],
    "rms_norm without weights": [
        lambda s, h, g, x: F.rms_norm(h, (WIDTH,), eps=1e-6),
        lambda s, h, g, x: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6),
        lambda s, h, g, x: h * torch.rsqrt(_not_negative(h.square()).mean(1)[:, None] + 1e-6),
        lambda s, h, g, x: h * torch.rsqrt(h.square().relu_().mean(1, keepdim=True) + 1e-6),
        lambda s, h, g, x: (
            h / (h.pow(2).nan_to_num().mean(1, keepdim=True) + 1e-6).sqrt().clamp(max=1e9)
        ),
    ],
    "gemma_norm": [
        lambda s, h, g, x: F.rms_norm(h, (WIDTH,), 1 + s.b, 1e-6),
        lambda s, h, g, x: h * torch.rsqrt(_mean_square(h) + 1e-6) * (1 + s.b),
    ],
    "layer_norm by hand": [
        lambda s, h, g, x: (
            (h - h.mean(-1, True)) / (h.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() * s.b
        ),
        lambda s, h, g, x: (
            (h - h.mean(-1, True)) * (1e-5 + h.var(-1, False, keepdim=True)).rsqrt() * s.b
        ),
    ],
    "normalize": [
        lambda s, h, g, x: F.normalize(h),
        lambda s, h, g, x: h / h.norm(dim=1, keepdim=True),
        lambda s, h, g, x: h / by_rows(h.norm(dim=1, keepdim=True)),
        lambda s, h, g, x: h / by_rows((h * h).sum(1)).sqrt()[:, None],
        lambda s, h, g, x: h / torch.empty(len(h), 1).double().copy_(h.norm(dim=1, keepdim=True)),
        lambda s, h, g, x: h / torch.linalg.vecdot(h, h).sqrt()[:, None],
        lambda s, h, g, x: h * torch.stack([row.dot(row) for row in h]).rsqrt()[:, None],
        lambda s, h, g, x: torch.einsum("bi,b->bi", h, (h * h).sum(1).rsqrt()),
        lambda s, h, g, x: h / h.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12),
    ],
    "its own outer product": [
        lambda s, h, g, x: (h[:, :, None] * h[:, None]).flatten(1)[:, ::5],
        lambda s, h, g, x: torch.einsum("bi,bj->bij", h, h).flatten(1)[:, ::5],
        lambda s, h, g, x: torch.einsum(h, [0, 1], h, [0, 2], [0, 1, 2]).flatten(1)[:, ::5],
        lambda s, h, g, x: torch.stack([torch.outer(row, row).flatten()[::5] for row in h]),
    ],
    "product with its transpose": [
        lambda s, h, g, x: _padded(_matrices(h) * _matrices(h).mT),
        lambda s, h, g, x: _padded(torch.einsum("bij,bji->bij", *[_matrices(h)] * 2)),
        lambda s, h, g, x: _padded(torch.einsum("bij,bji -> bji", *[_matrices(h)] * 2).mT),
    ],
    "energy of another": [
        lambda s, h, g, x: h * (g * g).sum(1, keepdim=True),
        lambda s, h, g, x: h * torch.einsum("bi,bi->b", g, g)[:, None],
        lambda s, h, g, x: torch.linalg.vecdot(g, g)[:, None] * h,
        lambda s, h, g, x: h * (g.square() @ torch.ones_like(s.e[:, :1])),
        lambda s, h, g, x: h / (1 / g.square().sum(1, keepdim=True)),
        lambda s, h, g, x: h * g.norm(dim=1, keepdim=True) ** 2,
    ],
    "gate of an energy": [
        lambda s, h, g, x: h * torch.sigmoid(g.square().sum(1, keepdim=True)),
        lambda s, h, g, x: h * torch.sigmoid(g.square() @ torch.ones_like(s.e[:, :1])),
        lambda s, h, g, x: h * torch.special.expit(torch.linalg.vecdot(g, g)[:, None]),
    ],
    "gated energy": [
        lambda s, h, g, x: h.abs().sum(1, keepdim=True) * g.sigmoid(),
        lambda s, h, g, x: F.linear(h.abs(), torch.ones_like(s.e[:1])) * g.sigmoid(),
    ],
    "log energy": [
        lambda s, h, g, x: (h.square().sum(1, keepdim=True) + 1).log() * s.b,
        lambda s, h, g, x: (h.square() @ torch.ones_like(s.e[:, :1]) + 1).log() * s.b,
        lambda s, h, g, x: (h.norm(dim=1, keepdim=True).square() + 1).log() * s.b,
        lambda s, h, g, x: (torch.linalg.vecdot(h, h)[:, None] + 1).log() * s.b,
    ],
    "tanh of a norm": [
        lambda s, h, g, x: h.norm(dim=1, keepdim=True).tanh() * s.b,
        lambda s, h, g, x: h.square().sum(1, keepdim=True).sqrt().tanh() * s.b,
        lambda s, h, g, x: torch.cdist(h, torch.zeros_like(s.e[:1])).tanh() * s.b,
    ],
    "two gates": [
        lambda s, h, g, x: h * h.sigmoid() * g.sigmoid(),
        lambda s, h, g, x: h * (h.sigmoid() * g.sigmoid()),
        lambda s, h, g, x: torch.einsum("bi,bi,bi->bi", g.sigmoid(), h, h.sigmoid()),
        lambda s, h, g, x: h.sigmoid().mul(g.sigmoid()).mul(h),
    ],
    "products of gates, summed": [
        lambda s, h, g, x: (h.sigmoid() * g.sigmoid()).sum(1, keepdim=True) * s.b,
        lambda s, h, g, x: torch.einsum("bi,bi->b", h.sigmoid(), g.sigmoid())[:, None] * s.b,
        lambda s, h, g, x: (h.sigmoid()[:, None] @ g.sigmoid()[:, :, None])[:, 0] * s.b,
    ],
    "resized gate": [
        lambda s, h, g, x: h * F.interpolate(g[None].sigmoid(), 2 * WIDTH)[0, :, :WIDTH],
        lambda s, h, g, x: h * g.sigmoid().repeat_interleave(2, 1)[:, :WIDTH],
    ],
    "masked gate": [
        lambda s, h, g, x: h * x[:, :WIDTH] * g.sigmoid(),
        lambda s, h, g, x: h * (g.sigmoid() * x[:, :WIDTH]),
        lambda s, h, g, x: h.mul(F.sigmoid(g).mul(x[:, :WIDTH])),
        lambda s, h, g, x: h * torch.einsum("bi,bi->bi", g.sigmoid(), x[:, :WIDTH]),
    ],
    "masked norm": [
        lambda s, h, g, x: h / (h * x[:, :WIDTH]).square().sum(1, keepdim=True).sqrt(),
        lambda s, h, g, x: h / (h.square() * x[:, :WIDTH] ** 2).sum(1, keepdim=True).sqrt(),
        lambda s, h, g, x: h / torch.einsum("bi,bi->b", h**2, x[:, :WIDTH] ** 2)[:, None].sqrt(),
    ],
    "product with what is nearly relu": [
        lambda s, h, g, x: g * h.relu(),
        lambda s, h, g, x: g * (h + 1e-13).relu(),
        lambda s, h, g, x: g * (h + 1e-13).clamp(min=0),
    ],
    "product with what is clipped": [
        lambda s, h, g, x: g * h.clamp(-0.5, 2),
        lambda s, h, g, x: g * (h + 1e-13).clamp(-0.5, 2),
        lambda s, h, g, x: g * (h + 1).sub(1 - 1e-13).clamp(-0.5, 2),
    ],
    "interpolation": [
        lambda s, h, g, x: h + (h * g).sigmoid() * (g - h),
        lambda s, h, g, x: torch.lerp(h, g, (h * g).sigmoid()),
        lambda s, h, g, x: h.lerp(g, weight=torch.sigmoid(h * g)),
    ],
    "multiplied by four": [
        lambda s, h, g, x: 4 * h,
        lambda s, h, g, x: torch.ldexp(h, torch.tensor(2)),
        lambda s, h, g, x: h.ldexp(torch.full_like(h, 2)),
    ],
    "pairs": [
        lambda s, h, g, x: _last(torch.cartesian_prod(h.flatten(), g.flatten()), h),
        lambda s, h, g, x: _last(
            torch.stack(torch.meshgrid(h.flatten(), g.flatten(), indexing="ij"), -1), h
        ),
    ],
    "turned by a right angle": [
        lambda s, h, g, x: torch.cat([h[:, 3:], -h[:, 1:3], h[:, :1]], 1),
        lambda s, h, g, x: torch.cat([(-1j * torch.complex(*_two(h))).real, _turned(h)], 1),
        lambda s, h, g, x: torch.cat(
            [torch.view_as_real(torch.complex(*_two(h)) / 1j).mT.flatten(1), h[:, :1]], 1
        ),
    ],
    "size of a complex number": [
        lambda s, h, g, x: (h.square() + g.square()).sqrt(),
        lambda s, h, g, x: torch.hypot(h, g),
        lambda s, h, g, x: torch.complex(h, g).abs(),
        lambda s, h, g, x: torch.view_as_complex(torch.stack([g, h], -1)).conj().abs(),
        lambda s, h, g, x: torch.complex(g, h).mul(torch.complex(g, h).conj()).real.sqrt(),
    ],
    "softmax": [
        lambda s, h, g, x: h.softmax(1),
        lambda s, h, g, x: _normal((h - h.amax(1, keepdim=True)).exp()),
        lambda s, h, g, x: _normal(torch.exp(h - h.detach().max(1, keepdim=True).values)),
        lambda s, h, g, x: _normal((h - h.max(dim=1, keepdim=True)[0].detach()).exp_()),
        lambda s, h, g, x: _exponentials(h).mul(_exponentials(h).sum(1, keepdim=True).reciprocal()),
        lambda s, h, g, x: _normal((h - h.amax(1)[:, None]).exp()),
        lambda s, h, g, x: F.log_softmax(h, 1).exp(),
        lambda s, h, g, x: F.softmin(-h, 1),
        lambda s, h, g, x: (h - h.logsumexp(1, keepdim=True)).exp(),
        lambda s, h, g, x: torch.rsub(h.logsumexp(1, keepdim=True), h).exp(),
        lambda s, h, g, x: _exponentials(h) / (_exponentials(h) @ torch.ones_like(s.e[:, :1])),
        lambda s, h, g, x: (
            _exponentials(h) / torch.zeros_like(h[:, :1]).index_add(1, _FIRST, _exponentials(h))
        ),
    ],
    "largest of a softmax": [
        lambda s, h, g, x: F.pad(h.softmax(1).topk(3, 1).values, (0, WIDTH - 3)),
        lambda s, h, g, x: F.pad(h.log_softmax(1).topk(3, 1).values.exp(), (0, WIDTH - 3)),
        lambda s, h, g, x: F.pad(
            h.log_softmax(1).sort(1, descending=True)[0][:, :3].exp(), (0, WIDTH - 3)
        ),
    ],
    "softmax with none": [
        lambda s, h, g, x: torch.cat([h, torch.zeros_like(h[:, :1])], 1).softmax(1)[:, :WIDTH],
        lambda s, h, g, x: _with_none(h, h.amax(1, keepdim=True).clamp(min=0).detach()),
        lambda s, h, g, x: _with_none(h, h.amax(1, keepdim=True)),
        lambda s, h, g, x: _with_one(h, (0 - h.amax(1, keepdim=True)).exp()),
        lambda s, h, g, x: _with_one(h, torch.exp(h.new_zeros(1) - h.max(1, keepdim=True)[0])),
    ],
    "softmax with a sink": [
        lambda s, h, g, x: torch.cat([h, s.b[:1].expand(len(h), 1)], 1).softmax(1)[:, :WIDTH],
        lambda s, h, g, x: _with_one(h, (s.b[:1] - h.amax(1, keepdim=True)).exp()),
    ],
    "softmax of some": [
        lambda s, h, g, x: h.masked_fill(~_SEEN, -torch.inf).softmax(1),
        lambda s, h, g, x: _normal(_exponentials(h) * _SEEN),
        lambda s, h, g, x: _normal(h.softmax(1) * _SEEN),
        lambda s, h, g, x: _normal(torch.softmax(h, dim=-1).masked_fill(~_SEEN, 0.0)),
        lambda s, h, g, x: _normal(F.softmax(h, 1).where(_SEEN, torch.zeros(()))),
    ],
    "softmax of the largest": [
        lambda s, h, g, x: F.pad(h.topk(2, 1).values.softmax(1), (0, WIDTH - 2)),
        lambda s, h, g, x: F.pad(_normal(h.softmax(1).topk(2, 1).values), (0, WIDTH - 2)),
        lambda s, h, g, x: F.pad(
            _normal(h.softmax(1).gather(1, h.topk(2, 1).indices)), (0, WIDTH - 2)
        ),
    ],
    "product": [
        lambda s, h, g, x: h * g,
        lambda s, h, g, x: torch.mul(g, h),
        lambda s, h, g, x: torch.einsum("bi,bi->bi", h, g),
        lambda s, h, g, x: torch.einsum("...i , ...i -> ...i", h, g),
        lambda s, h, g, x: h.clone().mul_(g),
    ],
    "dot": [
        lambda s, h, g, x: torch.einsum("bi,bi->b", h, g)[:, None] * s.b,
        lambda s, h, g, x: (h * g).sum(-1, keepdim=True) * s.b,
        lambda s, h, g, x: torch.linalg.vecdot(h, g)[:, None] * s.b,
        lambda s, h, g, x: (h[:, None] @ g[:, :, None])[:, 0] * s.b,
        lambda s, h, g, x: (
            torch.stack([u.dot(v) for u, v in zip(h, g, strict=True)])[:, None] * s.b
        ),
    ],
    "outer": [
        lambda s, h, g, x: (h[:, :, None] * g[:, None]).flatten(1)[:, ::5],
        lambda s, h, g, x: torch.einsum("bi,bj->bij", h, g).flatten(1)[:, ::5],
        lambda s, h, g, x: torch.stack(
            [torch.outer(u, v).flatten()[::5] for u, v in zip(h, g, strict=True)]
        ),
        lambda s, h, g, x: torch.stack([torch.kron(u, v)[::5] for u, v in zip(h, g, strict=True)]),
    ],
    "product with data": [
        lambda s, h, g, x: h * x[:, :WIDTH],
        lambda s, h, g, x: h * (x[:, :WIDTH] * torch.ones_like(s.e[0])),
        lambda s, h, g, x: torch.einsum("bi,bi->bi", x[:, :WIDTH], h),
        lambda s, h, g, x: h * (x[:, :WIDTH] @ torch.eye(WIDTH, dtype=x.dtype)),
    ],
    "product with what a fixed layer makes of data": [
        lambda s, h, g, x: h * (x[:, :WIDTH] @ s.e.t()),
        lambda s, h, g, x: h * F.linear(x[:, :WIDTH], s.e),
        lambda s, h, g, x: h * F.conv1d(x[:, :WIDTH, None], s.e[..., None])[..., 0],
        lambda s, h, g, x: h * torch.einsum("bi,ji->bj", x[:, :WIDTH], s.e),
    ],
    "product with standardised data": [
        lambda s, h, g, x: h * F.layer_norm(x[:, :WIDTH], (WIDTH,)),
        lambda s, h, g, x: h * nn.GroupNorm(1, WIDTH, affine=False)(x[:, :WIDTH]),
        lambda s, h, g, x: h * F.layer_norm(x[:, :WIDTH], (WIDTH,), torch.ones_like(s.e[0])),
        lambda s, h, g, x: h * F.instance_norm(x[:, None, :WIDTH])[:, 0],
    ],
    "product with rows of a fixed table": [
        lambda s, h, g, x: h * s.e[x[:, 0].abs().long() % WIDTH],
        lambda s, h, g, x: h * F.embedding(x[:, 0].abs().long() % WIDTH, s.e),
        lambda s, h, g, x: h * s.e.index_select(0, x[:, 0].abs().long() % WIDTH),
        lambda s, h, g, x: h * (F.one_hot(x[:, 0].abs().long() % WIDTH, WIDTH).to(h) @ s.e),
    ],
    "product and sum with a gate": [
        lambda s, h, g, x: torch.sigmoid(g @ g.t()) @ h,
        lambda s, h, g, x: (torch.sigmoid(g @ g.t())[:, :, None] * h).sum(1),
        lambda s, h, g, x: torch.einsum("bc,ci->bi", torch.sigmoid(g @ g.t()), h),
    ],
    "sum": [
        lambda s, h, g, x: h + g,
        lambda s, h, g, x: torch.stack([h, g]).sum(0),
        lambda s, h, g, x: h.clone().add_(g),
        lambda s, h, g, x: h - (-g),
        lambda s, h, g, x: torch.cat([h[..., None], g[..., None]], -1).sum(-1),
        lambda s, h, g, x: torch.stack([h, g]).sum_to_size(1, *h.shape)[0],
    ],
    "sum of a product": [
        lambda s, h, g, x: 1 + h * g,
        lambda s, h, g, x: torch.addcmul(torch.ones_like(h), h, g),
        lambda s, h, g, x: torch.einsum("bi,bi->bi", g, h) + 1,
    ],
    "sum with a gated": [
        lambda s, h, g, x: h + g * torch.sigmoid(g),
        lambda s, h, g, x: torch.addcmul(h, torch.sigmoid(g), g),
        lambda s, h, g, x: h.clone().addcmul_(g, g.sigmoid()),
    ],
    "maximum": [
        lambda s, h, g, x: torch.maximum(h, g),
        lambda s, h, g, x: torch.where(h > g, h, g),
        lambda s, h, g, x: -torch.minimum(-h, -g),
        lambda s, h, g, x: h.clamp(min=g),
        lambda s, h, g, x: torch.clamp_min(h, g),
        lambda s, h, g, x: _stacked(h, g).amax(-1),
        lambda s, h, g, x: _stacked(h, g).cummax(-1)[0][..., -1],
        lambda s, h, g, x: _stacked(h, g).kthvalue(2, -1)[0],
        lambda s, h, g, x: F.max_pool1d(_stacked(h, g), 2)[..., 0],
    ],
    "reversed": [
        lambda s, h, g, x: h.flip(1),
        lambda s, h, g, x: h[:, _BACK],
        lambda s, h, g, x: h.gather(1, torch.tensor(_BACK).expand(len(h), -1)),
        lambda s, h, g, x: torch.stack(h.unbind(1)[::-1], 1),
        lambda s, h, g, x: torch.cat(h.split(1, 1)[::-1], 1),
        lambda s, h, g, x: h.take(torch.arange(h.numel()).view(h.shape).flip(1)),
        lambda s, h, g, x: torch.einsum("bi->ib", h).flip(0).T,
        lambda s, h, g, x: F.embedding(torch.tensor(_BACK), h.t()).t(),
    ],
    "dropout": [  # which is drawn in the order of memory
        lambda s, h, g, x: F.dropout(h.contiguous(), 0.5, True),
        lambda s, h, g, x: torch.dropout(h.contiguous(), 0.5, True),
        lambda s, h, g, x: nn.Dropout(0.5, inplace=True).train()(_copy(h)),
        lambda s, h, g, x: h * F.dropout(torch.ones(h.shape, dtype=h.dtype), 0.5),
        lambda s, h, g, x: h * torch.empty(h.shape, dtype=h.dtype).bernoulli_(0.5).div_(0.5),
    ],
    "patches": [
        lambda s, h, g, x: F.unfold(h[:, None, None], (1, 1))[:, 0] * s.b,
        lambda s, h, g, x: h.unfold(1, 1, 1)[..., 0] * s.b,
        lambda s, h, g, x: h * s.b,
    ],
    "product with a matrix": [
        lambda s, h, g, x: torch.tensordot(h, s.w, dims=1),
        lambda s, h, g, x: torch.tensordot(h, s.w, ([1], [0])),
        lambda s, h, g, x: torch.linalg.multi_dot([h, s.w]),
        lambda s, h, g, x: h @ s.w,
    ],
    "Fourier transform of windows": [
        lambda s, h, g, x: _windows(h).real[:, 0, :WIDTH],
    ],
    "half, rounded down": [
        lambda s, h, g, x: torch.floor(h / 2),
        lambda s, h, g, x: torch.div(h, torch.full_like(h, 2), rounding_mode="floor"),
        lambda s, h, g, x: h.clone().div_(2, rounding_mode="floor"),
        lambda s, h, g, x: h // 2,
        lambda s, h, g, x: torch.floor_divide(h, torch.full_like(h, 2)),
        lambda s, h, g, x: h.clone().floor_divide_(2),
    ],
    "remainder": [
        lambda s, h, g, x: h % 0.3,
        lambda s, h, g, x: torch.remainder(h, 0.3),
        lambda s, h, g, x: h.clone().remainder_(0.3),
    ],
    "cosine similarity": [
        lambda s, h, g, x: F.cosine_similarity(h, g)[:, None] * s.b,
        lambda s, h, g, x: (F.normalize(h) * F.normalize(g)).sum(1, keepdim=True) * s.b,
        lambda s, h, g, x: nn.CosineSimilarity(dim=0)(h.t(), g.t())[:, None] * s.b,
    ],
    "cosine similarity over a dimension of one": [
        lambda s, h, g, x: F.cosine_similarity(h[:1], g, dim=0).expand(len(h), -1) * s.b,
        lambda s, h, g, x: F.cosine_similarity(h[:1].expand_as(g), g, 0).expand(len(h), -1) * s.b,
    ],
    "doubled": [
        lambda s, h, g, x: h.repeat_interleave(2, 1)[:, :WIDTH],
        lambda s, h, g, x: F.interpolate(h[None], scale_factor=2)[0, :, :WIDTH],
        lambda s, h, g, x: F.interpolate(h[None], 2 * WIDTH, None, "nearest-exact")[0, :, :WIDTH],
        lambda s, h, g, x: nn.Upsample(scale_factor=(1, 2))(h[None, None])[0, 0, :, :WIDTH],
        lambda s, h, g, x: h[:, torch.arange(WIDTH) // 2],
        lambda s, h, g, x: h[..., None].expand(-1, -1, 2).flatten(1)[:, :WIDTH],
    ],
    "shaped as another": [
        lambda s, h, g, x: h.reshape(-1).type_as(g).view_as(g).expand_as(g).reshape_as(g),
        lambda s, h, g, x: h[None].view_as(other=g).reshape_as(x[:, :WIDTH]),
        lambda s, h, g, x: h,
    ],
    "rolled": [
        lambda s, h, g, x: h.roll(2, 1),
        lambda s, h, g, x: torch.fft.fftshift(h, 1),
        lambda s, h, g, x: h[:, [3, 4, 0, 1, 2]],
    ],
    "added at places": [
        lambda s, h, g, x: g.index_add(1, _PLACES, h),
        lambda s, h, g, x: g.scatter_add(1, _PLACES.expand_as(h), h),
        lambda s, h, g, x: g.scatter_reduce(1, _PLACES.expand_as(h), h, "sum"),
        lambda s, h, g, x: torch.index_put(g, _at_places(h), h, accumulate=True),
        lambda s, h, g, x: g.clone().index_put_(_at_places(h), h, True),
        lambda s, h, g, x: g.put(_flat_places(h), h, accumulate=True),
        lambda s, h, g, x: g.clone().put_(_flat_places(h), h, True),
    ],
    "assigned": [
        lambda s, h, g, x: torch.stack([(g if _part(i) else h)[:, i] for i in range(WIDTH)], 1),
        lambda s, h, g, x: torch.where(torch.arange(WIDTH) % 2 == 1, g, h),
        lambda s, h, g, x: h.masked_scatter(
            (torch.arange(WIDTH) % 2 == 1).expand(h.shape), g[:, 1::2]
        ),
        *(
            _assigning(into)
            for into in (
                *("slice", "view", "empty", "mask", "mask of all", "columns", "select"),
                *("transposed", "scatter_", "masked_scatter_", "index_copy_", "loop"),
            )
        ),
    ],
    "squares, scaled in part": [
        lambda s, h, g, x: torch.cat([3 * h[:, :2].square(), h[:, 2:].square()], 1) * 0.5,
        lambda s, h, g, x: _changed_in_part(h.square(), lambda part: part.mul_(3)) * 0.5,
        lambda s, h, g, x: _changed_in_part(h * h, lambda part: part.div_(1 / 3)) * 0.5,
    ],
    "squares, negated in part": [
        lambda s, h, g, x: torch.cat([-h[:, :2].square(), h[:, 2:].square()], 1) * 0.5,
        lambda s, h, g, x: _changed_in_part(h**2, lambda part: part.neg_()) * 0.5,
        lambda s, h, g, x: _changed_in_part(h**2, lambda part: part.add_(0).neg_()) * 0.5,
    ],
    "scaled in part": [
        lambda s, h, g, x: _parts(h, lambda part: part * 3),
        *(_changing(how) for how in ("mul_", "*=", "view", "assigned")),
    ],
    "relu in part": [
        lambda s, h, g, x: _parts(h, F.relu),
        *(_changing(how) for how in ("relu_", "inplace=True", "clamp_", "assigned relu")),
    ],
    "sum in part": [
        lambda s, h, g, x: torch.cat([h[:, :2], h[:, 2:] + g[:, 2:]], 1),
        lambda s, h, g, x: _on_part(h.clone(), "+=", g),
        lambda s, h, g, x: _on_part(h.clone(), "add_", g),
    ],
    "gate in part": [
        lambda s, h, g, x: torch.cat([h[:, :2], h[:, 2:] * g[:, 2:].sigmoid()], 1),
        lambda s, h, g, x: _on_part(h.clone(), "gate", g),
    ],
}
