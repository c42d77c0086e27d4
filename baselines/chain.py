"""Networks that are a chain of layers, for methods that give each layer a signal of its own.

A residual connection or an attention would carry the signal of one layer to another, and such
methods do not say what then becomes of it.
"""

from collections.abc import Iterator, Sequence
from typing import TypeGuard, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

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


def is_as_written(module: nn.Module, kind: type[M]) -> TypeGuard[M]:
    """Return whether a module does what torch's class does, so that its fields say all of it.

    A subclass, or a module by itself, may have another forward pass. Hooks are not looked at.

    Args:
        module: any module.
        kind: the class.
    """
    names = ("__call__", "forward", "_conv_forward")
    return isinstance(module, kind) and not any(
        name in vars(module) or getattr(type(module), name, None) is not getattr(kind, name, None)
        for name in names
    )


def is_hooked(module: nn.Module) -> bool:
    """Return whether something is called before or after a module's forward or backward pass."""
    return any(
        (
            module._forward_pre_hooks,
            module._forward_hooks,
            module._backward_pre_hooks,
            module._backward_hooks,
        )
    )


def segments(model: nn.Module) -> list[Segment]:
    """Return the segments of nested Sequentials, in their order.

    Raises:
        ValueError: the model is no chain, a Sequential has hooks, which nothing would call, or a
            module with parameters is none of :data:`LAYERS`.
    """
    parts: list[list[nn.Module]] = [[]]
    layers: list[nn.Module] = []
    for module in _modules(model):
        if any(is_as_written(module, layer) for layer in LAYERS):
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
    if not is_as_written(model, nn.Sequential):
        raise ValueError(
            f"model: {type(model).__name__} is no chain of layers; allowed: nn.Sequential, and "
            "subclasses with its forward pass"
        )
    if is_hooked(model):
        raise ValueError(
            f"model: {type(model).__name__} has hooks, and this method calls its layers one by "
            "one; allowed: hooks of layers"
        )
    for child in model:
        if is_as_written(child, nn.Sequential):
            yield from _modules(child)
        elif next(child.children(), None) is not None:
            raise ValueError(
                f"model: {type(child).__name__} holds other modules, so that it may be no chain of "
                "layers; allowed: nn.Sequential of layers"
            )
        else:
            yield child
