"""The kinds of experiments that a study file can ask for, by the name that it gives.

One is imported when it is asked for: all of them take seconds.
"""

from typing import Any

from baselines.registry import Registry, required
from benchmarks.experiments.base import Experiment


def _as_kind(item: Any) -> type[Experiment[Any]]:
    """Return what may be a kind of experiment."""
    return required(item, "a subclass of Experiment", given=callable(item))


EXPERIMENTS: Registry[type[Experiment[Any]]] = Registry(
    "lfp_bench.experiments",
    {
        "comparison": "benchmarks.experiments.comparison.experiment:Comparison",
        "pruning": "benchmarks.experiments.pruning:Pruning",
        "regression": "benchmarks.experiments.regression:Regression",
        "transfer": "benchmarks.experiments.transfer:Transfer",
        "language": "benchmarks.experiments.language:Language",
        "swarm-ablation": "benchmarks.experiments.swarm_ablation:SwarmAblation",
        "rstdp-selection": "benchmarks.experiments.rstdp_selection:RSTDPSelection",
        "treatments": "benchmarks.experiments.treatments:Treatments",
        "initial-feedback": "benchmarks.experiments.initial_feedback:InitialFeedback",
        "alignment": "benchmarks.experiments.alignment:Alignment",
        "depth": "benchmarks.experiments.depth:Depth",
        "two-weights": "benchmarks.experiments.two_weights:TwoWeights",
        "importance": "benchmarks.experiments.importance:Importance",
        "samples": "benchmarks.experiments.samples:Samples",
        "searches": "benchmarks.experiments.searches:Searches",
    },
    _as_kind,
)
