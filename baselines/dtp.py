"""Difference target propagation: layers descend towards targets that learned inverses make.

Lee, Zhang, Fischer and Bengio, Difference target propagation, ECML 2015 (arXiv 1412.7525). The
target of the last hidden layer is a step down the loss, ``t = h - c dL/dh``. A layer below gets its
target by an inverse g of the layer above, which corrects for what g gets wrong::

    t_(l-1) = h_(l-1) + g_l(t_l) - g_l(h_l)

Each layer descends the squared distance of its own output to its target, and the last layer the
loss. The inverses learn to undo their layers near the outputs that there are, from noisy ones.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from baselines.chain import Segment, is_as_written, segments
from baselines.options import LogUniform, Search, options
from baselines.trainer import BasicSettings, DescentTrainer, NeedsDerivatives, Settings, generator

DROPOUTS: tuple[type[nn.Module], ...] = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)


@options
class DTPSettings(Settings):
    """The options of difference target propagation."""

    target_step: Annotated[
        float,
        Field(gt=0, allow_inf_nan=False, description="Step c to the last hidden layer's target."),
    ] = 1.0
    inverse_rate: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Learning rate of the inverses.")
    ] = 0.01
    noise: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="Deviation of the noise in the inverses' examples.",
        ),
    ] = 0.1

    search: ClassVar[Mapping[str, Search]] = {
        **Settings.search,
        "target_step": LogUniform(0.01, 10),
        "inverse_rate": LogUniform(1e-3, 1),
    }


class Inverse(nn.Module):
    """Goes from a layer's output (batch, m) back to its input (batch, n): ``f(V h + b)``.

    f is what follows the layer below, but for dropout, as its output is what has to be made.
    """

    def __init__(self, layer: nn.Linear, below: Segment, random: torch.Generator) -> None:
        super().__init__()
        weight = torch.empty(layer.in_features, layer.out_features)
        nn.init.xavier_uniform_(weight, generator=random)
        self.weight = nn.Parameter(weight.to(layer.weight))
        self.bias = nn.Parameter(torch.zeros(layer.in_features).to(layer.weight))
        self._units = [
            module
            for module in below.after()
            if not any(is_as_written(module, kind) for kind in DROPOUTS)
        ]

    def forward(self, outputs: Tensor) -> Tensor:
        """Return the inputs that a layer with these outputs may have had."""
        inputs = F.linear(outputs, self.weight, self.bias)
        for module in self._units:
            inputs = module(inputs)
        return inputs


class DifferenceTargetPropagation(DescentTrainer, NeedsDerivatives):
    """Descent of every hidden layer on the squared distance of its output to its target.

    To fill the gradients also trains the inverses, by a step of gradient descent that comes before
    the targets are made. They are drawn from a generator that depends on torch's seed alone, and so
    is their noise.

    Attributes:
        inverses: of every hidden layer but the first, in their order.

    Raises:
        ValueError: the model is no chain of Linear layers.
    """

    name: ClassVar[str] = "dtp"
    label: ClassVar[str] = "difference target propagation"
    Options: ClassVar[type[Settings]] = DTPSettings
    settings: DTPSettings

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Draw the inverses."""
        self.segments = segments(model)
        self.random = generator(0xD79)
        layers = [_linear(segment) for segment in self.segments]
        self.inverses = [
            Inverse(layer, below, self.random)
            for below, layer in zip(self.segments, layers[1:-1], strict=False)
        ]
        super().__init__(model, settings)

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Train the inverses, make the targets, and let every layer descend."""
        consumed, outputs = [inputs], []
        for segment in self.segments:
            outputs.append(segment(consumed[-1]))
            consumed.append(outputs[-1].detach().requires_grad_())
        *hidden, logits = outputs
        loss = F.cross_entropy(logits, targets)
        objective = len(targets) * loss
        if hidden:
            made = [output.detach() for output in hidden]
            self._train_inverses(made)
            (slope,) = torch.autograd.grad(objective, consumed[-2], retain_graph=True)
            wanted = self._targets(made, slope)
            for output, target in zip(hidden, wanted, strict=True):
                objective = objective + (output - target).square().sum()
        (objective if self.settings.reduction == "sum" else objective / len(targets)).backward()
        return loss

    def _train_inverses(self, made: Sequence[Tensor]) -> None:
        """Make one step of the inverses, from the outputs (batch, ...) of the hidden layers."""
        for segment, inverse, inputs in zip(self.segments[1:], self.inverses, made, strict=False):
            noise = torch.randn(inputs.shape, generator=self.random).to(inputs)
            with torch.no_grad():
                noisy = inputs + self.settings.noise * noise
                outputs = segment(noisy)
            distance = (inverse(outputs) - noisy).square().sum() / len(noisy)
            if not distance.requires_grad:  # below a step function, which has no derivative
                continue
            own = list(inverse.parameters())
            gradients = torch.autograd.grad(distance, own)
            with torch.no_grad():
                for parameter, gradient in zip(own, gradients, strict=True):
                    parameter.sub_(self.settings.inverse_rate * gradient)

    @torch.no_grad()
    def _targets(self, made: Sequence[Tensor], slope: Tensor) -> list[Tensor]:
        """Return the targets of the hidden layers; the slope is of each sample's own loss."""
        targets = [made[-1] - self.settings.target_step * slope]
        pairs = list(zip(self.inverses, made[:-1], made[1:], strict=True))
        for inverse, below, above in reversed(pairs):
            targets.append(below + inverse(targets[-1]) - inverse(above))
        return targets[::-1]

    def state_dict(self) -> dict[str, Any]:
        """Return also the inverses, and the state of their noise."""
        inverses = [inverse.state_dict() for inverse in self.inverses]
        return {**super().state_dict(), "inverses": inverses, "random": self.random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`~baselines.trainer.Trainer`."""
        super().load_state_dict(state)
        for inverse, saved in zip(self.inverses, state["inverses"], strict=True):
            inverse.load_state_dict(saved)
        self.random.set_state(state["random"])


def _linear(segment: Segment) -> nn.Linear:
    """Return the layer of a segment; ValueError if it is no Linear, which has an inverse here."""
    if not isinstance(segment.layer, nn.Linear):
        raise ValueError(
            f"model: {type(segment.layer).__name__} has no inverse in this method; allowed: Linear"
        )
    return segment.layer
