"""The rewards that LFP can train a classifier with, by the names that a study gives them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from baselines.registry import Registry, guarded, required
from lfp_core import rewards
from lfp_core.rewards import Reduction


def _checked(reward: Any, logits: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the reward of logits, if it is one."""
    if not isinstance(reward, Tensor):
        raise TypeError(f"it returned a {type(reward).__name__}; allowed: a tensor")
    if reward.shape != logits.shape or reward.dtype != logits.dtype:
        told = f"{tuple(reward.shape)} of {reward.dtype}"
        wanted = f"{tuple(logits.shape)} of {logits.dtype}, as the logits"
        raise ValueError(f"it returned {told}; allowed: {wanted}")
    return reward


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
    lambda name, item: guarded(name, item, _checked),
)
