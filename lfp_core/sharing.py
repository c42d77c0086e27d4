"""The rules of LFP: how the reward of an operation's output is shared among its operands.

A rule is a function ``rule(context, operation, args, kwargs)`` that runs the operation once, so
that autograd will carry rewards through it. In terms of G, where a reward is ``R = a G``, the rules
are few (:mod:`lfp_core.slopes`):

============ ================================================ ====================================
rule         operations                                       reward
============ ================================================ ====================================
activation   ReLU, SiLU, ..., Heaviside, exp, clamp           passes unchanged from f(z) to z
linear       Linear, convolution, normalisation               epsilon rule, also to the parameters
lookup       Embedding                                        epsilon rule, to the rows
total        addition, mean, average pooling, index_add       epsilon rule
product      ``*``, ``@``, einsum, Bilinear                   epsilon rule; even among activations
quotient     ``/``                                            as a product with the reciprocal
power        ``x ** n``, square, abs                          passes unchanged; chain rule over n
moment       var, std, norm; distance: cdist, hypot           the same, of degree 2 or 1
rescale      dropout, negation, PReLU, Fourier transforms     passes unchanged from c z to z
route        reshape, indexing, concatenation, max-pooling    goes where the value came from
write        assignment to slices, ``copy_``, ``scatter_``    goes where the value came from
expansion    softmax, log_softmax, logsumexp                  chain rule: linearised at x
============ ================================================ ====================================

The rules are functions of :mod:`~lfp_core.routes`, :mod:`~lfp_core.elementwise`,
:mod:`~lfp_core.sums`, :mod:`~lfp_core.products` and :mod:`~lfp_core.layers`, all of which can be
imported from here. Which operation follows which rule stands in :mod:`lfp_core.operations`.

The output z of an epsilon rule owes the factor ``z / (z + eps s(z))``
(:class:`lfp_core.marks.Mark`): an activation folds it into its slope, a route passes it on,
anything else applies it. A bias that is added to an output belongs to the layer, so that
``x @ W + b`` owes one factor, as ``F.linear`` does.
"""

from lfp_core.elementwise import (
    ABSOLUTE,
    FIXED_POWERS,
    SOFTMAX,
    activation,
    distance,
    expansion,
    moment,
    of_several,
    power,
    rescale,
)
from lfp_core.layers import linear, lookup, normalisation
from lfp_core.products import added_product, product, product_of_all, quotient, solve
from lfp_core.routes import (
    complex_parts,
    constant,
    convert,
    pool,
    route,
    route_like,
    unflatten,
    write,
)
from lfp_core.sums import alpha_dropout, linear_in, reduced_into, resize, total, write_at

__all__ = [
    "ABSOLUTE",
    "FIXED_POWERS",
    "SOFTMAX",
    "activation",
    "added_product",
    "alpha_dropout",
    "complex_parts",
    "constant",
    "convert",
    "distance",
    "expansion",
    "linear",
    "linear_in",
    "lookup",
    "moment",
    "normalisation",
    "of_several",
    "pool",
    "power",
    "product",
    "product_of_all",
    "quotient",
    "reduced_into",
    "rescale",
    "resize",
    "route",
    "route_like",
    "solve",
    "total",
    "unflatten",
    "write",
    "write_at",
]
