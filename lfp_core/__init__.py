"""Layer-wise Feedback Propagation (LFP) for PyTorch: training by a reward, not by a gradient.

with lfp.feedback(epsilon=1e-6):
    logits = model(x)
lfp.backward(logits, lfp.rewards.softmax(logits, targets))
optimizer.step()

The modules, in the order to read them: :mod:`slopes` has the backward formulas, :mod:`marks` the
kinds of tensors and what they owe, :mod:`calls` one call of an operation. :mod:`sharing` lists the
rules, which are in :mod:`routes`, :mod:`elementwise`, :mod:`sums`, :mod:`products` and
:mod:`layers`; :mod:`roles` says what is a gate or a statistic. :mod:`functions` and
:mod:`operations` are the tables of what follows which rule, :mod:`composed`, :mod:`attention` and
:mod:`recurrent` the operations that run as others, and :mod:`propagation` is the context and the
backward pass. :mod:`rewards`, :mod:`spiking`, :mod:`dead` and :mod:`pooling` stand by themselves.
"""

from pathlib import Path

from lfp_core import rewards
from lfp_core.dead import dead_parameters, start_parameters
from lfp_core.functions import Heaviside
from lfp_core.marks import UnsupportedOperation, activation, weight
from lfp_core.operations import register_rule, rules
from lfp_core.propagation import backward, feedback

#: A file of its own, so that a release leaves the code, which names what it measures, as it was.
__version__ = (Path(__file__).parent / "VERSION").read_text().strip()

__all__ = [
    "Heaviside",
    "UnsupportedOperation",
    "__version__",
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
