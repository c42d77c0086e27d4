"""Sign-symmetric feedback against backpropagation written out by hand, with B in its place."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines import SGD, Settings
from baselines.fa import FeedbackAlignment
from baselines.sign_symmetry import SignSymmetry


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)
    ).double()


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(11, 5).double(), torch.randint(3, (11,))


def by_hand(
    model: nn.Sequential, feedback: dict[str, Tensor], inputs: Tensor, targets: Tensor
) -> list[Tensor]:
    """Return the gradients of weights and biases, with errors that go back through B."""
    first, second, last = model[0], model[2], model[4]
    a = torch.tanh(first(inputs))
    z = second(a)
    h = z.relu()
    logits = last(h)
    error = (logits.softmax(1) - F.one_hot(targets, 3)) / len(targets)
    found = [error.T @ h, error.sum(0)]
    error = (error @ feedback["4.weight"]) * (z > 0)
    found = [error.T @ a, error.sum(0), *found]
    error = (error @ feedback["2.weight"]) * (1 - a**2)
    return [error.T @ inputs, error.sum(0), *found]


@pytest.mark.parametrize("seed", range(3))
def test_errors_go_back_through_random_magnitudes_with_the_signs_of_the_weights(seed: int) -> None:
    model, (inputs, targets) = network(seed), batch()
    trainer = SignSymmetry(model, Settings(0.1))
    for _ in range(20):  # in which some weights change their signs
        trainer.step(inputs, targets)
    model.zero_grad()
    trainer.fill_gradients(inputs, targets)
    signed = {
        n: trainer.magnitudes[n] * w.sign() for n, w in model.named_parameters() if w.dim() == 2
    }
    expected = by_hand(model, signed, inputs, targets)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)
    unsigned = by_hand(model, {n: b.abs() for n, b in signed.items()}, inputs, targets)
    assert not torch.allclose(next(model.parameters()).grad, unsigned[0], rtol=1e-3)  # type: ignore[arg-type]


class ByHand(nn.Linear):
    """A layer that multiplies in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return x @ self.weight.T


def test_errors_name_the_method_that_was_asked_for() -> None:
    inputs, targets = batch()
    by_hand = nn.Sequential(nn.Linear(5, 4), ByHand(4, 3)).double()
    for method in (SignSymmetry, FeedbackAlignment):
        for model in (nn.Sequential(nn.LSTM(5, 3)), nn.Sequential(nn.ReLU())):
            with pytest.raises(ValueError, match=f"^{method.name}: "):
                method(model, Settings(0.1))
        with pytest.raises(ValueError, match=rf"^{method.name}: 1\.weight: "):
            method(by_hand, Settings(0.1)).step(inputs, targets)


def test_with_the_magnitudes_of_the_weights_it_is_backpropagation() -> None:
    model, twin, (inputs, targets) = network(0), network(0), batch()
    trainer = SignSymmetry(model, Settings(0.1))
    trainer.magnitudes = {n: w.detach().abs() for n, w in model.named_parameters() if w.dim() == 2}
    trainer.fill_gradients(inputs, targets)
    SGD(twin, Settings(0.1)).fill_gradients(inputs, targets)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_magnitudes_stay_and_signs_follow_the_weights() -> None:
    model, (inputs, targets) = network(1), batch()
    trainer = SignSymmetry(model, Settings(1.0))
    fixed = FeedbackAlignment(network(1), Settings(1.0)).feedback
    before = {n: w.detach().sign() for n, w in model.named_parameters() if w.dim() == 2}
    for _ in range(30):
        trainer.step(inputs, targets)
    changed = 0
    for name, sign in before.items():
        torch.testing.assert_close(trainer.magnitudes[name], fixed[name].abs(), rtol=0, atol=0)
        changed += int((model.get_parameter(name).sign() != sign).sum())
    assert changed > 0, "or the test would say nothing of signs that change"
