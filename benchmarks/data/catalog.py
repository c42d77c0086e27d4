"""The data sets by name, and how one is loaded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from baselines.registry import Registry, pick, required
from benchmarks.data.checking import check
from benchmarks.data.fetching import ARCHIVES, DataError, default_root
from benchmarks.data.images import cifar10, digits, mnist
from benchmarks.data.splits import Dataset
from benchmarks.data.toy import blobs, circles, swirls, toy_set
from benchmarks.storage.settings import unchanged


class Preset(NamedTuple):
    """What a data set is trained with unless the command says otherwise."""

    model: str = "mlp"
    epochs: int = 10
    sweep_epochs: int = 2
    batch_size: int = 128


@dataclass(frozen=True)
class Source:
    """A data set: a function of its name, a seed and the folder of fetched files; its preset."""

    load: Callable[[str, int, Path], Dataset]
    preset: Preset = field(default_factory=Preset)


def load(name: str, *, seed: int = 0, root: Path | None = None) -> Dataset:
    """Return the data set called `name`, one of `DATASETS`.

    `seed` (>= 0) selects the draw of a toy set and changes nothing in the others. `root` is the
    folder of the fetched files; by default `$LFP_DATA`, else `~/.cache/lfp-bench`.

    Raises:
        ValueError: an unknown name, or a negative seed.
        DataError: the files can neither be found nor fetched, or have the wrong checksum; or they
            are not what a network can be trained on (:func:`benchmarks.data.checking.check`).
    """
    source = pick("dataset", name, DATASETS)
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative; allowed: 0 and above")
    folder = default_root() if root is None else root
    try:
        with unchanged(f"dataset {name!r}"):
            dataset = source.load(name, seed, folder)
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # whatever the code of another package does
        told = " ".join(str(error).split())
        raise DataError(
            f"dataset: {name}: cannot be loaded ({type(error).__name__}: {told}); the data folder, "
            f"which $LFP_DATA names, is {folder}"
        ) from error
    check(name, dataset)
    return dataset


def _as_source(item: Any) -> Source:
    """Return a source; a function of (name, seed, folder) has the usual preset."""
    wanted = "a Source, or a function of (name, seed, folder)"
    if isinstance(item, Source):
        return item
    return Source(required(item, wanted, given=callable(item)))


DATASETS: Registry[Source] = Registry(
    "lfp_bench.datasets",
    {
        "digits": Source(digits, Preset("mlp", epochs=20, sweep_epochs=10, batch_size=64)),
        "blobs": Source(
            partial(toy_set, draw=blobs, sizes=(1000, 100), classes=2),
            Preset("toy-mlp", epochs=10, sweep_epochs=10),
        ),
        "circles": Source(
            partial(toy_set, draw=circles, sizes=(10000, 500), classes=2),
            Preset("toy-mlp", epochs=10, sweep_epochs=10),
        ),
        "swirls": Source(
            partial(toy_set, draw=swirls, sizes=(10000, 500), classes=3),
            Preset("toy-mlp", epochs=15, sweep_epochs=15),
        ),
        "mnist": Source(
            partial(mnist, archive=ARCHIVES["mnist"]),
            Preset("lenet", epochs=5, sweep_epochs=1),
        ),
        "fashion-mnist": Source(
            partial(mnist, archive=ARCHIVES["fashion-mnist"]),
            Preset("lenet", epochs=5, sweep_epochs=1),
        ),
        "cifar10": Source(
            partial(cifar10, archive=ARCHIVES["cifar10"]),
            Preset("vgg-like", epochs=50, sweep_epochs=5),
        ),
        "cifar10-standardised": Source(
            partial(cifar10, archive=ARCHIVES["cifar10"], standardised=True),
            Preset("vgg-like", epochs=50, sweep_epochs=5),
        ),
    },
    _as_source,
)
