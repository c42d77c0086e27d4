"""Learning from rewards that have no derivative: ``python examples/discrete_reward.py``.

LFP asks for nothing but a number for each output: positive where the output should be larger in
magnitude, negative where it should be smaller. So a reward may come from any program, or from a
person. Two that no gradient passes:

* a grader of handwritten digits: a program of rules that sees an answer and the solution, not the
  network, and gives marks. It never says what would have been right;
* misclassification, the paper's: -1 for every class that scores above the true one, and nothing
  once all is right. Nothing is ever praised, so whether that leads anywhere depends on the initial
  weights, of which several are tried, on two clouds of points.

Takes a few seconds on a CPU.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.data import load
from benchmarks.models import build
from benchmarks.runs.training import accuracy

#: Digits that a lenient grader takes for each other.
ALIKE = ({1, 7}, {3, 8}, {4, 9}, {5, 6})

Reward = Callable[[Tensor, Tensor], Tensor]
Optimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]


def grade(answer: int, solution: int) -> float:
    """Return the marks for one answer: a black box to whoever learns from it."""
    if answer == solution:
        return 1.0
    if any({answer, solution} == pair for pair in ALIKE):
        return -0.5
    return -1.0


def graded(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the reward (batch, classes) that pushes each answer by its marks.

    Args:
        logits: (batch, classes), of which the grader only sees the largest.
        targets: class indices (batch,), which only the grader sees.
    """
    answers = logits.argmax(dim=1)
    marks = [grade(*pair) for pair in zip(answers.tolist(), targets.tolist(), strict=True)]
    push = torch.zeros_like(logits).scatter_(1, answers[:, None], torch.tensor(marks)[:, None])
    return logits * push / len(logits)  # a reward over its output is a push


def adam(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Return what learns from marks with any seed; with SGD, some stay at 10%."""
    return torch.optim.Adam(parameters, lr=0.001)


def sgd(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Return what learns to tell two clouds apart."""
    return torch.optim.SGD(parameters, lr=0.03, momentum=0.9)


def train(
    reward_of: Reward, dataset: str, model: str, optimizer_of: Optimizer, epochs: int, seed: int = 0
) -> float:
    """Train a network with tanh on a data set; return its test accuracy, in [0, 1]."""
    data = load(dataset)
    shape, classes = data.input_shape, data.classes
    network = build(model, activation="tanh", input_shape=shape, classes=classes, seed=seed)
    optimizer = optimizer_of(network.parameters())
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train), generator=order).split(64):
            optimizer.zero_grad()
            with lfp.feedback():
                logits = network(data.train.inputs[rows])
            lfp.backward(logits, reward_of(logits.detach(), data.train.targets[rows]))
            nn.utils.clip_grad_norm_(network.parameters(), 3.0)
            optimizer.step()
    return accuracy(network, data.test)


def main(epochs: int = 20) -> tuple[float, list[float]]:
    """Print and return the accuracies by the grader, and by misclassification for each seed."""
    by_grader = train(graded, "digits", "mlp", adam, epochs)
    print(f"digits, grader: test accuracy {100 * by_grader:.1f}%")
    misclassification = lfp.rewards.misclassification
    others = [train(misclassification, "blobs", "toy-mlp", sgd, epochs, seed) for seed in range(5)]
    told = ", ".join(f"{100 * found:.0f}%" for found in others)
    print(f"blobs, misclassification, five initialisations: test accuracies {told}")
    return by_grader, others


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
