"""A run on images of noise, which takes a fraction of a second."""

import torch

from baselines import Settings
from benchmarks.data import Dataset, Split
from benchmarks.runs.run import Run

RUN = Run(
    kind="final",
    dataset="noise",
    model="lenet",  # the one with dropout
    method="lfp",
    activation="relu",
    seed=3,
    epochs=2,
    batch_size=16,
    settings=Settings(learning_rate=0.05),
)


def noise() -> Dataset:
    """Return 40 images for training, which are two batches of 16 and one of 8, and 20 for each."""
    generator = torch.Generator().manual_seed(0)
    train, validation, test = (
        Split(
            torch.randn(size, 1, 28, 28, generator=generator),
            torch.randint(4, (size,), generator=generator),
        )
        for size in (40, 20, 20)
    )
    return Dataset("noise", train, validation, test, classes=4)
