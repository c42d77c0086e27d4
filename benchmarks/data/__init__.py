"""The data sets of the study, each held whole in memory as tensors.

Toy sets (`blobs`, `circles`, `swirls`) are drawn afresh for every seed
(:mod:`~benchmarks.data.toy`). The image sets (`digits`, `mnist`, `fashion-mnist` and `cifar10`) are
the same for every seed (:mod:`~benchmarks.data.images`): what a seed varies there is the model and
the order of the batches.
"""

from benchmarks.data.catalog import DATASETS, Preset, Source, load
from benchmarks.data.fetching import (
    ARCHIVES,
    SILENCE,
    Archive,
    DataError,
    default_root,
    fetch,
    socket_timeout,
)
from benchmarks.data.splits import Dataset, Split

__all__ = [
    "ARCHIVES",
    "DATASETS",
    "SILENCE",
    "Archive",
    "DataError",
    "Dataset",
    "Preset",
    "Source",
    "Split",
    "default_root",
    "fetch",
    "load",
    "socket_timeout",
]
