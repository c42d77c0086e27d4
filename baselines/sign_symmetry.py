"""Sign-symmetric feedback: errors go back through weights that have the signs of the forward ones.

Liao, Leibo and Poggio, How important is weight symmetry in backpropagation?, AAAI 2016 (arXiv
1510.05067). A layer's B shares its signs with W at every step, and nothing else: its magnitudes are
random and stay (what Moskovitz, Litwin-Kumar and Abbott, arXiv 1812.06488, call frSF). So a synapse
would have to know the direction of the forward weight alone, where backpropagation needs all of it
and feedback alignment nothing.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines.fa import FeedbackAlignment
from baselines.trainer import BasicSettings


class SignSymmetry(FeedbackAlignment):
    """Feedback alignment with ``B = |R| sign(W)``, where R is what feedback alignment draws.

    Attributes:
        magnitudes: |R| by the name of its weight.

    Raises:
        ValueError: as :class:`baselines.fa.FeedbackAlignment` does.
    """

    name: ClassVar[str] = "sign-symmetry"
    label: ClassVar[str] = "sign-symmetric feedback"

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Draw the magnitudes."""
        super().__init__(model, settings)
        self.magnitudes = {name: b.abs() for name, b in self.feedback.items()}

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Backpropagate through feedback weights with the signs that the weights have now."""
        with torch.no_grad():
            for weight in self.weights:
                sign = weight.tensor().sign()
                self.feedback[weight.name].copy_(self.magnitudes[weight.name] * sign)
        return super().fill_gradients(inputs, targets)
