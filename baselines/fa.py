"""Feedback alignment: backpropagation without weight transport.

Lillicrap et al., Random synaptic feedback weights support error backpropagation for deep learning,
Nature Communications 7, 2016. The error of a layer's output reaches its input through fixed random
weights B, not through the transpose of the layer's own W. The weights learn to make B useful: they
align with it.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines.sgd import SGD
from baselines.trainer import Settings


class FeedbackAlignment(SGD):
    """Backpropagation in which every W that autograd keeps for the backward pass is its layer's B.

    An output ``W x`` needs W for the gradient of x alone; the gradient of W needs only x. So this
    swap is all of feedback alignment, and costs nothing. It concerns Linear and Conv layers, also
    those whose weights do not train; other layers backpropagate. B is distributed like torch's
    default W and depends on torch's seed alone.
    """

    name: ClassVar[str] = "fa"

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        """Draw the feedback weights."""
        super().__init__(model, settings)
        layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        # Of another seed than a model that is drawn from torch's generator, or B could equal W.
        random = torch.Generator().manual_seed(torch.initial_seed() ^ 0xFA)
        self.feedback: dict[Tensor, Tensor] = {
            layer.weight: nn.init.kaiming_uniform_(
                torch.empty_like(layer.weight, device="cpu"), math.sqrt(5), generator=random
            ).to(layer.weight.device)
            for layer in model.modules()
            if isinstance(layer, layers)
        }

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Backpropagate the cross-entropy through the feedback weights."""
        feedback = {w.data_ptr(): b for w, b in self.feedback.items()}

        def swap(saved: Tensor) -> Tensor:
            """Return B for W or for a view of it (Linear keeps the transpose)."""
            b = feedback.get(saved.data_ptr())
            if b is None:
                return saved
            return b.as_strided(saved.shape, saved.stride())

        with torch.autograd.graph.saved_tensors_hooks(swap, lambda saved: saved):
            return super().fill_gradients(inputs, targets)
