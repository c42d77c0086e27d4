"""The toy sets, drawn afresh for every seed, as in appendix A.7.1 of arXiv 2308.12053."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.random import MT19937, RandomState, SeedSequence

from benchmarks.data.splits import Dataset, Split

Points = tuple[np.ndarray, np.ndarray]  # (n, 2) coordinates and (n,) classes


def blobs(n: int, rng: RandomState) -> Points:
    """Return two Gaussian clouds of points."""
    from sklearn.datasets import make_blobs  # noqa: PLC0415  (slow to import)

    return make_blobs(n, centers=[[1, 1], [2, 2]], cluster_std=0.2, random_state=rng)


def circles(n: int, rng: RandomState) -> Points:
    """Return a noisy circle of points, and a small one in its middle."""
    from sklearn.datasets import make_circles  # noqa: PLC0415  (slow to import)

    return make_circles(n, noise=0.2, factor=0.05, random_state=rng)


def swirls(n: int, rng: RandomState) -> Points:
    """Return three spiral arms of points, as the authors do, who lose the rest of n / 3, though."""
    points, classes = [], []
    for j in range(3):
        size = n // 3 + (j < n % 3)
        radius = np.linspace(0, 1, size)
        angle = np.linspace(4 * j, 4 * (j + 1), size) + 0.2 * rng.randn(size)
        points.append(np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1))
        classes.append(np.full(size, j))
    order = rng.permutation(n)  # like scikit-learn's, so that no batch is of one class
    return np.concatenate(points)[order], np.concatenate(classes)[order]


def toy_set(
    name: str,
    seed: int,
    root: Path,
    *,
    draw: Callable[[int, RandomState], Points],
    sizes: tuple[int, int],
    classes: int,
) -> Dataset:
    """Return a data set of points that are drawn: `sizes` are those of (train, test) splits.

    The paper has no validation split (it chose learning rates on the test split). Each split has a
    random stream of its own, so that none depends on the size of another.

    Returns:
        The data set.
    """
    train, test = sizes
    streams = SeedSequence(seed).spawn(3)
    splits = []
    for size, stream in zip((train, test, test), streams, strict=True):
        points, labels = draw(size, RandomState(MT19937(stream)))
        splits.append(Split(torch.from_numpy(points).float(), torch.from_numpy(labels).long()))
    train_split, validation, test_split = splits
    return Dataset(name, train_split, validation, test_split, classes, redrawn=True)
