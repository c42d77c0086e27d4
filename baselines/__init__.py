"""The methods of the comparison, one trainer each, behind one protocol (:class:`Trainer`)."""

from baselines.eg import ExponentiatedGradient
from baselines.fa import FeedbackAlignment
from baselines.lfp import LFP
from baselines.madam import Madam
from baselines.sgd import SGD
from baselines.trainer import Settings, Step, Trainer
from baselines.wsgd import WeightScaledSGD

#: By name, in the order of tables and figures.
METHODS: dict[str, type[Trainer]] = {
    method.name: method
    for method in (LFP, SGD, WeightScaledSGD, FeedbackAlignment, ExponentiatedGradient, Madam)
}

__all__ = ["METHODS", "Settings", "Step", "Trainer"]
