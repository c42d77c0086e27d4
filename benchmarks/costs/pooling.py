"""SGD's step with the engine's max-pooling, so that a ratio to it tells what LFP itself costs.

The engine pools in about half of the time of torch's kernels on a CPU, whatever is propagated
(:mod:`lfp_core.pooling`). Gradient descent could do so as well.
"""

from functools import partial

from torch import nn

from lfp_core.pooling import max_pool2d


def poolings(model: nn.Module) -> list[nn.MaxPool2d]:
    """Return the layers of a model that pool by maxima."""
    return [module for module in model.modules() if isinstance(module, nn.MaxPool2d)]


def with_engine_pooling(model: nn.Module) -> nn.Module:
    """Have a model's max-pooling done by the engine, in place.

    Args:
        model: whose :class:`torch.nn.MaxPool2d` return no indices.

    Returns:
        The model, with the values and derivatives that it had.
    """
    for layer in poolings(model):
        pool = partial(
            max_pool2d,
            kernel_size=layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            ceil_mode=layer.ceil_mode,
        )
        setattr(layer, "forward", pool)  # noqa: B010  (mypy takes no assignment to a method)
    return model
