"""The methods of the comparison, one trainer each, behind one protocol (:class:`Trainer`).

A name is imported when it is asked for, so that the modules of this package that need no torch
(:mod:`~baselines.registry`, :mod:`~baselines.machine`) can be had without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baselines.activation import Activation
    from baselines.lfp import LFP, FeedbackSettings, LFPSettings
    from baselines.methods import FAMILIES, METHODS
    from baselines.rewards import REWARDS
    from baselines.sgd import SGD
    from baselines.spiking import Spiking
    from baselines.spiking_network import SpikingNetwork
    from baselines.trainer import OPTIMIZERS, BasicSettings, Settings, Step, Trainer

__all__ = [
    "FAMILIES",
    "LFP",
    "METHODS",
    "OPTIMIZERS",
    "REWARDS",
    "SGD",
    "Activation",
    "BasicSettings",
    "FeedbackSettings",
    "LFPSettings",
    "Settings",
    "Spiking",
    "SpikingNetwork",
    "Step",
    "Trainer",
]

#: Where the names are from.
_HOMES = {
    "FAMILIES": "methods",
    "LFP": "lfp",
    "METHODS": "methods",
    "OPTIMIZERS": "trainer",
    "REWARDS": "rewards",
    "SGD": "sgd",
    "Activation": "activation",
    "BasicSettings": "trainer",
    "FeedbackSettings": "lfp",
    "LFPSettings": "lfp",
    "Settings": "trainer",
    "Spiking": "spiking",
    "SpikingNetwork": "spiking_network",
    "Step": "trainer",
    "Trainer": "trainer",
}


def __getattr__(name: str) -> Any:
    """Return what the package exports, when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"baselines.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the names that are there, or can be imported."""
    return sorted({*globals(), *__all__})
