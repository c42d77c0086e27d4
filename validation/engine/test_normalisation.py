"""Normalisations as torch has them against the same written by hand, under both options.

``normalisation="gradient"`` is the chain rule through mean and scale, which at epsilon 0 is what
autograd has for the fused kernel; "identity" takes the scale for a constant. Neither may depend on
how the layer is written down.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from lfp_core import products
from lfp_core.calls import Call
from lfp_core.marks import ACTIVATION, marked
from lfp_core.propagation import Normalisation
from validation.compare import Feedback, engine_feedback, relative_error, weight_scaled_gradient

TOLERANCE = 1e-10
BATCH, CHANNELS, SIZE = 3, 4, 5
EPS = 1e-5
OPTIONS: tuple[Normalisation, ...] = ("gradient", "identity")
#: What a normalisation is given: the input, its scale, its shift.
Normalise = Callable[["Between", Tensor], Tensor]
pytestmark = pytest.mark.usefixtures("double")


class Between(nn.Module):
    """A convolution, a normalisation that is given as a function, SiLU, and another convolution."""

    mean: Tensor
    variance: Tensor

    def __init__(self, normalise: Normalise) -> None:
        super().__init__()
        self.normalise = normalise
        self.before, self.after = nn.Conv1d(2, CHANNELS, 1), nn.Conv1d(CHANNELS, 3, 1)
        self.scale = nn.Parameter(torch.randn(CHANNELS))
        self.shift = nn.Parameter(torch.randn(CHANNELS))
        self.register_buffer("mean", torch.randn(CHANNELS))
        self.register_buffer("variance", torch.rand(CHANNELS) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 3, size) for x (batch, 2, size)."""
        return self.after(F.silu(self.normalise(self, self.before(x))))


def per_channel(parameter: Tensor) -> Tensor:
    """Return it in a shape that multiplies (batch, channels, size)."""
    return parameter.view(-1, 1)


def affine(m: Between, normal: Tensor) -> Tensor:
    return normal * per_channel(m.scale) + per_channel(m.shift)


def standardised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / (x.var(dims, correction=0, keepdim=True) + EPS).sqrt()


def layer_norm_by_hand(m: Between, x: Tensor) -> Tensor:
    return affine(m, standardised(x.mT, (2,)).mT)


def layer_norm(m: Between, x: Tensor) -> Tensor:
    return F.layer_norm(x.mT, (CHANNELS,), m.scale, m.shift, EPS).mT


def layer_norm_by_squares(m: Between, x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return affine(m, centred * torch.rsqrt(centred.pow(2).mean(1, keepdim=True) + EPS))


def layer_norm_by_std(m: Between, x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
    return affine(m, (x - mean) / torch.sqrt(variance + EPS))


def layer_norm_by_two_means(m: Between, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = x.square().mean(1, keepdim=True) - mean.square()
    return affine(m, (x - mean) / (variance + EPS).sqrt())


def by_mean_square(m: Between, x: Tensor, mean: Tensor) -> Tensor:
    return x / (mean + EPS).sqrt() * per_channel(m.scale)


def group_norm_by_hand(m: Between, x: Tensor) -> Tensor:
    grouped = x.reshape(len(x), 2, -1)
    return affine(m, standardised(grouped, (2,)).reshape(x.shape))


def in_evaluation(m: Between, x: Tensor) -> Tensor:
    return F.batch_norm(x, m.mean, m.variance, m.scale, m.shift, training=False, eps=EPS)


def in_evaluation_by_hand(m: Between, x: Tensor) -> Tensor:
    normal = (x - per_channel(m.mean)) / torch.sqrt(per_channel(m.variance) + EPS)
    return affine(m, normal)


def response_by_hand(m: Between, x: Tensor) -> Tensor:
    squares = F.pad(x.square(), (0, 0, 1, 1))
    return x / (2.0 + 0.1 * squares.unfold(1, 3, 1).mean(-1)).pow(0.75)


def accumulated(powers: Tensor) -> Tensor:
    total = torch.zeros_like(powers[:, :1])
    for row in powers.split(1, 1):
        total += row
    return total


#: A mean over the channels as a product, and where an index puts all of them.
EVENLY = torch.full((1, CHANNELS), 1 / CHANNELS, dtype=torch.float64)
ONE_PLACE = torch.zeros(CHANNELS, dtype=torch.long)
#: Of each normalisation, the ways to write it; the first is torch's, where torch has one.
WAYS: dict[str, list[Normalise]] = {
    "layer_norm": [
        *(layer_norm, layer_norm_by_hand, layer_norm_by_squares, layer_norm_by_std),
        layer_norm_by_two_means,
    ],
    "group_norm": [
        lambda m, x: F.group_norm(x, 2, m.scale, m.shift, EPS),
        group_norm_by_hand,
    ],
    "batch_norm in training": [
        lambda m, x: F.batch_norm(x, None, None, m.scale, m.shift, training=True, eps=EPS),
        lambda m, x: F.batch_norm(
            x, m.mean.clone(), m.variance.clone(), m.scale, m.shift, training=True, eps=EPS
        ),
        lambda m, x: affine(m, standardised(x, (0, 2))),
    ],
    "batch_norm in evaluation": [in_evaluation, in_evaluation_by_hand],
    "instance_norm": [
        lambda m, x: F.instance_norm(x, weight=m.scale, bias=m.shift, eps=EPS),
        lambda m, x: affine(m, standardised(x, (2,))),
    ],
    "rms_norm": [
        lambda m, x: F.rms_norm(x.mT, (CHANNELS,), m.scale, EPS).mT,
        lambda m, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + EPS) * per_channel(m.scale),
        lambda m, x: x / (x.square().mean(1, keepdim=True) + EPS).sqrt() * per_channel(m.scale),
        lambda m, x: per_channel(m.scale) * (x * ((x * x).mean(1, keepdim=True) + EPS).pow(-0.5)),
        lambda m, x: (
            x
            * (1 / torch.sqrt((x**2).sum(1, keepdim=True) / CHANNELS + EPS))
            * per_channel(m.scale)
        ),
        # The constant is a tensor, of which the engine has to find out that it is one.
        lambda m, x: (
            x
            * torch.rsqrt((x.square() * torch.tensor(1 / CHANNELS)).sum(1, keepdim=True) + EPS)
            * per_channel(m.scale)
        ),
        lambda m, x: (
            x
            * torch.rsqrt((2 * x).pow(2).mean(1, keepdim=True) / torch.full((), 4.0) + EPS)
            * per_channel(m.scale)
        ),
        lambda m, x: by_mean_square(m, x, F.conv1d(x.square(), EVENLY[:, :, None])),
        lambda m, x: by_mean_square(m, x, (x.mT.square() @ EVENLY.mT).mT),
        lambda m, x: by_mean_square(m, x, torch.einsum("bcs,ac->bas", x**2, EVENLY)),
        lambda m, x: by_mean_square(
            m, x, torch.zeros_like(x[:, :1]).index_add(1, ONE_PLACE, x**2) / CHANNELS
        ),
        lambda m, x: by_mean_square(
            m,
            x,
            torch.zeros_like(x[:, :1]).scatter_reduce(
                1, torch.zeros_like(x, dtype=torch.long), x**2, "mean", include_self=False
            ),
        ),
        lambda m, x: by_mean_square(m, x, accumulated(x**2) / CHANNELS),
        lambda m, x: by_mean_square(
            m, x, torch.baddbmm(torch.zeros(1, 1, 1), EVENLY.expand(len(x), 1, -1), x**2)
        ),
    ],
    "rms_norm, the scale divided first": [
        lambda m, x: F.rms_norm(x.mT, (CHANNELS,), m.scale, EPS).mT,
        lambda m, x: x * (per_channel(m.scale) / (x.square().mean(1, True) + EPS).sqrt()),
        lambda m, x: x * (per_channel(m.scale) * (x.square().mean(1, True) + EPS).rsqrt()),
    ],
    "normalize, infinite p": [
        lambda m, x: F.normalize(x, p=math.inf, dim=1),
        lambda m, x: x / x.abs().amax(1, keepdim=True),
        lambda m, x: x / x.abs().max(1, keepdim=True).values.clamp(min=1e-12),
        lambda m, x: x / x.abs().topk(1, 1).values,
        lambda m, x: x * F.adaptive_max_pool1d(x.abs().mT, 1).mT.reciprocal(),
        lambda m, x: x / x.abs().quantile(1.0, 1, keepdim=True),
        lambda m, x: x / reduce(torch.maximum, x.abs().split(1, 1)),
    ],
    "normalize, p = 1": [
        lambda m, x: F.normalize(x, p=1, dim=1),
        lambda m, x: x / x.abs().sum(1, keepdim=True),
        lambda m, x: x / (x.abs() * torch.tensor(3.0)).sum(1, keepdim=True) * 3,
    ],
    "normalize": [
        lambda m, x: F.normalize(x, dim=1),
        lambda m, x: x / x.norm(dim=1, keepdim=True).clamp_min(1e-12),
        lambda m, x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True),
        lambda m, x: x / x.square().sum(1, keepdim=True).sqrt(),
        lambda m, x: x / reduce(torch.hypot, x.split(1, 1)),
        lambda m, x: x / F.lp_pool1d(x.mT, 2, CHANNELS).mT,
        lambda m, x: x / torch.cdist(x.mT, torch.zeros(1, CHANNELS)).mT,
    ],
    "local_response_norm": [
        lambda m, x: F.local_response_norm(x, 3, alpha=0.1, beta=0.75, k=2.0),
        response_by_hand,
    ],
}


def found(
    normalise: Normalise, epsilon: float, option: Normalisation
) -> tuple[Between, Tensor, Feedback]:
    """Return a network with the normalisation, an input and the feedback: the same each time."""
    torch.manual_seed(1)
    model, x = Between(normalise), torch.randn(BATCH, 2, SIZE)
    push = torch.randn(BATCH, 3, SIZE)
    return (
        model,
        x,
        engine_feedback(model, x, lambda o: -push * o.detach(), epsilon, normalisation=option),
    )


def difference(one: Feedback, other: Feedback) -> float:
    """Return the relative error of the feedback of two networks with the same parameters."""
    keys = [torch.empty(0) for _ in one]
    return relative_error(
        dict(zip(keys, one.values(), strict=True)), dict(zip(keys, other.values(), strict=True))
    )


PAIRS = [(name, way) for name, ways in WAYS.items() for way in range(1, len(ways))]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(("name", "way"), PAIRS)
def test_the_way_it_is_written_does_not_matter(name: str, way: int, option: Normalisation) -> None:
    model, x, expected = found(WAYS[name][0], 0.0, option)
    other, _, feedback = found(WAYS[name][way], 0.0, option)
    torch.testing.assert_close(other(x), model(x), rtol=1e-12, atol=1e-14)
    assert expected[model.before.weight].any()
    assert difference(feedback, expected) < TOLERANCE


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("way", range(2, len(WAYS["rms_norm"])))
def test_that_of_rms_norm_does_not_even_with_a_stabiliser(way: int, option: Normalisation) -> None:
    """One factor for the layer before, and one for the scale: among what is written by hand."""
    _, _, expected = found(WAYS["rms_norm"][1], 0.1, option)
    _, _, feedback = found(WAYS["rms_norm"][way], 0.1, option)
    assert difference(feedback, expected) < TOLERANCE


@pytest.mark.parametrize("option", OPTIONS)
def test_fused_rms_norm_has_the_stabilisers_of_one_by_hand(option: Normalisation) -> None:
    _, _, expected = found(WAYS["rms_norm"][0], 0.1, option)
    _, _, feedback = found(WAYS["rms_norm"][1], 0.1, option)
    assert difference(feedback, expected) < TOLERANCE


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch_norm": lambda: nn.BatchNorm1d(CHANNELS),
    "batch_norm, cumulative": lambda: nn.BatchNorm1d(CHANNELS, momentum=None),
    "batch_norm without statistics": lambda: nn.BatchNorm1d(CHANNELS, track_running_stats=False),
    "batch_norm without scale": lambda: nn.BatchNorm1d(CHANNELS, affine=False),
    "instance_norm": lambda: nn.InstanceNorm1d(CHANNELS, affine=True, track_running_stats=True),
    "instance_norm without statistics": lambda: nn.InstanceNorm1d(CHANNELS),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_running_statistics_are_those_of_torch(
    name: str, option: Normalisation
) -> None:
    layer, reference = LAYERS[name](), LAYERS[name]()
    for train in (True, True, False):
        layer.train(train)
        reference.train(train)
        x = torch.randn(BATCH + 1, CHANNELS, SIZE).requires_grad_()
        with lfp.feedback(0.1, normalisation=option):
            outputs = layer(x)
        torch.testing.assert_close(outputs, reference(x), rtol=1e-12, atol=1e-12)
    for buffer, expected in zip(layer.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", WAYS)
def test_gradient_is_the_chain_rule_and_identity_is_not(name: str) -> None:
    """SiLU's slope is no derivative, so it is left out."""

    def errors(option: Normalisation) -> float:
        torch.manual_seed(1)
        model = Straight(WAYS[name][0])
        x, push = torch.randn(BATCH, 2, SIZE), torch.randn(BATCH, 3, SIZE)
        feedback = engine_feedback(
            model, x, lambda o: -push * o.detach(), 0.0, normalisation=option
        )
        return relative_error(feedback, weight_scaled_gradient(model, (push * model(x)).sum()))

    assert errors("gradient") < TOLERANCE
    if name == "batch_norm in evaluation":  # whose statistics are constants in any case
        assert errors("identity") < TOLERANCE
    else:
        assert errors("identity") > 1e-2


class Straight(Between):
    """The same without SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 3, size) for x (batch, 2, size)."""
        return self.after(self.normalise(self, self.before(x)))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "normalize"])
def test_identity_conserves_reward_without_biases(name: str) -> None:
    """Proposition 3.4 of AttnLRP: what a constant scales hands its reward on whole."""

    def arrived(option: Normalisation) -> float:
        x = torch.randn(BATCH, CHANNELS, SIZE, requires_grad=True)
        m = Between(WAYS[name][0])
        nn.init.zeros_(m.shift)
        eye = nn.Parameter(torch.eye(CHANNELS).unsqueeze(-1), requires_grad=False)

        class Bare(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return WAYS[name][0](m, F.conv1d(x, eye))

        with lfp.feedback(0, normalisation=option):
            outputs = Bare()(x)
        reward = torch.rand_like(outputs)
        lfp.backward(outputs, reward)
        assert x.grad is not None
        return float(-(x.detach() * x.grad).sum() / reward.sum())

    assert arrived("identity") == pytest.approx(1.0, rel=1e-9)
    assert not math.isclose(arrived("gradient"), 1.0, abs_tol=1e-3)


# --- what must be caught --------------------------------------------------------------------------


def halves(call: Call, *_: Any) -> Any:
    """A normalisation for a product of two activations."""
    return call.run(call.kind(), {id(a): 1 / len(call.active) for a, _ in call.active})


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "normalize", "local_response_norm"])
def test_a_statistic_that_is_a_factor_like_others_is_caught(
    name: str, option: Normalisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, expected = found(WAYS[name][-1], 0.0, option)
    monkeypatch.setattr(products, "normalised", halves)
    _, _, broken = found(WAYS[name][-1], 0.0, option)
    assert difference(broken, expected) > 1e-3


@pytest.mark.parametrize("option", OPTIONS)
def test_a_stabiliser_too_many_is_caught(
    option: Normalisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, expected = found(WAYS["rms_norm"][1], 0.1, option)
    right = products.normalised

    def owing(call: Call, *statistic: Any) -> Any:
        output = right(call, *statistic)
        return marked(output, ACTIVATION._replace(epsilon=call.context.epsilon))

    monkeypatch.setattr(products, "normalised", owing)
    _, _, broken = found(WAYS["rms_norm"][1], 0.1, option)
    assert difference(broken, expected) > 1e-3
