"""The methods of the comparison, one trainer each, behind one protocol (:class:`Trainer`)."""

from baselines.lfp import LFP
from baselines.sgd import SGD
from baselines.trainer import Settings, Step, Trainer
from baselines.wsgd import WeightScaledSGD

METHODS: dict[str, type[Trainer]] = {method.name: method for method in (LFP, SGD, WeightScaledSGD)}

__all__ = ["METHODS", "Settings", "Step", "Trainer"]
