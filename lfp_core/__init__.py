"""Layer-wise Feedback Propagation (LFP) for PyTorch: training by a reward, not by a gradient.

with lfp.feedback(epsilon=1e-6):
    logits = model(x)
lfp.backward(logits, lfp.rewards.softmax(logits, targets))
optimizer.step()
"""

from lfp_core import rewards
from lfp_core.dead import dead_parameters, start_parameters
from lfp_core.operations import Heaviside, UnsupportedOperation
from lfp_core.propagation import backward, feedback

__all__ = [
    "Heaviside",
    "UnsupportedOperation",
    "backward",
    "dead_parameters",
    "feedback",
    "rewards",
    "start_parameters",
]
