"""The data sets of the study, each held whole in memory as tensors."""

from benchmarks.data.fetching import (
    ARCHIVES,
    DATASETS,
    SILENCE,
    Archive,
    DataError,
    Dataset,
    Split,
    default_root,
    fetch,
    load,
    socket_timeout,
)

__all__ = [
    "ARCHIVES",
    "DATASETS",
    "SILENCE",
    "Archive",
    "DataError",
    "Dataset",
    "Split",
    "default_root",
    "fetch",
    "load",
    "socket_timeout",
]
