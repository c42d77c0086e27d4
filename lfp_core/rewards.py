"""Initial rewards at the outputs, after the reward table of the LFP paper and the authors' code.

Notation: outputs o of shape (..., classes), one-hot target y, p = softmax(o). A reward asks for
the output's magnitude to grow where it is positive, so each carries a factor o or sign(o), and
``r / o`` is the push on o itself. Where that push is 0 so is the reward, also that of a logit which
a mask made -inf. Every function returns a detached tensor of the outputs' shape.

**Shapes.** Classes stand last, whatever comes before them: (batch, classes), and (batch, time,
classes) or (batch, height, width, classes) with a target for every position. Torch's losses want
them second, (batch, classes, time). Where that is how the outputs come, turn both ways::

    reward = lfp.rewards.softmax(outputs.movedim(1, -1), targets).movedim(-1, 1)

**Reductions.** ``"mean"`` divides by the number of positions, the product of all dimensions but the
last, as torch's losses do: then, by Theorem 1, a ReLU network moves by |w| times the gradient of
``F.cross_entropy`` as users call it. ``"sum"`` does not, which is what the authors' code computes,
so the paper's learning rates are meant for it. The two differ by the batch size, and so must the
learning rates: with a batch of 128 a rate of 0.01 for "sum" is 1.28 for "mean" (before clipping,
which sees the same factor).

**Errors.** What a target may be is checked on the CPU. On a GPU that would have to wait for the
device, so there, and in what ``torch.compile`` has traced, a class index out of range is left to
torch's kernels, which stop with a device-side assertion as those of ``F.cross_entropy`` do.
"""

from collections.abc import Callable
from numbers import Real
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lfp_core import _torch, kernels, native

Reduction = Literal["mean", "sum"]


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', not {reduction!r}")


def _reduced(reward: Tensor, reduction: Reduction, count: int) -> Tensor:
    """Divide a reward by the number of samples or positions that it is of, unless summed."""
    _check_reduction(reduction)
    return reward / count if reduction == "mean" else reward


def _check(outputs: Any, *targets: Any) -> None:
    """Raise ValueError unless outputs and targets are tensors, and outputs real numbers."""
    for name, value in (("outputs", outputs), *(("targets", each) for each in targets)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor, not {type(value).__name__}")
    if not outputs.dtype.is_floating_point:
        raise ValueError(f"outputs must be of a floating dtype, not {outputs.dtype}")


def _positions(outputs: Tensor) -> int:
    """Return the product of all dimensions but the last, in which the classes stand."""
    return outputs.shape[:-1].numel()


def _readable(tensor: Tensor) -> bool:
    """Return whether values can be checked without waiting for a device or breaking a graph."""
    is_plain = tensor.device.type == "cpu" and type(tensor) in kernels.PLAIN
    return is_plain and not _torch.is_compiling()


def _check_indices(outputs: Tensor, targets: Tensor, soft: bool) -> None:
    """Raise ValueError unless targets (...) can be class indices of outputs (..., classes).

    ``soft`` tells whether the caller takes probabilities too, for the message.

    Raises:
        ValueError: they cannot.
    """
    dtype = targets.dtype
    whole = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
    if whole and outputs.dim() > 0 and targets.shape == outputs.shape[:-1]:
        return
    shape, found = list(outputs.shape), list(targets.shape)
    instead = f"; or probabilities, of shape {shape} and a floating dtype" if soft else ""
    if outputs.dim() <= min(targets.dim(), 1):
        raise ValueError(
            "outputs must have shape (..., classes), where targets have all dimensions but the "
            f"last, not {shape} for targets of shape {found}"
        )
    if found != shape[:-1]:
        # As torch's losses want it.
        second = found == [*shape[:1], *shape[2:]]
        turn = "outputs.movedim(1, -1), and the reward back by .movedim(-1, 1)"
        raise ValueError(
            f"targets must have shape {shape[:-1]} to go with outputs of shape {shape}, not "
            f"{found}{instead}"
            + (f"; classes stand last here, so turn them: {turn}" if second else "")
            + "; rewards of other losses: lfp.rewards.from_loss"
        )
    raise ValueError(f"targets must be class indices of an integer dtype, not {dtype}{instead}")


def _range(labels: Tensor) -> tuple[int, int]:
    """Return the smallest and the largest label."""
    if not labels.numel():
        return 0, -1
    low, high = labels.aminmax()
    return int(low), int(high)


def _labels(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return checked class indices (..., 1).

    Raises:
        ValueError: the indices cannot be those of classes, as far as they can be checked.
    """
    _check(outputs, targets)
    _check_indices(outputs, targets, soft=False)
    classes, labels = outputs.shape[-1], targets.long()
    if _readable(labels):
        low, high = _range(labels)
        if low < 0 or high >= classes:
            raise ValueError(f"targets must lie in [0, {classes - 1}], not in [{low}, {high}]")
    return labels[..., None]


def _one_hot(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return y (..., classes) in the outputs' dtype, from class indices that are to be checked."""
    return torch.zeros_like(outputs).scatter_(-1, _labels(outputs, targets), 1.0)


def _same_shape(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the targets in the outputs' dtype, after checking that the shapes agree."""
    _check(outputs, targets)
    if outputs.dim() == 0:
        raise ValueError("outputs must have a batch dimension, not shape []")
    if targets.shape != outputs.shape:
        raise ValueError(
            f"targets must have the outputs' shape {list(outputs.shape)}, not {list(targets.shape)}"
        )
    return targets.to(outputs.dtype)


def softmax(
    outputs: Tensor,
    targets: Tensor,
    reduction: Reduction = "mean",
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Reward #3 of the paper's table, ``r = o (y - softmax(o))``: minus o times dCE/do.

    With the same arguments it is ``from_loss(F.cross_entropy)``, but for where the classes stand,
    and for a batch whose targets are all ignored: its mean cross-entropy is 0/0, and its reward 0.

    Args:
        outputs: logits (..., classes).
        targets: class indices (...) of an integer dtype; or probabilities (..., classes) of a
            floating one. As in ``F.cross_entropy``, these are not checked: if they do not sum to 1
            the reward is ``o (t - sum(t) softmax(o))``.
        reduction: "mean" over the positions whose target is not ignored, or "sum".
        ignore_index: a target whose position gets a reward of exactly 0, whatever the logits are.
            It needs class indices, and may lie outside of their range.
        label_smoothing: the share in [0, 1] of each target that all classes have alike.

    Returns:
        The reward, of the shape and dtype of the outputs.

    Raises:
        ValueError: wrong shapes, dtype, label range, reduction or label_smoothing; or probabilities
            with an ignore_index >= 0, as of ``F.cross_entropy``.
    """
    _check(outputs, targets)
    if not isinstance(label_smoothing, Real) or not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], not {label_smoothing!r}")
    if not hasattr(ignore_index, "__index__"):
        raise ValueError(f"ignore_index must be an integer, not {ignore_index!r}")
    soft = targets.dtype.is_floating_point and targets.shape == outputs.shape and outputs.dim() > 0
    if not soft:
        # Detached and past any mode, in less time than `no_grad` takes.
        with _torch.DisableTorchFunction():
            outputs = outputs.detach()
            return _of_indices(outputs, targets, reduction, ignore_index, label_smoothing)
    if ignore_index >= 0:
        raise ValueError(
            "ignore_index must be left out (or be < 0) for targets that are probabilities, not "
            f"{ignore_index!r}"
        )
    return _of_probabilities(outputs, targets.to(outputs.dtype), reduction, label_smoothing)


@torch.no_grad()
def _of_probabilities(
    outputs: Tensor, y: Tensor, reduction: Reduction, label_smoothing: float
) -> Tensor:
    """Return the reward #3 for probabilities y, of the shape and dtype of the outputs."""
    if label_smoothing:
        y = (1 - label_smoothing) * y + label_smoothing / outputs.shape[-1]
    p = F.softmax(outputs, dim=-1) * y.sum(dim=-1, keepdim=True)
    return _reduced(kernels.rewarded(outputs, y - p), reduction, _positions(outputs))


def _of_indices(
    outputs: Tensor,
    targets: Tensor,
    reduction: Reduction,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    """Return the reward #3 of detached outputs for class indices, by the kernels of cross-entropy.

    They find the places of the targets, leave out those that are ignored, and count the others,
    in fewer operations than a one-hot matrix takes.

    Raises:
        ValueError: wrong shapes, dtype, label range or reduction.
    """
    _check_indices(outputs, targets, soft=True)
    _check_reduction(reduction)
    classes = outputs.shape[-1]
    flat, labels = outputs, targets.long()
    if outputs.dim() != 2:
        flat, labels = outputs.reshape(-1, classes), labels.reshape(-1)
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()
    try:
        reward = _of_logits(flat, labels, reduction == "mean", ignore_index, label_smoothing)
    except IndexError:  # on the CPU, which looks at every label
        also = f" or be ignore_index={ignore_index}"
        low, high = _range(labels[labels != ignore_index])
        raise ValueError(
            f"targets must lie in [0, {classes - 1}]{also}, not in [{low}, {high}]"
        ) from None
    return reward.view(outputs.shape).to(outputs.dtype)


def _of_logits(
    logits: Tensor, labels: Tensor, mean: bool, ignore_index: int, label_smoothing: float
) -> Tensor:
    """Return the reward #3 of logits (positions, classes) for labels (positions,)."""
    nodes = native.usable()
    if nodes is not None and not label_smoothing:
        made: Tensor | None = nodes.softmax_reward(logits, labels, mean, ignore_index)
        if made is not None:
            return made
    log_p = torch.log_softmax(logits, 1)
    options = (log_p, labels, None, _torch.MEAN if mean else _torch.SUM, ignore_index)
    _, count = _torch.nll_loss_forward(*options)
    gradient = _torch.nll_loss_backward(_minus_one(logits), *options, count)
    if label_smoothing:
        smooth = label_smoothing / logits.shape[1]
        gradient = (1 - label_smoothing) * gradient + (smooth / count if mean else smooth)
    reward = kernels.rewarded(logits, _torch.log_softmax_backward(gradient, log_p, 1, logits.dtype))
    if not _readable(count) or count.item() != len(labels):
        # What is ignored may not even be finite, and the product above is not 0 then.
        reward.masked_fill_((labels == ignore_index)[:, None], 0)
    return reward


def _minus_one(like: Tensor) -> Tensor:
    if _torch.is_compiling():  # whose graph makes it
        return like.new_full((), -1.0)
    return kernels.scalar(-1.0, like)


@torch.no_grad()
def sigmoid(outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """``r = o (y - sigmoid(o))``: each class on its own, one-hot targets.

    Args:
        outputs: logits (..., classes).
        targets: class indices (...) of an integer dtype.
        reduction: "mean" or "sum" over the positions.

    Returns:
        The reward, of the shape and dtype of the outputs.

    Raises:
        ValueError: wrong shapes, dtype, label range or reduction.
    """
    y = _one_hot(outputs, targets)
    reward = kernels.rewarded(outputs, y - torch.sigmoid(outputs))
    return _reduced(reward, reduction, _positions(outputs))


@torch.no_grad()
def binary_sigmoid(outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """``r = o (t - sigmoid(o))``: minus o times the gradient of binary cross-entropy.

    Args:
        outputs: logits of any shape, batch first.
        targets: t in [0, 1], same shape.
        reduction: "mean" over the batch, which is dimension 0, or "sum".

    Returns:
        The reward, of the shape and dtype of the outputs.

    Raises:
        ValueError: wrong shape, targets outside [0, 1] (on the CPU; elsewhere they are taken as
            they are, as ``F.binary_cross_entropy_with_logits`` does), or wrong reduction.
    """
    t = _same_shape(outputs, targets)
    if _readable(t) and not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(f"targets must lie in [0, 1], not in [{float(t.min())}, {float(t.max())}]")
    return _reduced(kernels.rewarded(outputs, t - torch.sigmoid(outputs)), reduction, len(outputs))


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
    arguments as :func:`sigmoid`.

    Returns:
        The reward, of the shape and dtype of the outputs.

    Raises:
        ValueError: unless 0 <= lower <= upper <= 1; or as :func:`sigmoid`.
    """
    numbers = isinstance(lower, Real) and isinstance(upper, Real)
    if not (numbers and 0 <= lower <= upper <= 1):
        raise ValueError(f"need 0 <= lower <= upper <= 1, not lower={lower}, upper={upper}")
    y = _one_hot(outputs, targets)
    p = F.softmax(outputs, dim=-1)
    q = torch.where(p > upper, 1.0, torch.where(p < lower, 0.0, p))
    reward = kernels.rewarded(outputs.sign() if sign_only else outputs, y - q)
    return _reduced(reward, reduction, _positions(outputs))


@torch.no_grad()
def correct_classification(
    outputs: Tensor, targets: Tensor, reduction: Reduction = "mean"
) -> Tensor:
    """``r_y = sign(o_y)`` where the prediction (argmax) is right; 0 for all other outputs.

    Args and errors as :func:`sigmoid`.

    Returns:
        The reward, of the shape and dtype of the outputs.
    """
    y = _one_hot(outputs, targets)
    right = outputs.argmax(dim=-1) == targets
    return _reduced(y * outputs.sign() * right[..., None], reduction, _positions(outputs))


@torch.no_grad()
def misclassification(outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """``r_c = -sign(o_c)`` for every class c with o_c > o_y; 0 for all other outputs.

    Not the gradient of any loss. Args and errors as :func:`sigmoid`.

    Returns:
        The reward, of the shape and dtype of the outputs.
    """
    true = outputs.gather(-1, _labels(outputs, targets))
    return _reduced(-outputs.sign() * (outputs > true), reduction, _positions(outputs))


def maximize_neuron(outputs: Tensor, neuron: int, reduction: Reduction = "mean") -> Tensor:
    """``r_n = sign(o_n) (1 - sigmoid(o_n))`` for one output n; 0 for all others.

    Args:
        outputs: (batch, ..., outputs).
        neuron: index n in [0, outputs).
        reduction: "mean" or "sum" over the positions.

    Returns:
        The reward, of the shape and dtype of the outputs.

    Raises:
        ValueError: wrong shape, index or reduction.
    """
    return _single_neuron(outputs, neuron, 1.0, reduction)


def minimize_neuron(outputs: Tensor, neuron: int, reduction: Reduction = "mean") -> Tensor:
    """``r_n = -sign(o_n) (1 - sigmoid(o_n))``; otherwise as :func:`maximize_neuron`."""
    return _single_neuron(outputs, neuron, -1.0, reduction)


@torch.no_grad()
def _single_neuron(outputs: Tensor, neuron: int, sign: float, reduction: Reduction) -> Tensor:
    _check(outputs)
    if isinstance(neuron, bool) or not hasattr(neuron, "__index__"):
        raise ValueError(f"neuron must be an integer, not {neuron!r}")
    if outputs.dim() < 2:
        raise ValueError(
            f"outputs must have shape (batch, ..., outputs), not {list(outputs.shape)}"
        )
    if not 0 <= neuron < outputs.shape[-1]:
        raise ValueError(f"neuron must lie in [0, {outputs.shape[-1] - 1}], not {neuron}")
    reward = torch.zeros_like(outputs)
    o = outputs[..., neuron]
    reward[..., neuron] = sign * o.sign() * (1 - torch.sigmoid(o))
    return _reduced(reward, reduction, _positions(outputs))


@torch.no_grad()
def cubic_regression(outputs: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """``r = sign(o) (y - o)^3``, the reward of the authors' regression experiment.

    Args:
        outputs: predictions of any shape, batch first.
        targets: y, same shape.
        reduction: "mean" over the batch, which is dimension 0, or "sum".

    Returns:
        The reward, of the shape and dtype of the outputs.

    Raises:
        ValueError: wrong shape or reduction.
    """
    y = _same_shape(outputs, targets)
    return _reduced(outputs.sign() * (y - outputs) ** 3, reduction, len(outputs))


def from_loss(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the reward ``r = -o dL/do`` of a differentiable loss, the one of Theorem 1.

    Args:
        loss: ``loss(outputs, *args, **kwargs)``, a scalar. Its own reduction decides the scale: a
            loss that averages over the batch gives the reward for "mean".

    Returns:
        A function of the same arguments that returns the reward, of the outputs' shape. It raises
        ValueError where the loss is no scalar tensor, or does not depend on the outputs.

    Example:
        >>> import torch, lfp_core as lfp
        >>> logits, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
        >>> reward = lfp.rewards.from_loss(torch.nn.functional.cross_entropy)(logits, targets)
        >>> torch.allclose(reward, lfp.rewards.softmax(logits, targets))
        True
    """

    def reward(outputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        _check(outputs)
        o = outputs.detach().requires_grad_()
        # Also inside `lfp.feedback`, the loss is differentiated as it is.
        with torch.enable_grad(), _torch.DisableTorchFunction():
            found = loss(o, *args, **kwargs)
            if not isinstance(found, Tensor):
                raise ValueError(f"loss must return a tensor, not {type(found).__name__}")
            if found.numel() != 1:
                raise ValueError(
                    f"loss must return a scalar, such as a mean, not shape {list(found.shape)}"
                )
            gradient = None
            if found.requires_grad:
                (gradient,) = torch.autograd.grad(found, o, allow_unused=True)
            if gradient is None:
                raise ValueError(
                    "loss must depend on the outputs that it is given, by operations with a "
                    "derivative, and not under torch.inference_mode(); this one does not"
                )
            return kernels.rewarded(o.detach(), -gradient)

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

    Returns:
        The reward (T, batch, classes).

    Raises:
        ValueError: wrong shapes, dtype, label range or reduction.
    """
    _check(spikes, targets)
    if spikes.dim() != 3:
        raise ValueError(f"spikes must have shape (T, batch, classes), not {list(spikes.shape)}")
    # Float16 and bfloat16 cannot count beyond 2048 and 256.
    exact = spikes.dtype if spikes.dtype == torch.float64 else torch.float32
    steps, counts = len(spikes), spikes.sum(dim=0, dtype=exact)
    y = _one_hot(counts, targets)
    grow = 1 - torch.sigmoid(counts - steps // 2)
    shrink = 1 - torch.sigmoid((steps - counts) - steps // 2)
    reward = torch.where(y == 1, grow, -spikes * shrink)
    return _reduced(reward, reduction, spikes.shape[1]).to(spikes.dtype)
