"""The kinds of experiments that a study file can ask for, by the name that it gives."""

from typing import Any

from baselines.registry import Registry, required
from benchmarks.experiments.alignment import Alignment
from benchmarks.experiments.base import Experiment
from benchmarks.experiments.comparison.experiment import Comparison
from benchmarks.experiments.depth import Depth
from benchmarks.experiments.importance import Importance
from benchmarks.experiments.initial_feedback import InitialFeedback
from benchmarks.experiments.language import Language
from benchmarks.experiments.pruning import Pruning
from benchmarks.experiments.regression import Regression
from benchmarks.experiments.rstdp_selection import RSTDPSelection
from benchmarks.experiments.samples import Samples
from benchmarks.experiments.swarm_ablation import SwarmAblation
from benchmarks.experiments.transfer import Transfer
from benchmarks.experiments.treatments import Treatments
from benchmarks.experiments.two_weights import TwoWeights


def _as_kind(item: Any) -> type[Experiment[Any]]:
    """Return what may be a kind of experiment."""
    return required(item, "a subclass of Experiment", given=callable(item))


EXPERIMENTS: Registry[type[Experiment[Any]]] = Registry(
    "lfp_bench.experiments",
    {
        "comparison": Comparison,
        "pruning": Pruning,
        "regression": Regression,
        "transfer": Transfer,
        "language": Language,
        "swarm-ablation": SwarmAblation,
        "rstdp-selection": RSTDPSelection,
        "treatments": Treatments,
        "initial-feedback": InitialFeedback,
        "alignment": Alignment,
        "depth": Depth,
        "two-weights": TwoWeights,
        "importance": Importance,
        "samples": Samples,
    },
    _as_kind,
)
