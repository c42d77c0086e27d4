"""The close relatives of LFP: feedback alignment, exponentiated gradient, multiplicative Adam."""

import math
from statistics import mean

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from baselines import LFP, SGD, Settings, Trainer
from baselines.eg import ExponentiatedGradient
from baselines.fa import FeedbackAlignment
from baselines.madam import Madam

PLAIN = Settings(learning_rate=0.1, momentum=0.0, clip_norm=None, epsilon=0.0)


def dense(first: int = 12, second: int = 9) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(6, first), nn.Tanh(), nn.Linear(first, second), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(second, 3)).double()


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.ZeroPad2d(2),
        nn.Conv2d(1, 4, 3, padding=1, stride=(1, 2)),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()


NETWORKS = pytest.mark.parametrize("network", [dense(), convolutional()], ids=["dense", "conv"])


def problem(size: int = 60) -> tuple[Tensor, Tensor]:
    """Return inputs (size, 6) and the classes a random linear map gives them."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(size, 6, generator=random, dtype=torch.float64)
    return x, (x @ torch.randn(6, 3, generator=random, dtype=torch.float64)).argmax(dim=1)


def weights_of(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def gradients_of(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def backpropagated(model: nn.Module) -> Tensor:
    """Return the gradient of the cross-entropy on the problem."""
    x, targets = problem()
    gradients = torch.autograd.grad(F.cross_entropy(model(x), targets), list(model.parameters()))
    return torch.cat([g.flatten() for g in gradients])


def cosine(a: Tensor, b: Tensor) -> float:
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def one_step(method: type[Trainer], model: nn.Module, settings: Settings = PLAIN) -> Tensor:
    """Return all parameters after a step from the model's state, which is put back."""
    start = weights_of(model)
    method(model, settings).step(*problem())
    end = weights_of(model)
    nn.utils.vector_to_parameters(start.clone(), model.parameters())
    return end


# --- feedback alignment ---------------------------------------------------------------------------


def test_the_gradients_of_feedback_alignment_are_its_definition() -> None:
    model, (x, targets) = dense(), problem()
    method = FeedbackAlignment(model, PLAIN)
    feedback = list(method.feedback.values())
    method.step(x, targets)
    found = gradients_of(model)

    model = dense()
    h1 = model[1](model[0](x))
    z2 = model[2](h1)
    h2 = model[3](z2)
    error = (model[4](h2).softmax(dim=1) - F.one_hot(targets)) / len(x)
    d2 = (error @ feedback[2]) * (z2 > 0)
    d1 = (d2 @ feedback[1]) * (1 - h1**2)
    expected = [d1.T @ x, d1.sum(0), d2.T @ h1, d2.sum(0), error.T @ h2, error.sum(0)]
    assert torch.allclose(found, torch.cat([g.flatten() for g in expected]), rtol=1e-10)
    assert feedback[0].shape == model[0].weight.shape


@NETWORKS
def test_it_is_backpropagation_where_the_feedback_is_the_weights(network: nn.Sequential) -> None:
    expected = backpropagated(network)
    method = FeedbackAlignment(network, PLAIN)
    method.fill_gradients(*problem())
    assert cosine(gradients_of(network), expected) < 0.9
    network.zero_grad()
    method.feedback = {w: w.detach().clone() for w in method.feedback}
    method.fill_gradients(*problem())
    assert torch.allclose(gradients_of(network), expected, rtol=1e-10)
    network.zero_grad()


@NETWORKS
def test_no_error_passes_through_the_transposed_weights(network: nn.Sequential) -> None:
    """With B = 0 the error stops below the last layer, whatever the weights are."""
    method = FeedbackAlignment(network, PLAIN)
    method.feedback = {w: torch.zeros_like(w) for w in method.feedback}
    method.fill_gradients(*problem())
    *lower, weight, bias = (p.grad for p in network.parameters())
    assert all(g is not None and not g.any() for g in lower)
    assert weight is not None
    assert weight.any()
    assert bias is not None
    assert bias.any()
    network.zero_grad()


@NETWORKS
def test_feedback_stays_and_is_not_the_weights(network: nn.Sequential) -> None:
    torch.manual_seed(0)  # the seed that the networks are drawn from
    method = FeedbackAlignment(network, PLAIN)
    before = {w: (b.clone(), w.detach().clone()) for w, b in method.feedback.items()}
    for w, b in method.feedback.items():
        assert abs(cosine(b, w)) < 0.6
        assert 0.5 < (b.std() / w.std()).item() < 2
        assert b.dtype == w.dtype
    method.step(*problem())
    for w, b in method.feedback.items():
        assert b.equal(before[w][0])
        assert not w.equal(before[w][1])


def test_frozen_layers_pass_their_feedback_on_too() -> None:
    model = dense()
    model[4].requires_grad_(False)
    method = FeedbackAlignment(model, PLAIN)
    list(method.feedback.values())[-1].zero_()
    method.fill_gradients(*problem())
    lower = next(model.parameters()).grad
    assert lower is not None
    assert not lower.any()


def test_weights_align_with_their_feedback() -> None:
    """The angle between what the hidden layers get and the gradient falls from a right angle.

    The layers are wide because the angle of few random weights is not much of a right one.
    """
    model = dense(200, 120)
    start = weights_of(model)
    hidden = sum(p.numel() for p in model[:-1].parameters())

    def angle(method: FeedbackAlignment) -> float:
        """Return the angle in degrees, over all but the last layer."""
        model.zero_grad()
        method.fill_gradients(*problem())
        pair = gradients_of(model)[:hidden], backpropagated(model)[:hidden]
        return math.degrees(math.acos(cosine(*pair)))

    before, after, unlearned = [], [], []
    for seed in range(6):
        nn.utils.vector_to_parameters(start.clone(), model.parameters())
        torch.manual_seed(seed)
        method = FeedbackAlignment(model, Settings(learning_rate=0.05))
        before.append(angle(method))
        for _ in range(25):
            method.step(*problem())
        after.append(angle(method))
        torch.manual_seed(100 + seed)
        unlearned.append(angle(FeedbackAlignment(model, PLAIN)))
    assert mean(before) > 80
    assert mean(after) < 72
    assert mean(unlearned) > 80


# --- exponentiated gradient -----------------------------------------------------------------------


@NETWORKS
def test_exponentiated_gradient_is_its_definition(network: nn.Sequential) -> None:
    w, g = weights_of(network), backpropagated(network)
    found = one_step(ExponentiatedGradient, network)
    assert torch.allclose(found, w * (-0.1 * w.sign() * g).exp(), rtol=1e-12)


def test_signs_and_zeros_are_kept() -> None:
    model = dense()
    with torch.no_grad():
        list(model.parameters())[2][:, :4] = 0
    before = weights_of(model).sign()
    method = ExponentiatedGradient(model, Settings(learning_rate=1.0))
    for _ in range(30):
        method.step(*problem())
    assert weights_of(model).sign().equal(before)


def test_lfp_0_on_relu_is_its_first_order_form() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double()

    def gap(rate: float, rival: type[Trainer]) -> float:
        settings = Settings(rate, momentum=0.0, clip_norm=None, epsilon=0.0)
        ours = one_step(ExponentiatedGradient, model, settings)
        return float((ours - one_step(rival, model, settings)).norm())

    assert gap(1e-3, LFP) / gap(5e-4, LFP) == pytest.approx(4, rel=1e-2)
    assert gap(1e-3, SGD) / gap(5e-4, SGD) == pytest.approx(2, rel=1e-2)


# --- Madam ----------------------------------------------------------------------------------------


@NETWORKS
def test_the_first_step_of_madam_is_one_learning_rate_in_the_exponent(
    network: nn.Sequential,
) -> None:
    w, g = weights_of(network), backpropagated(network)
    found = one_step(Madam, network, Settings(learning_rate=1e-3))
    assert torch.allclose(found, w * (-1e-3 * w.sign() * g.sign()).exp(), rtol=1e-12)


def test_madam_is_its_definition_over_many_steps() -> None:
    model, rate = dense(), 0.1
    method = Madam(model, Settings(learning_rate=rate))
    parameters = list(model.parameters())
    w = [p.detach().clone() for p in parameters]
    limits = [3 * float(p.square().mean()) ** 0.5 for p in w]
    squares = [torch.zeros_like(p) for p in w]
    clipped = 0
    for t in range(1, 41):
        x, targets = problem(size=20 + t)
        loss = F.cross_entropy(torch.func.functional_call(
            model, dict(zip(dict(model.named_parameters()), leaves := [
                p.clone().requires_grad_() for p in w], strict=True)), x), targets)  # fmt: skip
        for i, g in enumerate(torch.autograd.grad(loss, leaves)):
            squares[i] = 0.999 * squares[i] + 0.001 * g**2
            ratio = (g / (squares[i] / (1 - 0.999**t)).sqrt()).nan_to_num(nan=0).clamp(-10, 10)
            free = w[i] * (-rate * w[i].sign() * ratio).exp()
            w[i] = free.clamp(-limits[i], limits[i])
            clipped += int((free != w[i]).sum())
        told = method.step(x, targets)
        assert float(told.loss) == pytest.approx(loss.item(), rel=1e-9)
    for found, expected in zip(parameters, w, strict=True):
        assert torch.allclose(found, expected, rtol=1e-8)
    assert clipped > 0


def test_a_step_of_madam_is_bounded() -> None:
    model, (x, targets) = dense(), problem()
    method = Madam(model, Settings(learning_rate=0.01))
    for _ in range(200):  # confident, so that the mean square is small
        method.step(x, targets)
    before = weights_of(model)
    method.step(1e3 * x, (targets + 1) % 3)
    ratio = (weights_of(model) / before).log().abs()
    assert ratio.max() == pytest.approx(10 * 0.01, rel=1e-6)


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [FeedbackAlignment, ExponentiatedGradient, Madam])
def test_parameters_that_the_error_does_not_reach_stay(method: type[Trainer]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), lfp.Heaviside(), nn.Linear(8, 3)).double()
    before = [p.detach().clone() for p in model.parameters()]
    step = method(model, PLAIN).step(*problem())
    moved = [not p.equal(b) for p, b in zip(model.parameters(), before, strict=True)]
    assert moved == [False, False, True, True]
    assert step.feedback_norm.isfinite()
