"""The kinds of experiments that a study file can ask for, by the name that it gives."""

from typing import Any

from benchmarks.comparison import Comparison
from benchmarks.experiment import Experiment

EXPERIMENTS: dict[str, Experiment[Any]] = {
    "comparison": Comparison(),
}
