"""A training step as the authors' package `lfprop` does it, to be timed next to ours."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def peer_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epsilon: float = 1e-6,
    *,
    clip: float | None = None,
) -> Callable[[Tensor, Tensor], None]:
    """Return a function that trains the model on one batch: inputs (N, ...), targets (N,).

    The steps are those of `lfprop`'s README and minimal example: one composite, registered with
    the model anew for each batch (which replaces its modules, and puts them back afterwards), the
    softmax reward, the negated feedback as gradient, and with `clip` (3.0 in the example) a bound
    on its norm. Left out, in their favour: they carry the reward to the CPU and back as a NumPy
    array to detach it. `lfprop` is optional and imported here.
    """
    from lfprop.propagation.propagator_lxt import LFPEpsilonComposite  # noqa: PLC0415
    from lfprop.rewards.reward_functions import SoftmaxLossReward  # noqa: PLC0415

    composite = LFPEpsilonComposite(epsilon=epsilon)
    reward_of = SoftmaxLossReward(next(model.parameters()).device)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        with composite.context(model):
            leaf = inputs.detach().requires_grad_()
            outputs = model(leaf)
            reward = reward_of(outputs, targets).detach()
            torch.autograd.grad(outputs, leaf, reward)
        for parameter in model.parameters():
            parameter.grad = -vars(parameter)["feedback"]
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()

    return step
