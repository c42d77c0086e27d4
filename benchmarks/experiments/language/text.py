"""The text, and what a model is scored by on it."""

from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Text(NamedTuple):
    """Characters as indices (length,), and how many different ones there are."""

    train: Tensor
    validation: Tensor
    test: Tensor
    characters: int


def corpus() -> Text:
    """Return scikit-learn's descriptions, in the order of their names."""
    folder = files("sklearn.datasets") / "descr"
    parts = sorted(
        (path.name, path.read_text("utf-8")) for path in folder.iterdir() if path.is_file()
    )
    text = "".join(content for name, content in parts if name.endswith(".rst"))
    alphabet = sorted(set(text))
    index = {character: i for i, character in enumerate(alphabet)}
    indices = torch.tensor([index[character] for character in text])
    cuts = [int(0.8 * len(indices)), int(0.9 * len(indices))]
    training, validation, test = torch.tensor_split(indices, cuts)
    return Text(training, validation, test, len(alphabet))


def windows(text: Tensor, starts: Sequence[int] | Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return inputs (N, length) that begin at the starts, and what follows (N length,)."""
    cut = torch.stack([text[start : start + length + 1] for start in starts])
    return cut[:, :-1], cut[:, 1:].flatten()


def loss_on(model: nn.Module, text: Tensor, context: int) -> float:
    """Return the cross-entropy of a character in nats, over consecutive windows."""
    inputs, targets = windows(text, range(0, len(text) - context, context), context)
    with torch.no_grad():
        return float(F.cross_entropy(model(inputs), targets))


def entropy(text: Text) -> float:
    """Return the cross-entropy of the test text under the letters' frequencies in training."""
    counts = torch.bincount(text.train, minlength=text.characters) + 1.0
    return float(-(counts / counts.sum()).log()[text.test].mean())
