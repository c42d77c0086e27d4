"""Noise before a step function, whose reward it passes on whole."""

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

import lfp_core as lfp
from lfp_core.sharing import of_several


def disturbed(z: Tensor, noise: Tensor) -> Tensor:
    """Return z + noise, of the same shape, whose reward is z's alone.

    As a sum of two it would leave z a share of ``z / (z + noise)``, and nothing to a unit that the
    noise alone makes active, which is what the noise is for.
    """
    if has_torch_function((z, noise)):
        return handle_torch_function(disturbed, (z, noise), z, noise)
    return z + noise


lfp.register_rule(disturbed, of_several)


class Noise(nn.Module):
    """Gaussian noise that is added in training, to a tensor of any shape.

    Args:
        deviation: of the noise.
    """

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, z: Tensor) -> Tensor:
        """Add noise, unless the model is evaluated."""
        return disturbed(z, self.deviation * torch.randn_like(z)) if self.training else z
