"""Names that commands list and complete, known without importing what they stand for.

The registries of activations, models and data sets hold what the names stand for, and importing
them takes seconds; a test compares both. Of packages, the names are those that they announce,
whether or not they can be imported.
"""

from baselines import FAMILIES, METHODS
from baselines.registry import announced

ACTIVATIONS = ("relu", "silu", "elu", "tanh", "sigmoid", "heaviside", "lif")
MODELS = (
    *("toy-mlp", "mlp", "lenet", "vgg-like", "mlp-1000", "mlp-1000-1000", "conv-12-64"),
    "vit-tiny",
)
#: Whose training steps can be measured: ours, and some of torchvision.
NETWORKS = (*MODELS, "resnet18", "vgg16")
DATASETS = (
    "digits",
    "blobs",
    "circles",
    "swirls",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "cifar10-standardised",
)


def methods() -> list[str]:
    """Return the names of all methods."""
    return METHODS.announced()


def methods_and_families() -> list[str]:
    """Return what may stand in a list of methods."""
    return [*FAMILIES, *methods()]


def activations() -> list[str]:
    """Return the names of all activations."""
    return announced("lfp_bench.activations", ACTIVATIONS)


def models() -> list[str]:
    """Return the names of all models."""
    return announced("lfp_bench.models", MODELS)


def datasets() -> list[str]:
    """Return the names of all data sets."""
    return announced("lfp_bench.datasets", DATASETS)
