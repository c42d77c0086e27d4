"""The networks that are trained: the study's in :mod:`~benchmarks.models.zoo`, and transformers."""

from benchmarks.models.zoo import (
    ACTIVATIONS,
    CLASSES,
    MODELS,
    SHAPES,
    Activation,
    Builder,
    Model,
    build,
    network,
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
]
