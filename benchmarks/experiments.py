"""The kinds of experiments that a study file can ask for, by the name that it gives."""

from typing import Any

from baselines.registry import Registry
from benchmarks.comparison import Comparison
from benchmarks.experiment import Experiment
from benchmarks.language import Language
from benchmarks.pruning import Pruning
from benchmarks.regression import Regression
from benchmarks.transfer import Transfer

EXPERIMENTS: Registry[type[Experiment[Any]]] = Registry(
    "lfp_bench.experiments",
    {
        "comparison": Comparison,
        "pruning": Pruning,
        "regression": Regression,
        "transfer": Transfer,
        "language": Language,
    },
)
