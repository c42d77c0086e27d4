"""The networks that are trained: the study's in :mod:`~benchmarks.models.zoo`, and transformers."""

from baselines.activation import Activation
from benchmarks.models.zoo import (
    ACTIVATIONS,
    CLASSES,
    MODELS,
    SHAPES,
    Builder,
    Model,
    build,
    network,
    replace_relus,
)

__all__ = [
    "ACTIVATIONS",
    "CLASSES",
    "MODELS",
    "SHAPES",
    "Activation",
    "Builder",
    "Model",
    "build",
    "network",
    "replace_relus",
]
