"""Rules of layers: the input and the parameters get the reward by contribution."""

from inspect import signature
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from lfp_core import functions, roles
from lfp_core.calls import (
    HIDDEN,
    Args,
    Call,
    Context,
    Kwargs,
    Operation,
    Rule,
    key,
    known,
)
from lfp_core.marks import (
    ACTIVATION,
    POWERS,
    as_weight,
    mark_of,
    marked,
    substitute,
    tensors,
    used,
)
from lfp_core.products import product
from lfp_core.routes import route
from lfp_core.slopes import linear_layer, scaled_weight

NORMALISATIONS = functions.named(
    "batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm"
)
#: What sums up nothing, unless it has weights.
ROOT_MEAN_SQUARES = functions.named("rms_norm")


def linear(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run a layer: its first argument is the input, and all its other tensors are parameters.

    The output owes the factor of the epsilon rule, and the feedback of each parameter is multiplied
    by its magnitude.

    Returns:
        The output of the operation.
    """
    x, *parameters = args
    mark = known(context, x)
    if mark is not None and mark.hidden:
        return context.without_rule(Call(context, operation, args, kwargs), HIDDEN)
    ordinary = not context.knows_data() if mark is None else mark.kind != "weight"
    powers = mark is not None and mark.role in POWERS and operation not in NORMALISATIONS
    if powers or (ordinary and (mark is None or mark.kind == "data")):
        ordinary = any(mark_of(t) is not None for t in tensors((*parameters, *kwargs.values())))
    if not ordinary:
        call = Call(context, operation, args, kwargs)
        # A weighted mean of squares; or else what is made of constants and data or weights alone.
        return call.keep(role=roles.of_total(mark)) if powers else call.run(call.kind())
    owes = mark is not None and (mark.debts != ACTIVATION.debts or mark.pending is not None)
    becomes = context.owing()
    if mark is not None and mark.role and operation not in NORMALISATIONS:
        constant = all(mark_of(t) is None for t in tensors((*parameters, *kwargs.values())))
        becomes = becomes._replace(role=roles.of_layer(mark.role, False, constant))
    if operation is F.linear and not kwargs and not owes:
        output = linear_layer(x, *parameters)
        if output is not None:
            return marked(output, becomes)
    scaled = []
    for parameter in parameters:
        weight = parameter
        if type(parameter) is Parameter:
            weight = scaled_weight(parameter) if parameter.requires_grad else parameter
        elif isinstance(parameter, Tensor):
            made = mark_of(parameter)
            if made is not None and made.kind in ("activation", "data"):
                return _generated_layer(context, operation, args, kwargs)
            weight = as_weight(parameter, made)
        scaled.append(weight)
    if kwargs:
        of_options = [mark_of(tensor) for tensor in tensors(kwargs.values())]
        if any(made is not None and made.kind in ("activation", "data") for made in of_options):
            return _generated_layer(context, operation, args, kwargs)
        kwargs = {
            name: substitute(lambda t: as_weight(t, mark_of(t)), option)
            for name, option in kwargs.items()
        }
    return marked(operation(used(x, mark), *scaled, **kwargs), becomes, frozen=True)


def _generated_layer(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Run a layer whose weights are activations: a product of two, plus a bias."""
    call = Call(context, operation, args, kwargs)
    bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
    factors = [factor for factor, _ in call.active if factor is not bias]
    if any(mark and mark.assumed for mark in call.marks) or operation in NORMALISATIONS:
        return context.without_rule(call, " with weights that are activations")
    n = max(len(factors), 1)
    becomes = ACTIVATION._replace(epsilon=context.stabiliser() / n)
    return call.run(becomes, dict.fromkeys(map(key, factors), 1 / n))


def lookup(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
    """Take rows of a table, which are the weights of a layer on one-hot vectors."""
    options = dict(kwargs)
    table, *rest = args or (options.pop("weight"), options.pop("indices"))
    mark = mark_of(table)
    indices, *others = tensors((*rest, *options.values()))
    if any(other.is_floating_point() for other in others):  # the factors of weighted rows
        return product(context, operation, args, kwargs)
    if mark is not None and mark.kind != "weight" and not mark.leaf:
        return route(context, operation, args, kwargs)
    of_indices = known(context, indices)
    constant = context.knows_data() if of_indices is None else of_indices.kind == "weight"
    if constant or mark is None:  # the positions 0, 1, 2, ..., or a table that is constant
        call = Call(context, operation, args, kwargs)
        return call.run(call.kind())
    output = operation(as_weight(table, mark), *rest, **options)
    return marked(output, context.owing(), frozen=True)


def normalisation(composed: Operation) -> Rule:
    """Return the rule of a fused normalisation, given what it consists of.

    With normalisation="gradient" it is a layer, whose backward pass torch has. With "identity" the
    operations run one by one, as their statistics are to be constants. A flag for cuDNN, which some
    have as their last argument, decides nothing then.
    """
    count = len(signature(composed).parameters)

    def rule(context: Context, operation: Operation, args: Args, kwargs: Kwargs) -> Any:
        if context.normalisation == "gradient":
            output = linear(context, operation, args, kwargs)
            if operation in ROOT_MEAN_SQUARES and not tensors((*args[1:], *kwargs.values())):
                mark = mark_of(output)  # nothing is summed that would owe epsilon
                return output if mark is None else marked(output, mark._replace(epsilon=0.0), True)
            return output
        names = ("cudnn_enabled", "cudnn_enable")
        with context:
            return composed(*args[:count], **{k: v for k, v in kwargs.items() if k not in names})

    return rule
