"""Elementwise functions f: their slope at 0, and whether f(0) is 0.

The secant slope ``f(z) / z`` of the activation rule is 0/0 at z = 0 under LFP-0. Where f(0) = 0 its
limit there is f'(0), which these tables hold, as torch has it, as a function of f's own options.
Functions with f(0) != 0 change their sign at another place than their input does, or nowhere, so
that f(z) / z grows without bound near 0. What becomes of them is the option `units` of
:class:`lfp_core.feedback`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from lfp_core import _torch
from lfp_core.calls import Operation
from lfp_core.marks import ACTIVATION, Mark, Role


def heaviside(z: Tensor) -> Tensor:
    """Return 1 where z > 0, else 0, like z; NaN stays NaN.

    Outside of `feedback` no gradient passes through it. In a program of ``torch.export`` it is
    ``torch.heaviside``, through which LFP passes rewards, and of which torch has no gradient.
    """
    # torch.compile takes the first question for a constant, and the second for what it is.
    if has_torch_function_unary(z) or _torch.mode_is_active():
        return handle_torch_function(heaviside, (z,), z)
    if torch.compiler.is_exporting():  # a program has to say that this is a step
        return torch.heaviside(z, z.new_zeros(()))
    if _torch.is_compiling():  # where torch 2.11 loses the derivative of what is in place
        return z.detach().relu().sign()
    return z.detach().relu().sign_()  # a fifth of the time of (z > 0).to(z.dtype) on a CPU


class Heaviside(torch.nn.Module):
    """Step activation: 1 for z > 0, else 0, on a tensor of any shape."""

    def forward(self, z: Tensor) -> Tensor:
        """Apply :func:`heaviside`."""
        return heaviside(z)


def named(*names: str) -> set[Operation]:
    """Return the operations of these names in torch, as functions, methods and in place."""
    spellings = [spelling for name in names for spelling in (name, name + "_")]
    homes = (torch, torch.special, Tensor, _torch.TENSOR_BASE, _torch.NN, F)
    found = {getattr(home, s, None) for home in homes for s in spellings}
    found |= {getattr(torch.special, "special_" + s, None) for s in spellings}
    # ``torch.cpu`` and ``torch.cuda`` are modules, and methods of a tensor.
    return {operation for operation in found if callable(operation)}


def constant(slope: float) -> Callable[..., float]:
    """Return a function of an activation's options that ignores them."""
    return lambda *args, **kwargs: slope


def _clamp_at_its_bound() -> float:
    """Return the derivative that torch gives ``clamp`` at a bound: 1 up to torch 2.11, later 0."""
    with torch.enable_grad():
        z = torch.zeros((), requires_grad=True)
        return float(torch.autograd.grad(z.clamp(min=0), z)[0])


AT_A_BOUND = _clamp_at_its_bound()


def _inside(low: Any = None, high: Any = None, **bounds: Any) -> float:
    """Return the slope of ``clamp`` at 0."""
    low = bounds.get("min", low)
    high = bounds.get("max", high)
    if low == 0 or high == 0:
        return AT_A_BOUND if (low or 0) <= 0 <= (high or 0) else 0.0
    return float((low is None or low < 0) and (high is None or high > 0))


_SELU = 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717

#: Functions with f(0) = 0.
SLOPE_AT_ZERO: dict[Operation, Callable[..., float]] = {
    **dict.fromkeys(
        named(
            *("relu", "relu6", "heaviside", "hardshrink", "softshrink", "tanhshrink"),
            *("sign", "sgn", "round", "floor", "ceil", "trunc", "fix", "sqrt"),
        ),
        constant(0.0),
    ),
    heaviside: constant(0.0),
    **dict.fromkeys(
        named(
            *("tanh", "softsign", "celu", "sin", "sinh", "tan", "asin", "arcsin", "asinh"),
            *("arcsinh", "atan", "arctan", "atanh", "arctanh", "expm1", "log1p", "frac"),
            *("nan_to_num", "positive"),
        ),
        constant(1.0),
    ),
    **dict.fromkeys(named("silu", "gelu", "hardswish"), constant(0.5)),
    **dict.fromkeys(named("mish"), constant(0.6)),
    **dict.fromkeys(named("selu"), constant(_SELU)),
    **dict.fromkeys(named("erf"), constant(2 / math.sqrt(math.pi))),
    **dict.fromkeys(named("erfinv"), constant(math.sqrt(math.pi) / 2)),
    **dict.fromkeys(named("deg2rad"), constant(math.pi / 180)),
    **dict.fromkeys(named("rad2deg"), constant(180 / math.pi)),
    **dict.fromkeys(named("leaky_relu"), lambda negative_slope=0.01, inplace=False: negative_slope),
    **dict.fromkeys(named("elu"), lambda alpha=1.0, inplace=False: alpha),
    **dict.fromkeys(
        named("hardtanh"),
        lambda min_val=-1.0, max_val=1.0, inplace=False: float(min_val < 0 < max_val),
    ),
    **dict.fromkeys(named("clamp", "clip"), _inside),
    **dict.fromkeys(named("clamp_min"), _inside),
    **dict.fromkeys(named("clamp_max"), lambda max: _inside(None, max)),
    **dict.fromkeys(
        named("threshold"), lambda threshold, value, inplace=False: float(threshold < 0)
    ),
}
#: Functions with f(0) != 0, with f'(0), or 0 where that is infinite.
OFFSET: dict[Operation, Callable[..., float]] = {
    **dict.fromkeys(named("sigmoid", "expit"), constant(0.25)),
    **dict.fromkeys(named("hardsigmoid"), constant(1 / 6)),
    **dict.fromkeys(named("softplus", "logsigmoid"), constant(0.5)),
    **dict.fromkeys(named("exp"), constant(1.0)),
    **dict.fromkeys(named("ndtr"), constant(1 / math.sqrt(2 * math.pi))),
    **dict.fromkeys(named("exp2"), constant(math.log(2))),
    **dict.fromkeys(named("erfc"), constant(-2 / math.sqrt(math.pi))),
    **dict.fromkeys(named("acos", "arccos"), constant(-1.0)),
    **dict.fromkeys(
        named(
            *("cos", "cosh", "acosh", "arccosh", "sinc", "i0", "log", "log2", "log10", "logit"),
            *("rsqrt", "reciprocal", "lgamma", "gammaln", "digamma", "psi", "polygamma"),
        ),
        constant(0.0),
    ),
}
#: Functions of which f(0) is no number that a bias could be.
POLES = named(
    *("log", "log2", "log10", "logit", "rsqrt", "reciprocal"),
    *("lgamma", "gammaln", "digamma", "psi"),
)
SIGMOIDS = named("sigmoid", "hardsigmoid", "expit", "ndtr")
ODD = named("tanh", "erf", "softsign")  # which make a gate when 1 is added
RELU = named("relu")
#: Functions of which f(0) = 0 although they jump there, or have an infinite slope.
STEPS = named("heaviside", "sign", "sgn", "sqrt") | {heaviside}
FLOORED = named("floor_divide") | {Tensor.__floordiv__, Tensor.__rfloordiv__}  # quotients
LOGARITHMS_OF_SUMS = named("logaddexp", "logaddexp2")
#: Functions of one activation and constants, of which either may come first; the slope at 0 is 0.
OF_SEVERAL = (
    named(
        *("maximum", "minimum", "fmax", "fmin", "fmod", "remainder", "atan2", "arctan2"),
        *("copysign", "xlogy", "xlog1py"),
    )
    | LOGARITHMS_OF_SUMS
    | FLOORED
    | {Tensor.__rpow__}
)
#: Rounding to a grid, with a straight-through derivative.
QUANTISATION = named(
    *("fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine"),
    "fused_moving_avg_obs_fake_quant",
)
#: Functions whose slope at 0 needs no derivative to be taken, which some do not have.
KNOWN_AT_ZERO = STEPS | QUANTISATION | FLOORED


class Unit(NamedTuple):
    """What the activation rule has to know of a function.

    Attributes:
        slope_at_zero: f'(0) as a function of the function's options.
        mark: of its output.
        offset: whether f(0) != 0.
        pole: whether f(0) is no finite number.
        bounded: whether the secant slope f(z) / z is bounded near 0.
        relu: whether it is ReLU, whose slope its output tells.
    """

    slope_at_zero: Callable[..., float]
    mark: Mark = ACTIVATION
    offset: bool = False
    pole: bool = False
    bounded: bool = True
    relu: bool = False

    def with_role(self, role: Role) -> "Unit":
        """Return the unit whose output has another role."""
        return self if role == self.mark.role else self._replace(mark=self.mark._replace(role=role))


EXP = named("exp")  # which makes the reciprocal of a gate when 1 is added
#: What makes a softmax of values less their largest, and what is the inverse of the first.
EXPONENTIALS = EXP | named("exp2")
LOG = named("log")
#: What is no number for some z, with a derivative there, so that a model may mask it afterwards.
PARTIAL = LOG | named("log2", "log10", "log1p", "logit", "atanh", "arctanh")
RELU6 = named("relu6")
CLAMP_MAX = named("clamp_max")
#: What makes a gate of z + 3, at once or one side after the other.
CLIPS = RELU6 | RELU | CLAMP_MAX | named("hardtanh", "clamp", "clip", "clamp_min")


def bounds(operation: Operation, low: Any = None, high: Any = None, *_: Any, **words: Any) -> Any:
    """Return the lowest and the highest value of one of CLIPS with its options; None for none."""
    if operation in RELU6:
        return 0, 6
    if operation in RELU:
        return 0, None
    if operation in CLAMP_MAX:
        return None, words.get("max", low)
    low = words.get("min", words.get("min_val", low))
    return low, words.get("max", words.get("max_val", high))


#: The role of what a function makes, if it has one.
ROLES: dict[Operation, Role] = {
    **dict.fromkeys(SIGMOIDS, "gate"),
    **dict.fromkeys(ODD, "odd"),
    **dict.fromkeys(EXP, "exp"),
}
#: All functions that the activation rule is for, by the operation.
UNITS: dict[Operation, Unit] = {
    operation: Unit(
        slope,
        ACTIVATION._replace(role=ROLES.get(operation, "")),
        offset=operation in OFFSET,
        pole=operation in POLES,
        bounded=operation not in OFFSET and operation not in STEPS,
        relu=operation in RELU,
    )
    for operation, slope in (SLOPE_AT_ZERO | OFFSET).items()
}
#: Functions of several tensors, roots, reciprocals and the like.
UNKNOWN = Unit(constant(0.0), bounded=False)
