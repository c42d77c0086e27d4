"""What a data set has to be, whoever made it: checked once, before anything is trained on it."""

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from benchmarks.data.fetching import DataError
from benchmarks.data.splits import Dataset, Split

PARTS = ("train", "validation", "test")


def check(name: str, dataset: Any) -> None:
    """Raise `DataError` unless this is a :class:`Dataset` that a network can be trained on.

    Raises:
        DataError: a split is not what it has to be; the message names it, what is wrong, and what
            is allowed.
    """
    if not isinstance(dataset, Dataset):
        _refuse(name, f"a {type(dataset).__name__} was loaded", "a benchmarks.data.Dataset")
    if dataset.name != name:
        _refuse(name, f"the data set has the name {dataset.name!r}", f"{name!r}, its own")
    classes = dataset.classes
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        _refuse(name, f"classes are {classes!r}", "a whole number from 2")
    splits = {part: getattr(dataset, part) for part in PARTS}
    for part, split in splits.items():
        if not isinstance(split, Split):
            told = f"{part} is a {type(split).__name__}"
            _refuse(name, told, "a benchmarks.data.Split")
        _check_tensor(name, f"inputs of {part}", split.inputs, torch.float32)
        _check_tensor(name, f"targets of {part}", split.targets, torch.int64)
        _check_shapes(name, part, split)
        _check_values(name, part, split, classes)
    _check_alike(name, splits)


def _check_tensor(name: str, what: str, tensor: Any, dtype: torch.dtype) -> None:
    """Check the kind of a tensor."""
    if not isinstance(tensor, Tensor):
        _refuse(name, f"{what} are a {type(tensor).__name__}", f"a tensor of {dtype}")
    if tensor.layout != torch.strided:
        _refuse(name, f"{what} are {tensor.layout}", "a dense tensor")
    if tensor.dtype != dtype:
        _refuse(name, f"{what} are {tensor.dtype}", f"{dtype}")
    if tensor.requires_grad:
        _refuse(name, f"{what} require a gradient", "a tensor that does not")


def _check_shapes(name: str, part: str, split: Split) -> None:
    """Check that there are examples, and a class for each."""
    inputs, targets = tuple(split.inputs.shape), tuple(split.targets.shape)
    if len(inputs) < 2:
        told = f"inputs of {part} have the shape {inputs}"
        _refuse(name, told, "(examples, features) or (examples, channels, height, width)")
    if 0 in inputs:
        told = f"{part} is empty, as its inputs have the shape {inputs}"
        _refuse(name, told, "at least one example and one feature")
    if targets != inputs[:1]:
        told = f"targets of {part} have the shape {targets}, with {inputs[0]} inputs"
        _refuse(name, told, f"one class for each, ({inputs[0]},)")


def _check_values(name: str, part: str, split: Split, classes: int) -> None:
    """Check that classes are those that there are, and inputs finite."""
    low, high = (int(bound) for bound in split.targets.aminmax())
    if low < 0 or high >= classes:
        _refuse(name, f"targets of {part} lie in [{low}, {high}]", f"[0, {classes - 1}]")
    if not bool(split.inputs.isfinite().all()):
        _refuse(name, f"inputs of {part} are not all finite", "no NaN and no infinity")


def _check_alike(name: str, splits: Mapping[str, Split]) -> None:
    """Check that all splits have inputs of one shape."""
    shapes = {part: tuple(split.inputs.shape[1:]) for part, split in splits.items()}
    for part, shape in shapes.items():
        if shape != shapes["train"]:
            told = f"an input of {part} has the shape {shape}"
            _refuse(name, told, f"that of train, {shapes['train']}")


def _refuse(name: str, what: str, allowed: str) -> NoReturn:
    raise DataError(f"dataset: {name}: {what}; allowed: {allowed}")
