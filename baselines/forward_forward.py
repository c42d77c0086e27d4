"""Forward-Forward: every layer tells right labels from wrong ones, by forward passes alone.

Hinton, The Forward-Forward Algorithm: Some Preliminary Investigations, 2022 (arXiv 2212.13345),
section 3.3. A network sees an image together with a label. The goodness of a layer is the sum of
the squares of its activations; each layer by itself raises it where the label is right and lowers
it where it is wrong, by descending the logistic loss of ``goodness - theta``. A layer sees the
activations below divided by their size, or it could read the goodness of that layer. The decision
is for the label with which all layers but the first have the most goodness.
"""

from collections.abc import Mapping
from math import prod
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from baselines.activation import Activation
from baselines.options import LogUniform, Search, options
from baselines.trainer import BasicSettings, DescentTrainer, Settings

Width = Annotated[int, Field(ge=1)]


@options
class ForwardForwardSettings(Settings):
    """The options of Forward-Forward; the paper has four layers of 2000 units."""

    widths: Annotated[
        tuple[Width, ...], Field(min_length=1, description="Units of each layer of its network.")
    ] = (500, 500)
    threshold: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Theta, for each unit of a layer.")
    ] = 1.0
    label_scale: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="Value of the input of a label.")
    ] = 1.0

    search: ClassVar[Mapping[str, Search]] = {
        **Settings.search,
        "threshold": LogUniform(0.01, 10),
        "label_scale": LogUniform(0.3, 30),
    }


class ForwardForwardNetwork(nn.Module):
    """Layers of ReLU over an image and a label.

    The paper writes the label over the first ten pixels, which are black in all of MNIST; here it
    has inputs of its own.

    Args:
        input_shape: of an image.
        classes: number of labels, at least 2.
        seed: of the weights, which are distributed as torch's.
        settings: the widths, and the input of a label.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        seed: int,
        settings: BasicSettings | None = None,
    ) -> None:
        super().__init__()
        own = ForwardForwardSettings.of(settings or BasicSettings(1.0))
        self.classes, self.widths, self.label_scale = classes, own.widths, own.label_scale
        sizes = [prod(input_shape) + classes, *own.widths]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pairs = zip(sizes, own.widths, strict=False)
            self.layers = nn.ModuleList(nn.Linear(size, width) for size, width in pairs)

    def forward(self, images: Tensor) -> Tensor:
        """Return the goodness of every label (batch, classes), of all layers but the first.

        It is that of the first layer if there is no other.
        """
        labels = torch.arange(self.classes, device=images.device)
        found = [self._goodness(images, label.expand(len(images))) for label in labels]
        return torch.stack(found, dim=1)

    def with_labels(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return what the first layer sees (batch, inputs) of images (batch, ...) with labels."""
        inputs = self.label_scale * F.one_hot(labels, self.classes).to(images)
        return torch.cat([images.flatten(1), inputs], dim=1)

    def _goodness(self, images: Tensor, labels: Tensor) -> Tensor:
        hidden, found = self.with_labels(images, labels), []
        for layer in self.layers:
            hidden = layer(hidden).relu()
            found.append(goodness(hidden))
            hidden = normalised(hidden)
        return torch.stack(found[1:] or found).sum(dim=0)


class ForwardForward(DescentTrainer):
    """Descent of each layer on a loss of its own, for images with right labels and wrong ones.

    Wrong labels are drawn evenly from torch's generator. Of a :class:`~baselines.trainer.Step`, the
    loss is the sum of those of all layers, and no cross-entropy.

    Raises:
        ValueError: the model is not the method's network, or was made with other options.
    """

    name: ClassVar[str] = "forward-forward"
    label: ClassVar[str] = "Forward-Forward"
    Options: ClassVar[type[Settings]] = ForwardForwardSettings
    settings: ForwardForwardSettings
    network: ClassVar[type[ForwardForwardNetwork]] = ForwardForwardNetwork

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Take the method's own network."""
        if not isinstance(model, ForwardForwardNetwork):
            raise ValueError(
                f"model: {self.name} trains a {self.network.__name__}, not {type(model).__name__}"
            )
        super().__init__(model, settings)
        own = self.settings
        if (model.widths, model.label_scale) != (own.widths, own.label_scale):
            raise ValueError(
                f"model: the network was made with other options than {self.name} is given"
            )
        self.labelled = model

    @classmethod
    def supports(cls, activation: Activation) -> str | None:
        """Refuse all units but those of the method's own network."""
        return None if activation.make is nn.ReLU else "its units are those of relu"

    @classmethod
    def remark(cls, activation: Activation) -> str:
        """Say that the network is the method's own."""
        return "own network"

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Let every layer descend its own loss; no derivative passes from one to another."""
        model, count = self.labelled, len(targets)
        others = torch.randint(1, model.classes, targets.shape, device=targets.device)
        wrong = (targets + others) % model.classes
        hidden = torch.cat([model.with_labels(inputs, labels) for labels in (targets, wrong)])
        sign = torch.ones(2 * count, dtype=hidden.dtype, device=hidden.device)
        sign[count:] = -1
        loss = hidden.new_zeros(())
        for layer in model.layers:
            activations = layer(hidden).relu()
            theta = self.settings.threshold * activations.shape[1]
            loss = loss + F.softplus(sign * (theta - goodness(activations))).sum() / count
            hidden = normalised(activations.detach())
        self.objective(loss, targets).backward()
        return loss


def goodness(activations: Tensor) -> Tensor:
    """Return the sum of the squares (batch,) of activations (batch, units)."""
    return activations.square().sum(dim=1)


def normalised(activations: Tensor) -> Tensor:
    """Return activations (batch, units) over the root of the mean of their squares."""
    return F.rms_norm(activations, activations.shape[1:])
