"""Initial rewards at the outputs, after the reward table of the LFP paper and the authors' code.

Notation: outputs o of shape (batch, classes), one-hot target y, p = softmax(o). A reward asks for
the output's magnitude to grow where it is positive, so each carries a factor o or sign(o), and
``r / o`` is the push on o itself. Every function returns a detached tensor of the outputs' shape.

``reduction="mean"`` divides by the batch size, as torch's losses do: then, by Theorem 1, a ReLU
network moves by |w| times the gradient of ``F.cross_entropy`` as users call it. ``"sum"`` does not,
which is what the authors' code computes, so the paper's learning rates are meant for it. The two
differ by the batch size, and so must the learning rates: with a batch of 128 a rate of 0.01 for
"sum" is 1.28 for "mean" (before clipping, which sees the same factor).
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum"]


def _reduced(reward: Tensor, reduction: Reduction) -> Tensor:
    """Divide a reward over a batch in dimension 0 by the batch size, unless summed."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', not {reduction!r}")
    return reward / len(reward) if reduction == "mean" else reward


def _one_hot(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return y (batch, classes) in the outputs' dtype, from checked class indices (batch,)."""
    if outputs.dim() != 2:
        raise ValueError(f"outputs must have shape (batch, classes), not {list(outputs.shape)}")
    if targets.shape != outputs.shape[:1]:
        raise ValueError(
            f"targets must have shape {list(outputs.shape[:1])} to go with outputs of shape "
            f"{list(outputs.shape)}, not {list(targets.shape)}"
        )
    if targets.dtype.is_floating_point or targets.dtype.is_complex or targets.dtype == torch.bool:
        raise ValueError(f"targets must be class indices of an integer dtype, not {targets.dtype}")
    classes = outputs.shape[1]
    # A compiled graph cannot branch on data; there, an index out of range fails in the scatter.
    if not torch.compiler.is_compiling() and len(targets):
        low, high = (int(bound) for bound in targets.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"targets must lie in [0, {classes - 1}], not in [{low}, {high}]")
    zeros = torch.zeros_like(outputs)
    return zeros.scatter_(1, targets.long()[:, None], 1.0)


def _same_shape(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the targets in the outputs' dtype, after checking that the shapes agree."""
    if outputs.dim() == 0:
        raise ValueError("outputs must have a batch dimension, not shape []")
    if targets.shape != outputs.shape:
        raise ValueError(
            f"targets must have the outputs' shape {list(outputs.shape)}, not {list(targets.shape)}"
        )
    return targets.to(outputs.dtype)


@torch.no_grad()
def softmax(outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Reward #3 of the paper's table, ``r = o (y - softmax(o))``: minus o times dCE/do.

    Args:
        outputs: logits (batch, classes).
        targets: class indices (batch,).
        reduction: "mean" or "sum" over the batch.

    Raises:
        ValueError: wrong shapes, dtype, label range or reduction.
    """
    y = _one_hot(outputs, targets)
    return _reduced(outputs * (y - F.softmax(outputs, dim=1)), reduction)


@torch.no_grad()
def sigmoid(outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """``r = o (y - sigmoid(o))``: each class on its own, one-hot targets.

    Args and errors as :func:`softmax`.
    """
    y = _one_hot(outputs, targets)
    return _reduced(outputs * (y - torch.sigmoid(outputs)), reduction)


@torch.no_grad()
def binary_sigmoid(outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """``r = o (t - sigmoid(o))``: minus o times the gradient of binary cross-entropy.

    Args:
        outputs: logits of any shape, batch first.
        targets: t in [0, 1], same shape.
        reduction: "mean" or "sum" over the batch.

    Raises:
        ValueError: wrong shape, targets outside [0, 1], or wrong reduction.
    """
    t = _same_shape(outputs, targets)
    if not torch.compiler.is_compiling() and not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(f"targets must lie in [0, 1], not in [{float(t.min())}, {float(t.max())}]")
    return _reduced(outputs * (t - torch.sigmoid(outputs)), reduction)


@torch.no_grad()
def bounded_softmax(
    outputs: Tensor,
    targets: Tensor,
    lower: float,
    upper: float,
    *,
    sign_only: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """``r = o (y - q)`` with q = softmax(o), but 0 where it is < lower and 1 where it is > upper.

    So classes that are decided well enough get no reward. ``sign_only`` takes sign(o) for o. Other
    arguments and errors as :func:`softmax`; also ValueError unless 0 <= lower <= upper <= 1.
    """
    if not 0 <= lower <= upper <= 1:
        raise ValueError(f"need 0 <= lower <= upper <= 1, not lower={lower}, upper={upper}")
    y = _one_hot(outputs, targets)
    p = F.softmax(outputs, dim=1)
    q = torch.where(p > upper, 1.0, torch.where(p < lower, 0.0, p))
    return _reduced((outputs.sign() if sign_only else outputs) * (y - q), reduction)


@torch.no_grad()
def correct_classification(
    outputs: Tensor, targets: Tensor, reduction: Reduction = "mean"
) -> Tensor:
    """``r_y = sign(o_y)`` where the prediction (argmax) is right; 0 for all other outputs.

    Args and errors as :func:`softmax`.
    """
    y = _one_hot(outputs, targets)
    right = outputs.argmax(dim=1) == targets
    return _reduced(y * outputs.sign() * right[:, None], reduction)


@torch.no_grad()
def misclassification(outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """``r_c = -sign(o_c)`` for every class c with o_c > o_y; 0 for all other outputs.

    Not the gradient of any loss. Args and errors as :func:`softmax`.
    """
    y = _one_hot(outputs, targets)
    true = (y * outputs).sum(dim=1, keepdim=True)
    return _reduced(-outputs.sign() * (outputs > true), reduction)


def maximize_neuron(outputs: Tensor, neuron: int, reduction: Reduction = "mean") -> Tensor:
    """``r_n = sign(o_n) (1 - sigmoid(o_n))`` for one output n; 0 for all others.

    Args:
        outputs: (batch, outputs).
        neuron: index n in [0, outputs).
        reduction: "mean" or "sum" over the batch.

    Raises:
        ValueError: wrong shape, index or reduction.
    """
    return _single_neuron(outputs, neuron, 1.0, reduction)


def minimize_neuron(outputs: Tensor, neuron: int, reduction: Reduction = "mean") -> Tensor:
    """``r_n = -sign(o_n) (1 - sigmoid(o_n))``; otherwise as :func:`maximize_neuron`."""
    return _single_neuron(outputs, neuron, -1.0, reduction)


@torch.no_grad()
def _single_neuron(outputs: Tensor, neuron: int, sign: float, reduction: Reduction) -> Tensor:
    if outputs.dim() != 2:
        raise ValueError(f"outputs must have shape (batch, outputs), not {list(outputs.shape)}")
    if not 0 <= neuron < outputs.shape[1]:
        raise ValueError(f"neuron must lie in [0, {outputs.shape[1] - 1}], not {neuron}")
    reward = torch.zeros_like(outputs)
    o = outputs[:, neuron]
    reward[:, neuron] = sign * o.sign() * (1 - torch.sigmoid(o))
    return _reduced(reward, reduction)


@torch.no_grad()
def cubic_regression(outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """``r = sign(o) (y - o)^3``, the reward of the authors' regression experiment.

    Args:
        outputs: predictions of any shape, batch first.
        targets: y, same shape.
        reduction: "mean" or "sum" over the batch.

    Raises:
        ValueError: wrong shape or reduction.
    """
    y = _same_shape(outputs, targets)
    return _reduced(outputs.sign() * (y - outputs) ** 3, reduction)


def from_loss(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the reward ``r = -o dL/do`` of a differentiable loss, the one of Theorem 1.

    Args:
        loss: ``loss(outputs, *args, **kwargs)``, a scalar. Its own reduction decides the scale: a
            loss that averages over the batch gives the reward for "mean".

    Returns:
        A function of the same arguments that returns the reward, of the outputs' shape.

    Example:
        >>> import torch, lfp_core as lfp
        >>> logits, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
        >>> reward = lfp.rewards.from_loss(torch.nn.functional.cross_entropy)(logits, targets)
        >>> torch.allclose(reward, lfp.rewards.softmax(logits, targets))
        True
    """

    def reward(outputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        o = outputs.detach().requires_grad_()
        # Also inside `lfp.feedback`, the loss is differentiated as it is.
        with torch.enable_grad(), torch._C.DisableTorchFunction():
            (gradient,) = torch.autograd.grad(loss(o, *args, **kwargs), o)
        return -o.detach() * gradient

    return reward


@torch.no_grad()
def spike_rate(spikes: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Reward of a rate code: with the count n = sum_t S_t of an output over T steps, at every step,

    ``r = 1 - sigmoid(n - T // 2)`` for the true class, whether it fired or not, and
    ``r = -S_t (1 - sigmoid((T - n) - T // 2))`` for the others. The prediction is argmax n.

    Args:
        spikes: S_t in {0, 1}, (T, batch, classes).
        targets: class indices (batch,).
        reduction: "mean" or "sum" over the batch; time is always left as it is.

    Raises:
        ValueError: wrong shapes, dtype, label range or reduction.
    """
    if spikes.dim() != 3:
        raise ValueError(f"spikes must have shape (T, batch, classes), not {list(spikes.shape)}")
    steps, counts = len(spikes), spikes.sum(dim=0)
    y = _one_hot(counts, targets)
    grow = 1 - torch.sigmoid(counts - steps // 2)
    shrink = 1 - torch.sigmoid((steps - counts) - steps // 2)
    reward = torch.where(y == 1, grow, -spikes * shrink)
    return _reduced(reward.transpose(0, 1), reduction).transpose(0, 1)
