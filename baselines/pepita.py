"""PEPITA: a second forward pass, with the error added to the input, in place of a backward pass.

Dellaferrera and Kreiman, Error-driven input modulation: solving the credit assignment problem
without a backward pass, ICML 2022 (arXiv 2201.11665). The first pass gives the outputs h_l of the
layers and the error ``e = softmax(h_L) - target``; the second, of ``x + F e`` with a fixed random
F, gives h'_l. A layer descends ``(h_l - h'_l) h'_(l-1)^T``, and the last one ``e' h'_(L-1)^T``
with the error e' of the second pass, as in the authors' code. No derivative is needed, so a step
function is an activation as any other.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from baselines.activation import Activation
from baselines.chain import Segment, segments
from baselines.options import LogUniform, Search, options
from baselines.trainer import BasicSettings, DescentTrainer, Settings, generator


@options
class PEPITASettings(Settings):
    """The options of PEPITA."""

    modulation: Annotated[
        float,
        Field(gt=0, allow_inf_nan=False, description="Scale of F, in bounds of He's weights."),
    ] = 0.05

    search: ClassVar[Mapping[str, Search]] = {
        **Settings.search,
        "modulation": LogUniform(0.01, 1),
    }


class PEPITA(DescentTrainer):
    """Descent on the difference of two forward passes, which have the same dropout.

    The output of a layer is that of its activation, and of dropout, but not of pooling. Biases,
    which the paper's networks do not have, descend what a weight with the input 1 does. F is drawn
    in the first step, when the shape of the input is known, and depends on torch's seed alone.

    Attributes:
        feedback: F^T (classes, inputs).

    Raises:
        ValueError: the model is no chain of layers (:func:`baselines.chain.segments`).
    """

    name: ClassVar[str] = "pepita"
    label: ClassVar[str] = "PEPITA"
    Options: ClassVar[type[Settings]] = PEPITASettings
    settings: PEPITASettings

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Look for the layers."""
        self.segments = segments(model)
        self.random = generator(0x9E917A)
        self.feedback: Tensor | None = None
        super().__init__(model, settings)

    @classmethod
    def supports(cls, activation: Activation) -> str | None:
        """Refuse neurons that spike."""
        return "it is defined for layers without time" if activation.spiking else None

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make both passes; what a layer descends is the product of two of its own values."""
        gpus = [inputs.device] if inputs.device.type == "cuda" else []
        with torch.no_grad():
            with torch.random.fork_rng(devices=gpus):  # the second pass has the same dropout
                logits, first = self._passed(inputs)
            wanted = F.one_hot(targets, logits.shape[1]).to(logits)
            error = logits.softmax(1) - wanted
            if self.feedback is None:
                self.feedback = self._drawn(logits.shape[1], inputs)
            modulated = inputs + (error @ self.feedback).view_as(inputs)
            last, second = self._passed(modulated)
        signals = [a.output - b.output for a, b in zip(first, second, strict=True)]
        signals[-1] = last.softmax(1) - wanted
        share = 1.0 if self.settings.reduction == "sum" else 1 / max(len(targets), 1)
        for segment, values, signal in zip(self.segments, second, signals, strict=True):
            layer = segment.layer
            own = [p for p in layer.parameters() if p.requires_grad]
            if own:  # the product of a layer's input and what is put for its output's gradient
                torch.autograd.backward(layer(values.input), share * signal, inputs=own)
        return F.cross_entropy(logits, targets)

    def _passed(self, inputs: Tensor) -> tuple[Tensor, list["_Values"]]:
        """Return the logits, and the values of every layer."""
        values = []
        for segment in self.segments:
            inputs, own = _forward(segment, inputs)
            values.append(own)
        return inputs, values

    def _drawn(self, classes: int, inputs: Tensor) -> Tensor:
        """Return F^T for inputs (batch, ...): uniform, within a share of He's bounds."""
        size = math.prod(inputs.shape[1:])
        bound = self.settings.modulation * math.sqrt(6 / size)
        drawn = torch.empty(size, classes).uniform_(-bound, bound, generator=self.random)
        return drawn.T.to(inputs)


class _Values:
    """What a layer consumes, and the output of its units, (batch, ...) each."""

    def __init__(self, consumed: Tensor, output: Tensor) -> None:
        self.input, self.output = consumed, output


def _forward(segment: Segment, inputs: Tensor) -> tuple[Tensor, _Values]:
    """Return the output of a segment, and the values of its layer."""
    consumed = output = inputs
    units: torch.Size | None = None
    for module in segment.modules:
        if module is segment.layer:
            consumed = inputs
        inputs = module(inputs)
        if module is segment.layer:
            units = inputs.shape
        if inputs.shape == units:
            output = inputs
    return inputs, _Values(consumed, output)
