"""The kinds of experiments that a study file can ask for, by the name that it gives.

One is imported when it is asked for: all of them take seconds.
"""

import inspect
from collections.abc import Callable
from types import new_class
from typing import Any

from pydantic import BaseModel

from baselines.registry import Registry, guarded, required
from benchmarks.data import DataError
from benchmarks.experiments.base import Experiment
from benchmarks.storage.files import StoreError

#: What an experiment is asked; what makes a run is called where runs are made.
ASKED = ("runs", "plan", "sections", "measurements", "steps", "check", "model", "configuration")


def _as_kind(item: Any) -> type[Experiment[Any]]:
    """Return what may be a kind of experiment."""
    schema = getattr(item, "schema", None)
    fine = isinstance(item, type) and issubclass(item, Experiment) and not inspect.isabstract(item)
    asks = isinstance(schema, type) and issubclass(schema, BaseModel)
    wanted = "a subclass of Experiment with all of its methods, and a schema of pydantic"
    return required(item, wanted, given=fine and asks)


def _guarded(name: str, kind: type[Experiment[Any]]) -> type[Experiment[Any]]:
    """Return a kind whose answers name it where they fail, but for what it may refuse."""
    passing = (ValueError, DataError, StoreError, OSError, MemoryError)
    asked: dict[str, Callable[..., Any]] = {
        one: guarded(name, getattr(kind, one), passing=passing) for one in ASKED
    }
    made: type[Experiment[Any]] = new_class(
        kind.__name__, (kind,), exec_body=lambda body: body.update(asked)
    )
    made.__module__ = kind.__module__
    return made


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
    _guarded,
)
