"""Weight-scaled surrogate gradients: what |w| times a gradient explains where there is a step.

Weight-scaled gradient descent (:mod:`baselines.wsgd`) is the control of LFP wherever a gradient
passes. Below a step function none does, so there the gradient is that of a surrogate.
"""

from typing import ClassVar

from baselines.surrogate import Surrogate
from baselines.wsgd import WeightScaledSGD


class WeightScaledSurrogate(WeightScaledSGD, Surrogate):  # scales what the second one fills in
    """Backpropagation with a surrogate derivative, then ``p.grad *= |p|``."""

    name: ClassVar[str] = "wsurrogate"
    label: ClassVar[str] = "|w|-scaled surrogate"
    graphable: ClassVar[bool] = True
