"""Direct feedback alignment: every layer gets the error of the output, by weights of its own.

Nøkland, Direct feedback alignment provides learning in deep neural networks, NeurIPS 2016 (arXiv
1609.01596). With the error e of the logits, what a hidden layer's output h should change by is
``B e``, where backpropagation has ``W^T`` of the next layer times the error there. B is random and
stays. No error passes from layer to layer; within a layer it passes the derivatives of activation
and pooling.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.chain import segments
from baselines.fa import FeedbackAlignmentSettings
from baselines.trainer import BasicSettings, DescentTrainer, NeedsDerivatives, Settings, generator


class DirectFeedbackAlignment(DescentTrainer, NeedsDerivatives):
    """Descent on the error of the logits, which each layer gets by random weights of its own.

    B is distributed like torch's default weights of a Linear layer from the classes to the units,
    times a scale, and depends on torch's seed alone. It is drawn in the first step, when the shapes
    are known.

    Attributes:
        feedback: B (classes, features) for the input of every layer but the first.

    Raises:
        ValueError: the model is no chain of layers (:func:`baselines.chain.segments`).
    """

    name: ClassVar[str] = "dfa"
    label: ClassVar[str] = "direct feedback alignment"
    Options: ClassVar[type[Settings]] = FeedbackAlignmentSettings
    settings: FeedbackAlignmentSettings

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Look for the layers."""
        self.segments = segments(self.layers_of(model))
        self.random = generator(0xDFA)
        self.feedback: list[Tensor] = []
        super().__init__(model, settings)

    @staticmethod
    def layers_of(model: nn.Module) -> nn.Module:
        """Return the chain of layers in a model."""
        return model

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Give every layer the error of the cross-entropy at the logits."""
        told = _Told()
        outputs = inputs
        for number, segment in enumerate(self.segments):
            if number:
                outputs = _tell(outputs, told)
            outputs = segment(outputs)
        loss = F.cross_entropy(outputs, targets)
        objective = self.objective(loss, targets)
        (told.error,) = torch.autograd.grad(objective, outputs, retain_graph=True)
        if not self.feedback:
            self.feedback = [self.drawn(outputs.shape[1], shape[1:]) for shape in told.shapes]
        told.feedback = self.feedback
        outputs.backward(told.error)
        return loss

    def drawn(self, classes: int, shape: torch.Size) -> Tensor:
        """Return B (classes, features) for the hidden outputs of a sample, of this shape."""
        weights = torch.empty(math.prod(shape), classes)
        nn.init.kaiming_uniform_(weights, math.sqrt(5), generator=self.random)
        return weights.mul_(self.settings.feedback_scale).T.to(self.parameters[0])


class _Told:
    """What the layers of one step are told, which is known after the forward pass."""

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []
        self.feedback: list[Tensor] = []
        self.error = torch.empty(0)


def _tell(hidden: Tensor, told: _Told) -> Tensor:
    """Return hidden outputs at which the next layer's error is exchanged for that of the logits."""
    told.shapes.append(hidden.shape)
    result: Tensor = _Exchange.apply(hidden, told, len(told.shapes) - 1)
    return result


class _Exchange(torch.autograd.Function):
    """The identity, with ``error B`` for its gradient, whatever arrives."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, told: _Told, number: int) -> Tensor:
        ctx.told, ctx.number = told, number
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor, None, None]:
        error = ctx.told.error @ ctx.told.feedback[ctx.number]
        return error.view(ctx.told.shapes[ctx.number]), None, None
