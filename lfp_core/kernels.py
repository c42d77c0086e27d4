"""The elementwise formulas of :mod:`lfp_core.slopes`: torch operations, and one kernel on a GPU.

As torch operations a formula is two to five kernels, each of which a GPU has to be given, and each
of which reads and writes all of its memory. torch's own compiler of elementwise formulas makes one
kernel of it, for any dtype, strides and broadcasting. On an H100 it is given to the device in the
time of one torch operation (11 us there; a Triton kernel takes 18 to 32), and takes the time of one
multiplication. It is not part of graphs that ``torch.compile`` traces, which fuses the operations.
"""

from collections.abc import Callable
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn import Parameter

from lfp_core import _torch

#: Other classes of tensors, such as those that only pretend to be on a device, take operations.
PLAIN = (Tensor, Parameter)


class Formula:
    """An elementwise function of two tensors and of numbers.

    Args:
        operations: the function, as torch operations.
        code: the same as a C++ template ``T name(T a, T b, T number...)``.
        numbers: the names of the numbers, in the order of both.
    """

    def __init__(self, operations: Callable[..., Tensor], code: str, *numbers: str) -> None:
        self.operations, self.code, self.numbers = operations, code, numbers

    @cached_property
    def kernel(self) -> Callable[..., Tensor]:
        """The function for CUDA, which compiles itself for every dtype that it meets."""
        return _torch.elementwise_kernel(self.code, **dict.fromkeys(self.numbers, 0.0))

    def __call__(self, a: Tensor, b: Tensor, *numbers: float) -> Tensor:
        """Return the values as a new tensor, of the shape that a and b have together."""
        if (
            a.is_cuda
            and not b.is_sparse
            and type(a) in PLAIN
            and type(b) in PLAIN
            and a.dtype == b.dtype
            and a.dtype.is_floating_point
            and not _torch.is_compiling()
        ):
            return self.kernel(a, b, **dict(zip(self.numbers, numbers, strict=True)))
        return self.operations(a, b, *numbers)


def scalar(value: float, like: Tensor) -> Tensor:
    """Return a number as a tensor (scalar) that goes with another one.

    A positive one is not rounded to 0, whatever the dtype is.
    """
    if type(like) not in PLAIN:
        return like.new_full((), _representable(value, like.dtype))
    return _kept(value, like.dtype, like.device)


@lru_cache(maxsize=64)
def _kept(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a plain tensor, which small networks would spend much of their time to make."""
    with torch.inference_mode(False):  # or it could be of no use in training
        return torch.full((), _representable(value, dtype), dtype=dtype, device=device)


def _representable(value: float, dtype: torch.dtype) -> float:
    info = torch.finfo(dtype)
    return max(value, info.smallest_normal * info.eps) if value > 0 else value


def _quotient(a: Tensor, z: Tensor, epsilon: float, factor: float) -> Tensor:
    if z.is_complex():
        return a / (z + epsilon * torch.where(z == 0, 1.0, z.sgn())) * factor
    # Half the memory traffic of where(z < 0, z - eps, z + eps). It differs at z = -0.0 alone, where
    # all contributions are 0: then no weight is credited anyway.
    if _torch.is_compiling():  # which fuses this, and refuses `out` that is a permuted view
        stabiliser = torch.full((), epsilon, dtype=z.dtype, device=z.device)
        return a / (torch.copysign(stabiliser, z) + z) * factor
    denominator = torch.copysign(scalar(epsilon, z), z)
    denominator += z
    if factor == 1.0:
        return torch.div(a, denominator, out=denominator)
    return torch.addcdiv(scalar(0.0, z), a, denominator, value=factor)


def _relu_slope(a: Tensor, g: Tensor, epsilon: float) -> Tensor:
    # A number would be made a tensor at every call, in more time than the sum takes.
    denominator = a + (epsilon if _torch.is_compiling() else scalar(epsilon, a))
    return torch.div(a, denominator, out=denominator).mul_(g)


def _share(z: Tensor, g: Tensor, epsilon: float, factor: float) -> Tensor:
    if z.is_complex():
        size = z.abs()
        return g * (size / (size + epsilon) * factor)
    # As 1 / (1 + eps / |z|): for the -inf of a mask that is 1, and not inf / inf.
    if _torch.is_compiling():
        return g / (epsilon / z.abs() + 1.0) * factor
    shared = z.abs()
    torch.div(scalar(epsilon, z), shared, out=shared).add_(1.0)
    torch.div(g, shared, out=shared)
    return shared if factor == 1.0 else shared.mul_(factor)


def _scaled(weight: Tensor, g: Tensor) -> Tensor:
    if g.is_sparse:  # of an embedding's rows that were taken
        taken = _scaled(weight[tuple(g._indices())], g._values())
        return torch.sparse_coo_tensor(g._indices(), taken, g.shape, check_invariants=False)
    if weight.is_complex():  # which is two real ones
        return torch.complex(weight.real.abs() * g.real, weight.imag.abs() * g.imag)
    return weight.abs().mul_(g)


def _rewarded(output: Tensor, push: Tensor) -> Tensor:
    return torch.where(push == 0, 0.0, output * push)


#: ``a / (z + eps s(z)) factor`` with s(0) = +1.
quotient = Formula(
    _quotient,
    """template <typename T> T lfp_quotient(T a, T z, T epsilon, T factor) {
        return a / (z < T(0) ? z - epsilon : z + epsilon) * factor;
    }""",
    "epsilon",
    "factor",
)
#: ``a / (a + eps) g`` for a >= 0.
relu_slope = Formula(
    _relu_slope,
    """template <typename T> T lfp_relu_slope(T a, T g, T epsilon) {
        return a / (a + epsilon) * g;
    }""",
    "epsilon",
)
#: ``z / (z + eps s(z)) g factor``, 0 at z = 0 and g at infinity.
share = Formula(
    _share,
    """template <typename T> T lfp_share(T z, T g, T epsilon, T factor) {
        return (z == T(0) ? z : g / (T(1) + epsilon / (z < T(0) ? -z : z)) * factor);
    }""",
    "epsilon",
    "factor",
)
#: ``|w| g``.
scaled = Formula(
    _scaled, "template <typename T> T lfp_scaled(T w, T g) { return (w < T(0) ? -w : w) * g; }"
)
#: ``o p``, the reward of an output for the push on it: 0 where that is 0, also where a mask has
#: added -inf to a logit, of which the probability is 0. The limit of ``o softmax(o)`` is 0.
rewarded = Formula(
    _rewarded,
    "template <typename T> T lfp_rewarded(T o, T p) { return (p == T(0) ? T(0) : o * p); }",
)
