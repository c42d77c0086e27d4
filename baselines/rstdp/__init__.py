"""Reward-modulated STDP: a spiking network that learns by the times of first spikes alone.

Mozafari et al. (2019, arXiv:1804.00227), in the variant that the authors later published as a
script. An image becomes first spikes (:mod:`baselines.spike_encoding`). Layers of convolutional
integrate-and-fire neurons without leak follow; a neuron spikes at most once, at the first time at
which its potential, the sum of the weights of all inputs that have spiked so far, is above its
threshold. Layers are trained one after the other, each with those below frozen:

* *STDP* in the layers of features, without labels. Neurons compete (:class:`Competition`), and
  the winners are drawn to what made them fire: with w(1 - w) as a stabiliser, ``dw = a w (1 - w)``,
  where a > 0 for an input that spiked before the winner or with it, and a < 0 for any other.
* *R-STDP* in the decision layer. Its neurons belong to classes, and the neuron with the largest
  potential decides. If it is right, it is rewarded by STDP, otherwise punished by anti-STDP:
  ``dw = a`` with two pairs of a, whose sizes follow the share of errors (:class:`AdaptiveRates`).

What makes this fast and leaves every weight as it is in a simulation step by step:

* A decision neuron fires at the last step, and nothing inhibits the features below it. So they are
  needed at one time only: whether they have fired by then is one convolution of the last frame.
* Features of frozen layers do not change: they are remembered as bits.
* The weights of features that have fired are summed up by index, and the others are not read.
* Winners are found in the order of time. The search ends with the last of them, later time steps
  are not simulated in the layers below either, and a place is looked at when enough of its inputs
  have spiked.

Weights of the feature layers are multiples of a power of two (:func:`resolution`): sums of them
are exact in float32, so no spike depends on the order in which a library adds. This rounding, of
at most 2^-16 in the canonical network, is the one deviation from real numbers. Potentials of
decisions that are too close to call in float32 are summed up exactly.

The methods are of the CPU: they take one image after the other, and an image is little work.
"""

from baselines.rstdp.competition import Competition
from baselines.rstdp.network import (
    DenseRSTDPNetwork,
    RSTDPNetwork,
    TunedRSTDPNetwork,
    Winner,
    receptive_fields,
)
from baselines.rstdp.options import (
    DecisionSettings,
    DenseRSTDPSettings,
    RSTDPSettings,
    TunedRSTDPSettings,
)
from baselines.rstdp.recipe import CANONICAL, DENSE, TUNED, FeatureLayer, Recipe, resolution
from baselines.rstdp.trainer import RSTDP, AdaptiveRates, BatchedRSTDP, DenseRSTDP, TunedRSTDP

__all__ = [
    "CANONICAL",
    "DENSE",
    "RSTDP",
    "TUNED",
    "AdaptiveRates",
    "BatchedRSTDP",
    "Competition",
    "DecisionSettings",
    "DenseRSTDP",
    "DenseRSTDPNetwork",
    "DenseRSTDPSettings",
    "FeatureLayer",
    "RSTDPNetwork",
    "RSTDPSettings",
    "Recipe",
    "TunedRSTDP",
    "TunedRSTDPNetwork",
    "TunedRSTDPSettings",
    "Winner",
    "receptive_fields",
    "resolution",
]
