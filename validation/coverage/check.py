"""One model against torch itself: the same forward pass, feedback that arrives, and Theorem 1."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from validation.compare import relative_error
from validation.coverage.records import Record, Verdict

SEED = 0
#: Relative error of the forward pass that is rounding, and of Theorem 1, by the outputs' dtype.
FORWARD = {torch.float64: 1e-10, torch.float32: 1e-4}
THEOREM = {torch.float64: 1e-8, torch.float32: 1e-3}

Figures = dict[str, float | bool | None]


@dataclass(frozen=True)
class Net:
    """A model with what is needed to run it.

    Attributes:
        model: the model, in any mode.
        call: runs the model on its inputs and returns whatever it returns.
        behind: parameters that must get feedback, as they are behind what is examined.
        loss: of the outputs; by default cross-entropy for (batch, classes), else a squared error.
        theorem: whether Theorem 1 has to hold.
    """

    model: nn.Module
    call: Callable[[nn.Module], Any]
    behind: Sequence[nn.Parameter] = ()
    loss: Callable[[Tensor], Tensor] | None = None
    theorem: bool = False


@dataclass(frozen=True)
class Reference:
    """What torch itself makes of a net: outputs, and -|w| dL/dw by parameter."""

    outputs: list[Tensor]
    scaled: dict[Tensor, Tensor] = field(repr=False)


class Fault(Exception):  # noqa: N818  (a finding of the suite, not an error in it)
    """A model does not do what it should."""

    def __init__(self, verdict: Verdict, reason: str, figures: Figures | None = None) -> None:
        super().__init__(reason)
        self.verdict, self.reason, self.figures = verdict, reason, figures or {}


def examine(
    group: str,
    name: str,
    net: Callable[[], Net],
    *,
    training: bool,
    epsilons: Sequence[float],
    variant: str = "",
) -> Record:
    """Build the net, run it with torch alone and with every epsilon, and return what was found."""
    figures: Figures = {}
    verdict, reason = "works", ""
    try:
        made = prepared(net)
        reference = run_plain(made, training)
        for epsilon in epsilons:
            figures |= compare(made, reference, epsilon, training)
    except Fault as fault:
        verdict, reason = fault.verdict, fault.reason
        figures |= fault.figures
    mode = "training" if training else "evaluation"
    strict_json = {key: value if _is_number(value) else None for key, value in figures.items()}
    return Record(group, name, mode, verdict, variant, reason, strict_json)  # type: ignore[arg-type]


def prepared(net: Callable[[], Net]) -> Net:
    """Build a net; no parameter is exactly 0, as LFP never moves one that is."""
    try:
        with seeded():
            made = net()
            no_zeros(made.model)
    except Exception as error:
        raise Fault("not counted", f"cannot be built: {one_line(error)}") from error
    return made


def no_zeros(model: nn.Module) -> None:
    """Give parameters that are all 0 normal values with a standard deviation of 0.02.

    Torchvision's vision transformers, for one, start with a head of zeros, behind which nothing
    gets any feedback (or gradient). Biases of 0 would get none either, as |w| is 0.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.normal_(std=0.02)


def run_plain(net: Net, training: bool) -> Reference:
    """Run forward and backward with torch alone; what cannot do that is not counted."""
    model = net.model.train(training)
    try:
        with seeded(), kept_buffers(model):
            returned = net.call(model)
            outputs = main_output(returned)
            loss = loss_of(net)(outputs)
            parameters = [p for p in model.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            kept = [tensor.detach().clone() for tensor in floating(returned)]
    except Exception as error:
        raise Fault("not counted", f"torch itself: {one_line(error)}") from error
    scaled: dict[Tensor, Tensor] = {}
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # In place, as the largest models have gigabytes of gradients.
            scaled[parameter] = (
                torch.zeros_like(parameter)
                if gradient is None
                else gradient.mul_(-1.0 * parameter.abs())
            )
    if not all(map(is_finite, (*kept[:1], *scaled.values()))):
        raise Fault("not counted", "torch's own outputs or gradients are not finite")
    return Reference(kept, scaled)


def compare(net: Net, reference: Reference, epsilon: float, training: bool) -> Figures:
    """Run the net with the engine and compare it with torch alone.

    Returns:
        How far values and feedback of the engine are from those of torch alone.

    Raises:
        Fault: it is refused, fails or differs.
    """
    model = net.model.train(training)
    model.zero_grad(set_to_none=True)
    reward_of = lfp.rewards.from_loss(loss_of(net))
    try:
        with seeded(), kept_buffers(model):
            with lfp.feedback(epsilon):
                returned = net.call(model)
            figures = _forward(floating(returned), reference.outputs)
            outputs = main_output(returned)
            lfp.backward(outputs, reward_of(outputs))
    except lfp.UnsupportedOperation as refusal:
        raise Fault("refused", one_line(refusal, named=False)) from refusal
    except Fault:
        raise
    except Exception as error:
        raise Fault("error", one_line(error)) from error
    feedback = {
        p: torch.zeros_like(p) if p.grad is None else p.grad.neg_() for p in reference.scaled
    }
    figures |= _feedback(net, feedback, reference.scaled, epsilon)
    if net.theorem and epsilon == 0:
        figures |= _theorem(feedback, reference.scaled)
    model.zero_grad(set_to_none=True)
    return figures


def _forward(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Figures:
    """Compare everything that the model has returned."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        raise Fault("wrong", "the outputs have other shapes than torch's")
    error = max(
        (_distance(one.detach(), other) for one, other in zip(found, expected, strict=True))
    )
    figures: Figures = {"forward_equal": error == 0, "forward_error": error}
    if not error <= FORWARD.get(expected[0].dtype, 1e-2):
        raise Fault("wrong", f"the outputs differ from torch's by {error:.1e}", figures)
    return figures


def _distance(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference in comparison with the largest value; NaN equals NaN."""
    same = found.eq(expected) | (found.isnan() & expected.isnan())
    if bool(same.all()):
        return 0.0
    difference = (found - expected).masked_fill(same, 0).abs().max()
    scale = expected.nan_to_num(posinf=0.0, neginf=0.0).abs().max()
    return float(difference / scale)


def _feedback(
    net: Net, feedback: Mapping[Tensor, Tensor], scaled: Mapping[Tensor, Tensor], epsilon: float
) -> Figures:
    """Measure the feedback beside |w| dL/dw."""
    size, gradient = norm(feedback.values()), norm(scaled.values())
    figures: Figures = {
        "tensors": len(feedback),
        "without_feedback": sum(not bool(value.any()) for value in feedback.values()),
        "without_gradient": sum(not bool(value.any()) for value in scaled.values()),
        "feedback_norm": size,
        "gradient_norm": gradient,
        "ratio": size / gradient if gradient else None,
    }
    at = f"at epsilon {epsilon:g}"
    if not isfinite(size):
        bad = sum(not is_finite(value) for value in feedback.values())
        raise Fault("wrong", f"the feedback of {bad} tensors is not finite {at}", figures)
    for parameter in net.behind:
        if scaled[parameter].any() and not feedback[parameter].any():
            raise Fault("wrong", f"no feedback reaches the layer behind {at}", figures)
    if gradient and not size:
        raise Fault("wrong", f"no parameter gets any feedback {at}", figures)
    return figures


def _theorem(feedback: Mapping[Tensor, Tensor], scaled: Mapping[Tensor, Tensor]) -> Figures:
    """Compare the feedback with -|w| dL/dw."""
    error = relative_error(feedback, scaled)
    figures: Figures = {"theorem_error": error}
    tolerance = THEOREM[next(iter(scaled)).dtype]
    if not error <= tolerance:
        raise Fault("wrong", f"Theorem 1 is violated by {error:.1e}", figures)
    return figures


def loss_of(net: Net) -> Callable[[Tensor], Tensor]:
    """Return the loss that the net's rewards are made of."""
    return net.loss or default_loss


def default_loss(outputs: Tensor) -> Tensor:
    """Return cross-entropy for logits (batch, classes), else the distance from fixed numbers."""
    if outputs.dim() == 2 and outputs.shape[1] > 1:
        return F.cross_entropy(outputs, torch.arange(len(outputs)) % outputs.shape[1])
    generator = torch.Generator().manual_seed(SEED)
    targets = torch.randn(outputs.shape, generator=generator).to(outputs.dtype)
    return F.mse_loss(outputs, targets)


def main_output(returned: Any) -> Tensor:
    """Return the tensor among a model's outputs that a user would train on."""
    if isinstance(returned, Mapping):
        for key in ("logits", "out", "prediction_logits", "last_hidden_state"):
            if isinstance(returned.get(key), Tensor):
                return returned[key]
    candidates = [tensor for tensor in floating(returned) if tensor.requires_grad]
    if not candidates:
        raise ValueError("the model returns nothing that can be trained")
    return candidates[0]


def floating(returned: Any) -> list[Tensor]:
    """Return all floating-point tensors among a model's outputs."""
    if isinstance(returned, Tensor):
        return [returned] if returned.is_floating_point() else []
    if isinstance(returned, Mapping):
        returned = returned.values()
    elif not isinstance(returned, (list, tuple)):
        return []
    return [tensor for part in returned for tensor in floating(part)]


def norm(tensors: Any) -> float:
    """Return the 2-norm of all of them together, in float64 so that it does not overflow."""
    return float(sum(float(tensor.norm(dtype=torch.float64)) ** 2 for tensor in tensors)) ** 0.5


def is_finite(tensor: Tensor) -> bool:
    """Return whether all of its values are."""
    return bool(tensor.isfinite().all())


def _is_number(value: float | bool | None) -> bool:
    """Return whether strict JSON has a way to write the value."""
    return value is not None and isfinite(value)


def one_line(error: BaseException, *, named: bool = True) -> str:
    """Return an error's message in one line of at most 200 letters."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 200 else f"{text[:197]}..."
    return f"{type(error).__name__}: {text}" if named else text


@contextmanager
def seeded() -> Iterator[None]:
    """Let everything random be the same every time, and leave the generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            random.seed(SEED)
            np.random.seed(SEED)  # transformers draws masks with it
            with patch.object(torch, "seed", return_value=SEED):  # which Reformer asks for one
                yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what a forward pass does to running statistics, observers and the like."""
    kept = [
        (module, name, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    # The forward pass works on copies, as autograd may keep those and check their versions.
    originals = [module._buffers[name] for module, name, _ in kept]
    for module, name, buffer in kept:
        module._buffers[name] = buffer
    try:
        yield
    finally:
        for (module, name, _), original in zip(kept, originals, strict=True):
            module._buffers[name] = original
