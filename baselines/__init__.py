"""The methods of the comparison, one trainer each, behind one protocol (:class:`Trainer`)."""

from baselines.activation import Activation
from baselines.lfp import LFP, FeedbackSettings, LFPSettings
from baselines.methods import FAMILIES, METHODS
from baselines.rewards import REWARDS
from baselines.sgd import SGD
from baselines.spiking_network import Spiking, SpikingNetwork
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
