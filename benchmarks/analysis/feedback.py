"""What methods fill into ``p.grad`` for one batch, beside |w| times the gradient."""

import math

import torch
from torch import Tensor, nn

from baselines import Settings
from baselines.trainer import DescentTrainer
from baselines.wsgd import WeightScaledSGD


def filled(trainer: DescentTrainer, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the ``p.grad`` that a method fills in for a batch, which the model keeps.

    Dropout is the same in every call, and the random state of torch stays as it was.

    Args:
        trainer: of the model.
        inputs: (batch, ...).
        targets: as the method takes them.

    Returns:
        Those of all parameters, one behind the other, in double precision; 0 where there is none.
    """
    gpus = {p.device for p in trainer.parameters if p.device.type == "cuda"}
    trainer.model.zero_grad()
    with torch.random.fork_rng(devices=list(gpus)):
        torch.manual_seed(0)
        trainer.fill_gradients(inputs, targets)
    return _flat(trainer.model)


def scaled_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return |w| times the gradient of the mean cross-entropy as :func:`filled` does."""
    return filled(WeightScaledSGD(model, Settings(learning_rate=1.0)), inputs, targets)


def beside(feedback: Tensor, scaled: Tensor) -> dict[str, float | None]:
    """Return the norm of the feedback over that of |w| dL/dw, and the cosine between them.

    None stands for what is not finite, which JSON does not have.
    """
    norms = feedback.norm(), scaled.norm()
    return {
        "ratio": finite(float(norms[0] / norms[1])),
        "cosine": finite(float((feedback / norms[0]) @ (scaled / norms[1]))),
    }


def finite(value: float) -> float | None:
    """Return the value, or None if it is not finite."""
    return value if math.isfinite(value) else None


def between(values: list[float | None], form: str) -> str:
    """Return the least and the largest of some values as text, "not finite" if one is None."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "not finite"
    low, high = f"{min(known):{form}}", f"{max(known):{form}}"
    return low if low == high else f"{low} to {high}"


def _flat(model: nn.Module) -> Tensor:
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([part.detach().double().flatten() for part in parts])
