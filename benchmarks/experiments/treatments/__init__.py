"""What the options `gates` and `units` of LFP do in training, and LFP beside the gradient.

An arm is LFP with some of its options, or the gradient. Small networks with gates, or with hidden
units whose f(0) is not 0, are trained on digits by every arm. Each arm has as many trials as any
other: rates and epsilons for LFP, as many rates for the gradient. They are chosen by validation,
with seeds of their own. What the same options do before training is measured by
:mod:`benchmarks.experiments.initial_feedback`.
"""

from benchmarks.experiments.treatments.experiment import Treatments
from benchmarks.experiments.treatments.options import Options

__all__ = ["Options", "Treatments"]
