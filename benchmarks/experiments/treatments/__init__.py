"""What options of LFP do in training, and LFP beside the gradient.

An arm is LFP with some of its options, or the gradient. Small networks with gates, with hidden
units whose f(0) is not 0, or with steps and noise, are trained by every arm. Each arm has as many
trials as any other: rates and epsilons for LFP, as many rates for the gradient, or rates and slopes
if it is that of a surrogate. They are chosen by validation, with seeds of their own. What the same
options do before training is measured by :mod:`benchmarks.experiments.initial_feedback`.
"""

from benchmarks.experiments.treatments.experiment import Treatments
from benchmarks.experiments.treatments.options import Options

__all__ = ["Options", "Treatments"]
