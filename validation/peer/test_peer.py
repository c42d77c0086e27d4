"""Our engine against the authors' package `lfprop`, tensor by tensor in float64.

Run it with ``tox -e peer``; without `lfprop` the module is skipped. Where the two differ on
purpose (dropout), Theorem 1 of the paper says who is right.
"""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

import lfp_core as lfp

pytest.importorskip("lfprop", reason="the authors' package is optional: run `tox -e peer`")

from lfprop.model.activations import Step
from lfprop.rewards.reward_functions import SoftmaxLossReward

from benchmarks.costs.peer import peer_step
from validation.peer.authors import PEER_ACTIVATIONS, PEER_MODELS, peer_feedback, peer_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:This functionality is not yet fully tested"),  # lxt
    pytest.mark.filterwarnings("ignore:The parameter 'pretrained' is deprecated"),  # lfprop
    pytest.mark.filterwarnings("ignore:Arguments other than a weight enum"),  # lfprop
]

EPSILON = 1e-6
TOLERANCE = 1e-12
BATCH = 4
CLASSES = 10

ORDERS: dict[str, Callable[[], list[nn.Module]]] = {
    "max-pool before activation": lambda: [nn.MaxPool2d(2), nn.Tanh()],
    "average pool before activation": lambda: [nn.AvgPool2d(2), nn.Tanh()],
    "max-pool, no activation": lambda: [nn.MaxPool2d(2)],
    "average pool, no activation": lambda: [nn.AvgPool2d(2)],
    "average pool after activation": lambda: [nn.Tanh(), nn.AvgPool2d(2)],
    "adaptive average pool after activation": lambda: [nn.Tanh(), nn.AdaptiveAvgPool2d(3)],
    "batch norm, max-pool, activation": lambda: [nn.BatchNorm2d(6), nn.MaxPool2d(2), nn.Tanh()],
    "batch norm after activation": lambda: [nn.Tanh(), nn.BatchNorm2d(6)],
    "max-pool after activation": lambda: [nn.Tanh(), nn.MaxPool2d(2)],
    "convolution on convolution": lambda: [nn.Conv2d(6, 6, 3)],
    "grouped and strided convolution": lambda: [nn.Conv2d(6, 6, 3, stride=2, groups=3), nn.Tanh()],
    "in-place activation": lambda: [nn.LeakyReLU(0.1, inplace=True)],
    "activation on activation": lambda: [nn.Tanh(), nn.Hardtanh()],
}
"""What may stand between a convolution and the linear layer above it."""

Reward = Callable[[Tensor], Tensor]


def batch(*shape: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return inputs (BATCH, *shape) in float64 and targets (BATCH,)."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(CLASSES, (BATCH,), generator=generator)


def pair(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the authors' model and our copy of it, in float64 and evaluation mode.

    BatchNorm gets statistics and parameters that are not 0 or 1, as after training. Our copy has
    `lfp.Heaviside` for the authors' `Step`: the same function, but one that our engine knows.
    """
    theirs = model.double().eval()
    generator = torch.Generator().manual_seed(2)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in [
                (module.weight, 0.5),
                (module.bias, -0.5),
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
            ]:
                assert values is not None
                values.data.uniform_(low, low + 1, generator=generator)
    ours = deepcopy(theirs)
    for module in list(ours.modules()):
        for name, child in module.named_children():
            if isinstance(child, Step):
                setattr(module, name, lfp.Heaviside())
    return theirs, ours


def softmax_reward(targets: Tensor) -> Reward:
    """Return our softmax reward for these targets."""
    return lambda outputs: lfp.rewards.softmax(outputs, targets, reduction="sum")


def feedback(
    model: nn.Module, inputs: Tensor, reward: Reward, epsilon: float = EPSILON
) -> list[Tensor]:
    """Return our feedback for every parameter of the model."""
    model.zero_grad()
    with lfp.feedback(epsilon=epsilon):
        outputs = model(inputs)
    lfp.backward(outputs, reward(outputs.detach()))
    return [-given(parameter.grad) for parameter in model.parameters()]


def weight_scaled_descent(model: nn.Module, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Return -|w| dL/dw of the summed cross-entropy, Theorem 1's right-hand side."""
    loss = nn.functional.cross_entropy(model(inputs), targets, reduction="sum")
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    return [-w.detach().abs() * g for w, g in zip(parameters, gradients, strict=True)]


def given(gradient: Tensor | None) -> Tensor:
    """Return the gradient, which must be there."""
    assert gradient is not None
    return gradient


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest relative error of a tensor of ours, in the Euclidean norm; NaN stays."""
    assert all(t.any() for t in theirs), "a feedback of 0 everywhere compares nothing"
    errors = [(o - t).norm() / t.norm() for o, t in zip(ours, theirs, strict=True)]
    return torch.stack(errors).max().item()


@pytest.mark.parametrize("activation", PEER_ACTIVATIONS)
@pytest.mark.parametrize("name", PEER_MODELS)
def test_feedback_is_the_authors(name: str, activation: str) -> None:
    theirs, ours = pair(peer_model(name, activation))
    inputs, targets = batch(*PEER_MODELS[name])
    reward = softmax_reward(targets)
    expected = peer_feedback(theirs, inputs, reward, EPSILON)
    assert difference(feedback(ours, inputs, reward), expected) <= TOLERANCE


@pytest.mark.parametrize("name", ["cifar-vgglike-bn", "resnet18"])
def test_batch_statistics_are_propagated_through_alike(name: str) -> None:
    """A bias under BatchNorm is worth a larger tolerance: the batch mean takes it out again.

    Its feedback is 0 but for the epsilon in the denominators. What is left, 1e-6 of the terms in
    the sum, keeps six digits fewer of the agreement: 4e-12 where other parameters reach 3e-15.
    """
    theirs, ours = pair(peer_model(name, "silu"))
    for model in (theirs, ours):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    inputs, targets = batch(*PEER_MODELS[name])
    reward = softmax_reward(targets)
    expected = peer_feedback(theirs, inputs, reward, EPSILON)
    assert difference(feedback(ours, inputs, reward), expected) <= 1e-9


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("epsilon", [1e-6, 1e-1])
def test_every_order_of_operations_agrees(order: str, epsilon: float) -> None:
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.LazyLinear(CLASSES)]
    model = nn.Sequential(nn.Conv2d(2, 6, 3), *ORDERS[order](), *head)
    inputs, targets = batch(2, 9, 9)
    model(inputs.float())
    theirs, ours = pair(model)
    reward = softmax_reward(targets)
    expected = peer_feedback(theirs, inputs, reward, epsilon)
    assert difference(feedback(ours, inputs, reward, epsilon), expected) <= TOLERANCE


def test_softmax_reward_is_the_authors() -> None:
    logits, targets = batch(CLASSES)
    expected = SoftmaxLossReward("cpu")(logits, targets)
    torch.testing.assert_close(
        lfp.rewards.softmax(logits, targets, reduction="sum"), expected, rtol=1e-12, atol=0
    )


def test_training_steps_are_the_authors() -> None:
    torch.manual_seed(0)
    theirs, ours = pair(nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, CLASSES)))
    their_optimizer, optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (theirs, ours)
    )
    take_their_step = peer_step(theirs, their_optimizer, EPSILON, clip=0.1)
    before = [p.detach().clone() for p in ours.parameters()]
    for seed in range(5):
        inputs, targets = batch(6, seed=seed)
        take_their_step(inputs, targets)
        feedback(ours, inputs, softmax_reward(targets))
        nn.utils.clip_grad_norm_(ours.parameters(), 0.1)
        optimizer.step()
    moves = [
        [(p - old).detach() for p, old in zip(model.parameters(), before, strict=True)]
        for model in (ours, theirs)
    ]
    assert difference(*moves) <= TOLERANCE


@pytest.mark.parametrize("name", PEER_MODELS)
def test_comparison_detects_another_epsilon(name: str) -> None:
    theirs, ours = pair(peer_model(name, "silu"))
    inputs, targets = batch(*PEER_MODELS[name])
    reward = softmax_reward(targets)
    expected = peer_feedback(theirs, inputs, reward, EPSILON)
    assert difference(feedback(ours, inputs, reward, 1.1 * EPSILON), expected) > 100 * TOLERANCE


@pytest.mark.parametrize("activation", ["silu", "elu", "tanh", "sigmoid"])
def test_comparison_detects_the_slope_of_backpropagation(activation: str) -> None:
    theirs, ours = pair(peer_model("lenet", activation))
    inputs, targets = batch(*PEER_MODELS["lenet"])
    expected = peer_feedback(theirs, inputs, softmax_reward(targets), EPSILON)
    assert difference(weight_scaled_descent(ours, inputs, targets), expected) > 100 * TOLERANCE


def test_dropout_obeys_theorem_1_here_and_not_there() -> None:
    """One mask, two rules: theirs doubles the reward at each dropout layer on its way down.

    Plain autograd multiplies the reward by m / (1 - p), though the activation a m / (1 - p) holds
    that factor already. Of LeNet's parameters, (weight, bias) of the last layer have no dropout
    between them and the outputs, those of the layer before it have one, all others have two.
    """
    theirs, ours = pair(peer_model("lenet", "relu"))
    theirs.train()
    ours.train()
    inputs, targets = batch(*PEER_MODELS["lenet"])
    reward = softmax_reward(targets)
    tiny = 1e-12  # lfprop divides by z + eps s(z), and z may be 0

    torch.manual_seed(3)
    theorem = weight_scaled_descent(ours, inputs, targets)
    torch.manual_seed(3)
    our_feedback = feedback(ours, inputs, reward, tiny)
    torch.manual_seed(3)
    their_feedback = peer_feedback(theirs, inputs, reward, tiny)

    below = [4, 4, 4, 4, 4, 4, 2, 2, 1, 1]
    assert difference(our_feedback, theorem) <= 1e-6
    scaled = [factor * t for factor, t in zip(below, theorem, strict=True)]
    assert difference(their_feedback, scaled) <= 1e-6
