"""Madam, multiplicative Adam (Bernstein et al., NeurIPS 2020, arXiv 2006.14560).

With the running mean square ``v`` of the gradient g, and the root mean square sigma of a parameter
tensor at the start::

    v <- beta v + (1 - beta) g^2
    w <- w exp(-lr sign(w) clamp(g / sqrt(v), 10))
    w <- clamp(w, 3 sigma)
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from baselines.options import LogUniform, Search, options
from baselines.trainer import BasicSettings, NeedsDerivatives, Step


@options
class MadamSettings(BasicSettings):
    """The options of Madam, with its authors' constants.

    There is no momentum and no clipping: the update does not depend on the scale of the gradient,
    and is bounded by itself.
    """

    beta2: Annotated[
        float, Field(ge=0, lt=1, description="Decay of the running mean square, in [0, 1).")
    ] = 0.999
    max_step: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Largest step, in learning rates.")
    ] = 10.0
    max_weight: Annotated[
        float,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="Largest weight, in root mean squares of its tensor at the start.",
        ),
    ] = 3.0

    search: ClassVar[Mapping[str, Search]] = {
        **BasicSettings.search,
        "max_weight": LogUniform(1, 10),
    }


class Madam(NeedsDerivatives):
    """Backpropagation, then Madam; v is bias-corrected as in Adam. A weight that is 0 stays 0."""

    name: ClassVar[str] = "madam"
    label: ClassVar[str] = "Madam"
    Options: ClassVar[type[BasicSettings]] = MadamSettings

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Note the scale of every trainable parameter."""
        self.model = model
        self.settings = own = MadamSettings.of(settings)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.limits = [own.max_weight * p.detach().square().mean().sqrt() for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0

    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Backpropagate the mean cross-entropy and update every parameter that it reached."""
        self.model.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.model(inputs), targets)
        loss.backward()
        self.steps += 1
        rate, beta, most = (
            self.settings.learning_rate,
            self.settings.beta2,
            self.settings.max_step,
        )
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters if p.grad is not None]
        )
        correction = 1 - beta**self.steps
        with torch.no_grad():
            for w, limit, v in zip(self.parameters, self.limits, self.squares, strict=True):
                if w.grad is None:  # below a step function
                    continue
                v.lerp_(w.grad.square(), 1 - beta)
                # Where v is 0 so is the gradient; the tiny number makes 0 of 0/0.
                scale = (v / correction).sqrt_().clamp_min_(torch.finfo(v.dtype).tiny)
                change = (w.grad / scale).clamp_(-most, most)
                w.mul_(change.mul_(w.sign()).mul_(-rate).exp_())
                w.copy_(w.clamp(-limit, limit))
        return Step(loss.detach(), norm)

    def state_dict(self) -> dict[str, Any]:
        """Return the running mean squares, and of how many steps they are."""
        return {"squares": self.squares, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`~baselines.trainer.Trainer`."""
        self.steps = state["steps"]
        for squares, saved in zip(self.squares, state["squares"], strict=True):
            squares.copy_(saved)
