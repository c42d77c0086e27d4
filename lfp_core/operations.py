"""Which rule each torch operation follows: the table that the context looks them up in.

The table is composed once, here. :func:`rules` shows it, and :func:`register_rule` adds to it and
never replaces anything; what has no entry and is written in Python by torch is unfolded, and
anything else is refused.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lfp_core import _torch, composed, functions, recurrent
from lfp_core.attention import attention
from lfp_core.calls import ASSIGNMENTS, IN_PLACE, OVERWRITES, Operation, Rule, name_of
from lfp_core.composed import composed as composed_of
from lfp_core.functions import named
from lfp_core.sharing import (
    ABSOLUTE,
    FIXED_POWERS,
    SOFTMAX,
    activation,
    added_product,
    alpha_dropout,
    complex_parts,
    constant,
    convert,
    distance,
    expansion,
    linear,
    linear_in,
    lookup,
    moment,
    normalisation,
    of_several,
    pool,
    power,
    product,
    product_of_all,
    quotient,
    reduced_into,
    rescale,
    resize,
    route,
    route_like,
    solve,
    total,
    unflatten,
    write,
    write_at,
)


def getter(*attributes: str) -> set[Operation]:
    """Return the operations that read properties of a tensor, such as ``x.T``."""
    return {getattr(Tensor, attribute).__get__ for attribute in attributes}


def of(rule: Rule, *operations: Iterable[Any]) -> Iterator[tuple[Operation, Rule]]:
    """Yield the entries of one rule."""
    for each in operations:
        yield from dict.fromkeys(each, rule).items()


_NORMS: dict[str, Operation] = {
    "layer_norm": composed.layer_norm,
    "rms_norm": composed.rms_norm,
    "group_norm": composed.group_norm,
    "batch_norm": composed.batch_norm,
    "instance_norm": composed.instance_norm,
}
_POOLS = [f"{kind}{d}d" for kind in ("max_pool", "adaptive_max_pool") for d in (1, 2, 3)] + [
    f"fractional_max_pool{d}d" for d in (2, 3)
]

_rules: dict[Operation, Rule] = dict(
    entry
    for entries in (
        of(activation, set(functions.SLOPE_AT_ZERO), set(functions.OFFSET)),
        of(of_several, functions.OF_SEVERAL, functions.QUANTISATION),
        of(power, set(FIXED_POWERS), ABSOLUTE, named("pow", "float_power") | {Tensor.__pow__}),
        of(moment, named("var", "std", "var_mean", "std_mean", "norm", "frobenius_norm")),
        of(moment, {torch.linalg.vector_norm, torch.linalg.norm, torch.linalg.matrix_norm}),
        of(
            linear,
            named(
                *("linear", "conv1d", "conv2d", "conv3d", "convolution", "conv_tbc"),
                *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
            ),
        ),
        *(of(normalisation(fused), named(name)) for name, fused in _NORMS.items()),
        of(normalisation(composed.weights_first(composed.batch_norm)), {torch.batch_norm}),
        of(normalisation(composed.weights_first(composed.instance_norm)), {torch.instance_norm}),
        of(lookup, {torch.embedding, torch.embedding_bag}),
        of(
            total,
            named(
                *("add", "sub", "subtract", "rsub", "sum", "mean", "nansum", "nanmean"),
                *("avg_pool1d", "avg_pool2d", "avg_pool3d", "cumsum", "trace"),
                *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
                *("index_add", "scatter_add", "fold", "diff", "col2im", "sum_to_size"),
            )
            | {Tensor.__radd__, Tensor.__rsub__},
        ),
        of(
            product,
            named(
                *("mul", "multiply", "matmul", "mm", "bmm", "mv", "einsum", "inner", "tensordot"),
                *("dot", "vdot", "outer", "ger", "kron", "cross", "bilinear", "chain_matmul"),
                *("hspmm", "smm", "spmm", "vecdot"),
            )
            | {Tensor.__rmul__, Tensor.__matmul__, Tensor.__rmatmul__}
            | _torch.GROUPED
            | _torch.ATEN_PRODUCTS
            | {torch.sparse.mm, torch.linalg.matmul, torch.linalg.multi_dot}
            | {torch.linalg.vecdot, torch.linalg.cross},
        ),
        of(linear_in(2, composed.lerp), named("lerp")),
        of(composed_of(composed.ldexp), {torch.ldexp, Tensor.ldexp}),
        of(
            linear_in(1),
            named("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"),
            named("cumulative_trapezoid", "trapezoid", "trapz", "gradient"),
        ),
        of(resize, named("interpolate")),
        of(total, _torch.UPSAMPLE_BY_SUMS),
        of(quotient, named("div", "divide", "true_divide")),
        of(composed_of(composed.reversed_division), {Tensor.__rdiv__}),
        of(
            added_product,
            named("addmm", "addbmm", "baddbmm", "addmv", "addr", "addcmul", "addcdiv"),
            {torch.sparse.addmm},
        ),
        of(
            rescale,
            named(
                *("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "neg"),
                *("negative", "prelu", "rrelu"),
                *("tril", "triu", "stft", "istft", "quantile", "nanquantile"),
            )
            | _torch.ATEN_FOURIER
            | {torch.fft.fft, torch.fft.ifft, torch.fft.rfft, torch.fft.irfft}
            | {torch.fft.fft2, torch.fft.ifft2, torch.fft.rfft2, torch.fft.irfft2}
            | {torch.fft.fftn, torch.fft.ifftn, torch.fft.rfftn, torch.fft.irfftn}
            | {torch.fft.hfft, torch.fft.ihfft},
        ),
        of(
            distance,
            named("pairwise_distance", "cdist", "pdist", "dist", "hypot"),
            named("lp_pool1d", "lp_pool2d", "lp_pool3d"),
        ),
        of(reduced_into, named("scatter_reduce", "index_reduce", "segment_reduce")),
        of(alpha_dropout, named("alpha_dropout", "feature_alpha_dropout")),
        of(product_of_all, named("prod")),
        of(solve, {torch.linalg.solve, torch.linalg.solve_triangular}),
        of(route_like, named("view_as", "reshape_as", "expand_as", "type_as")),
        of(convert, named("to")),
        of(
            route,
            named(
                *("reshape", "view", "flatten", "unflatten", "ravel"),
                *("hstack", "vstack", "dstack", "column_stack", "row_stack", "atleast_1d"),
                *("swapdims", "moveaxis", "tensor_split", "hsplit", "vsplit", "dsplit"),
                *("diagonal", "diag", "diag_embed", "diagflat", "masked_select", "take"),
                *("take_along_dim", "amax", "amin", "aminmax", "max", "min", "sort", "topk"),
                *("kthvalue", "median", "nanmedian", "mode", "cummax", "cummin", "msort"),
                *("squeeze", "unsqueeze", "expand", "broadcast_to", "repeat", "tile"),
                *("repeat_interleave", "broadcast_tensors", "meshgrid", "block_diag", "rot90"),
                *("transpose", "swapaxes", "movedim", "permute", "t", "adjoint", "roll", "flip"),
                *("fliplr", "flipud", "unfold", "cat", "concat", "concatenate", "stack", "chunk"),
                *("split", "split_with_sizes", "unbind", "select", "narrow", "index_select"),
                *("gather", "where", "masked_fill", "index_fill", "pad", "constant_pad_nd"),
                *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "as_strided"),
                *("clone", "contiguous", "float", "double", "half", "bfloat16", "type"),
                *("cpu", "cuda", "as_tensor", "asarray", "cartesian_prod", "combinations"),
                *("resolve_conj", "resolve_neg", "conj", "to_dense", "to_sparse"),
                *("alias_copy", "native_channel_shuffle", "unsafe_chunk", "unsafe_split", "im2col"),
                *("max_unpool1d", "max_unpool2d", "max_unpool3d", "atleast_2d", "atleast_3d"),
                *(p for pool in _POOLS for p in (pool, pool + "_with_indices")),
            )
            | {Tensor.__getitem__, torch.linalg.diagonal, torch.fft.fftshift, torch.fft.ifftshift}
            | _torch.SEQUENCES
            | _torch.ATEN_ROUTES
            | _torch.UPSAMPLE_BY_COPIES
            | getter("T", "mT", "H", "mH")
            | _torch.TRANSPOSES,
        ),
        of(
            complex_parts,
            named("real", "imag", "view_as_real", "view_as_complex", "complex"),
            getter("real", "imag"),
        ),
        of(unflatten, {Tensor.unflatten}),
        of(
            write,
            named(
                *("copy_", "index_copy", "scatter", "masked_scatter", "fill"),
                *("slice_scatter", "select_scatter", "diagonal_scatter", "as_strided_scatter"),
                *("fill_diagonal_", "zero_"),
            )
            | ASSIGNMENTS,
        ),
        of(write_at, named("index_put", "put")),
        of(
            expansion,
            SOFTMAX,
            named("log_softmax", "logsumexp", "logcumsumexp")
            | {torch.special.log_softmax, torch.special.logsumexp},
        ),
        of(constant, named("detach") | getter("data")),
        of(pool, named("max_pool2d")),
        of(attention, {F.scaled_dot_product_attention}),
        of(composed_of(composed.glu), named("glu")),
        of(composed_of(composed.cosine_similarity), named("cosine_similarity")),
        *(of(composed_of(fn), named(name)) for name, fn in recurrent.layers()),
    )
    for entry in entries
)
OVERWRITES.update({operation: operation in IN_PLACE for operation in _rules})
#: Methods written in Python and their rules, by name: torch.compile passes them on as objects that
#: no table finds, and takes a table that was asked for one that it has to have changed.
METHODS = {
    name_of(operation): (operation, rule)
    for operation, rule in _rules.items()
    if _torch.is_method_in_python(operation)
}
#: What torch writes in Python, as functions that show the mode what is in them. A function that
#: chooses another, such as torch.unique, is none of them: what it chooses offers itself as a whole.
UNFOLDED: dict[Operation, Any] = {
    operation: _torch.unfolded(operation)
    for home in (F, torch.functional)
    for name, operation in vars(home).items()
    if _torch.is_python(operation)
    and operation.__globals__ is vars(home)
    and not name.startswith("_")
    and operation not in _rules
}


def rules() -> Mapping[Operation, Rule]:
    """Return the rule of every operation that has one, those that were registered included."""
    return MappingProxyType(_rules)


def register_rule(operation: Operation, rule: Rule) -> None:
    """Let an operation follow a rule from now on, in every context.

    Args:
        operation: a function of torch or a method of ``torch.Tensor``, as the model calls it, or a
            function of your own that offers itself to the active mode
            (``torch.overrides.handle_torch_function``), or an operation of ``torch.library``.
        rule: one of :mod:`lfp_core.sharing`, or a function of the same arguments, ``rule(context,
            operation, args, kwargs)``, that runs the operation (docs/rules.md).

    Raises:
        ValueError: the operation has a rule.
        TypeError: the operation or the rule cannot be called.
    """
    if not callable(operation) or not callable(rule):
        raise TypeError(f"operation and rule must be callable, not {operation!r} and {rule!r}")
    for each in _torch.names_of_library(operation):
        if each in _rules:
            raise ValueError(f"{name_of(each)} has a rule, which registering does not replace")
        _rules[each] = rule
        OVERWRITES[each] = each in IN_PLACE
