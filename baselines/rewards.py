"""The rewards that LFP can train a classifier with, by the names that a study gives them."""

from collections.abc import Callable

from torch import Tensor

from baselines.registry import Registry, required
from lfp_core import rewards
from lfp_core.rewards import Reduction

#: Functions of logits (batch, classes), class indices (batch,) and a reduction, which return the
#: reward of each logit; see :mod:`lfp_core.rewards`. The paper numbers the softmax reward #3. The
#: bounds of the last one are ours: the paper's could not be established.
REWARDS: Registry[Callable[[Tensor, Tensor, Reduction], Tensor]] = Registry(
    "lfp_bench.rewards",
    {
        "softmax": rewards.softmax,
        "sigmoid": rewards.sigmoid,
        "correct-classification": rewards.correct_classification,
        "misclassification": rewards.misclassification,
        "bounded-softmax": lambda outputs, targets, reduction: rewards.bounded_softmax(
            outputs, targets, 0.1, 0.9, reduction=reduction
        ),
    },
    lambda item: required(item, "a function of logits, targets, reduction", given=callable(item)),
)
