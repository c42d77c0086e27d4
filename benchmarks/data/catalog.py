"""The data sets by name, and how one is loaded."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from baselines.registry import Registry, pick
from benchmarks.data.fetching import ARCHIVES, DataError, default_root
from benchmarks.data.images import cifar10, digits, mnist
from benchmarks.data.splits import Dataset, Split
from benchmarks.data.toy import blobs, circles, swirls, toy_set


def load(name: str, *, seed: int = 0, root: Path | None = None) -> Dataset:
    """Return the data set called `name`, one of `DATASETS`.

    `seed` (>= 0) selects the draw of a toy set and changes nothing in the others. `root` is the
    folder of the fetched files; by default `$LFP_DATA`, else `~/.cache/lfp-bench`.

    Raises `ValueError` for an unknown name or a negative seed, and `DataError` if the files can
    neither be found nor fetched or have the wrong checksum, and for inputs that are not finite or
    targets out of range.
    """
    loader = pick("dataset", name, DATASETS)
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative; allowed: 0 and above")
    dataset = loader(name, seed, default_root() if root is None else root)
    for part in ("train", "validation", "test"):
        _check(name, part, getattr(dataset, part), dataset.classes)
    return dataset


def _check(name: str, part: str, split: Split, classes: int) -> None:
    low, high = (int(bound) for bound in split.targets.aminmax())
    if low < 0 or high >= classes:
        raise DataError(
            f"{name}: targets of {part} lie in [{low}, {high}]; allowed: [0, {classes - 1}]"
        )
    if not bool(split.inputs.isfinite().all()):
        raise DataError(f"{name}: inputs of {part} are not all finite")


#: Functions of a name, a seed and the folder of fetched files.
DATASETS: Registry[Callable[[str, int, Path], Dataset]] = Registry(
    "lfp_bench.datasets",
    {
        "digits": digits,
        "blobs": partial(toy_set, draw=blobs, sizes=(1000, 100), classes=2),
        "circles": partial(toy_set, draw=circles, sizes=(10000, 500), classes=2),
        "swirls": partial(toy_set, draw=swirls, sizes=(10000, 500), classes=3),
        "mnist": partial(mnist, archive=ARCHIVES["mnist"]),
        "fashion-mnist": partial(mnist, archive=ARCHIVES["fashion-mnist"]),
        "cifar10": partial(cifar10, archive=ARCHIVES["cifar10"]),
    },
)
