"""Activations whose sign is not that of their input: ``python examples/sign_changing.py``.

LFP hands the reward of f(z) to z unchanged, which moves z by ``f(z) / z`` times what is asked of
f(z). That is the right way wherever f(z) / z and f'(z) have the same sign, whatever the sign of
f(z). So -relu(z), relu(-z) and -tanh(z) train, although sign(f(z)) is not sign(z), and the sigmoid
of negative z does not, although it grows. See docs/activations.md. Takes a few seconds on a CPU.
"""

import torch
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.data import load
from benchmarks.runs.training import accuracy


class NegReLU(nn.Module):
    """``-relu(z)``: two operations, and the engine has a rule for each."""

    def forward(self, z: Tensor) -> Tensor:
        """Apply it to z of any shape."""
        return -torch.relu(z)


class ReLUOfNeg(nn.Module):
    """``relu(-z)``."""

    def forward(self, z: Tensor) -> Tensor:
        """Apply it to z of any shape."""
        return torch.relu(-z)


class NegTanh(nn.Module):
    """``-tanh(z)``."""

    def forward(self, z: Tensor) -> Tensor:
        """Apply it to z of any shape."""
        return -torch.tanh(z)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu(z)": nn.ReLU,
    "-relu(z)": NegReLU,
    "relu(-z)": ReLUOfNeg,
    "-tanh(z)": NegTanh,
    "sigmoid(z)": nn.Sigmoid,
}


def network(activation: type[nn.Module], seed: int) -> nn.Sequential:
    """Return 64-120-84-10 for digits."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(64, 120), activation()),
        *(nn.Linear(120, 84), activation()),
        nn.Linear(84, 10),
    )


def train(activation: type[nn.Module], epochs: int, seed: int = 0) -> nn.Module:
    """Return a network with the activation that LFP has trained on digits."""
    train, model = load("digits").train, network(activation, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(train), generator=order).split(64):
            optimizer.zero_grad()
            with lfp.feedback():
                logits = model(train.inputs[rows])
            lfp.backward(logits, lfp.rewards.softmax(logits, train.targets[rows]))
            nn.utils.clip_grad_norm_(model.parameters(), 3.0)
            optimizer.step()
    return model


def main(epochs: int = 20) -> dict[str, float]:
    """Train with each activation; print and return the test accuracies, in [0, 1]."""
    test, found = load("digits").test, {}
    for name, activation in ACTIVATIONS.items():
        found[name] = accuracy(train(activation, epochs), test)
        print(f"{name:12} test accuracy {100 * found[name]:.1f}%")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
