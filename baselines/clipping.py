"""Adaptive gradient clipping (Brock et al., ICML 2021, arXiv 2102.06171, equation 3).

With G_i the gradient of the weights W_i of unit i, and lambda the largest relative change allowed::

    G_i <- lambda max(|W_i|, 1e-3) / |G_i|  G_i    where |G_i| > lambda max(|W_i|, 1e-3)

Norms are over all dimensions of a parameter but the first, which is that of units; a bias counts as
one unit, as in their code.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

SMALLEST = 1e-3  # norm of a unit's weights, or those that start at 0 could never move


@torch.no_grad()
def clip_adaptively(parameters: Iterable[Tensor], ratio: float) -> None:
    """Clip ``p.grad`` of every parameter in place; `ratio` is lambda."""
    for parameter in parameters:
        if parameter.grad is None:  # below a step function
            continue
        limit = unitwise_norm(parameter).clamp_min(SMALLEST) * ratio
        norm = unitwise_norm(parameter.grad)
        parameter.grad.mul_(torch.where(norm > limit, limit / norm, 1.0))


def unitwise_norm(tensor: Tensor) -> Tensor:
    """Return the 2-norm of each unit's part, with dimensions kept; of a vector, of all of it."""
    units = tuple(range(1, tensor.dim())) or None
    return torch.linalg.vector_norm(tensor, dim=units, keepdim=True)
