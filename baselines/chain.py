"""Networks that are a chain of layers, for methods that give each layer a signal of its own.

A residual connection or an attention would carry the signal of one layer to another, and such
methods do not say what then becomes of it.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

#: Layers that such methods train.
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Segment:
    """A layer with weights and all that follows until the next one; the first has what is before.

    Attributes:
        layer: the layer with weights.
        modules: all of the segment, in their order.
    """

    def __init__(self, modules: Sequence[nn.Module], layer: nn.Module) -> None:
        self.modules, self.layer = tuple(modules), layer

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the output of the last module for the input of the first."""
        for module in self.modules:
            inputs = module(inputs)
        return inputs

    def after(self) -> tuple[nn.Module, ...]:
        """Return what follows the layer."""
        return self.modules[self.modules.index(self.layer) + 1 :]


def segments(model: nn.Module) -> list[Segment]:
    """Return the segments of nested Sequentials, in their order.

    Raises:
        ValueError: the model is no chain, or a module with parameters is none of :data:`LAYERS`.
    """
    parts: list[list[nn.Module]] = [[]]
    layers: list[nn.Module] = []
    for module in _modules(model):
        if isinstance(module, LAYERS):
            if layers:
                parts.append([])
            layers.append(module)
        elif next(module.parameters(), None) is not None:
            raise ValueError(
                f"model: {type(module).__name__} is no layer that this method is defined for; "
                f"allowed: {', '.join(layer.__name__ for layer in LAYERS)}, and what has no weights"
            )
        parts[-1].append(module)
    if not layers:
        raise ValueError("model: it has no layer with weights")
    return [Segment(part, layer) for part, layer in zip(parts, layers, strict=True)]


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    if not isinstance(model, nn.Sequential):
        raise ValueError(
            f"model: {type(model).__name__} is no chain of layers; allowed: nn.Sequential"
        )
    for child in model:
        if isinstance(child, nn.Sequential):
            yield from _modules(child)
        elif next(child.children(), None) is not None:
            raise ValueError(
                f"model: {type(child).__name__} holds other modules, so that it may be no chain of "
                "layers; allowed: nn.Sequential of layers"
            )
        else:
            yield child
