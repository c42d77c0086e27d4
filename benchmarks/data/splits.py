"""Examples and their classes, held whole in memory as tensors."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)  # comparing tensors gives a tensor, not a truth value
class Split:
    """Examples and their classes: `inputs` (N, ...) float32, `targets` (N,) int64."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        """Raise `ValueError` unless there is one target for each input."""
        if self.targets.shape != self.inputs.shape[:1]:
            raise ValueError(
                f"targets: shape {tuple(self.targets.shape)} does not give one class to each of "
                f"{len(self.inputs)} inputs"
            )

    def __len__(self) -> int:
        """Return the number of examples N."""
        return len(self.targets)

    def to(self, device: torch.device | str) -> "Split":
        """Return the split on `device`; tensors already there are shared, not copied."""
        return Split(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits of a classification task with classes 0 ... `classes` - 1.

    `redrawn` says whether the examples are others with another seed.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    redrawn: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input: (features,) or (channels, height, width)."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the data set with all three splits on `device`."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )
