"""What every operation of torch computes and moves."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry


@dataclass
class Ledger(TorchDispatchMode):
    """Context that keeps what every operation of torch computes and moves; views do neither.

    Attributes:
        entries: floating-point operations and bytes of each.
    """

    entries: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare the mode."""
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        returned = [value.alias_info for value in func._schema.returns]
        if any(alias is not None and not alias.is_write for alias in returned):
            return out  # a view
        read, written = _tensors((args, kwargs)), _tensors(out)
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            elements = (sum(t.numel() for t in tensors) for tensors in (read, written))
            flops = float(max(elements))
        else:
            flops = float(count(*args, **kwargs, out_val=out))
        self.entries.append((flops, float(sum(t.nbytes for t in read + written))))
        return out


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]
