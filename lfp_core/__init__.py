"""Layer-wise Feedback Propagation (LFP) for PyTorch: training by a reward, not by a gradient.

with lfp.feedback(epsilon=1e-6):
    logits = model(x)
lfp.backward(logits, lfp.rewards.softmax(logits, targets))
optimizer.step()
"""

from lfp_core import rewards
from lfp_core.dead import dead_parameters, start_parameters
from lfp_core.functions import Heaviside
from lfp_core.marks import UnsupportedOperation, activation, weight
from lfp_core.operations import register_rule, rules
from lfp_core.propagation import backward, feedback

__all__ = [
    "Heaviside",
    "UnsupportedOperation",
    "activation",
    "backward",
    "dead_parameters",
    "feedback",
    "register_rule",
    "rewards",
    "rules",
    "start_parameters",
    "weight",
]
