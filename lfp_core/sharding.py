"""LFP for models that FSDP2 (``torch.distributed.fsdp.fully_shard``) shards module by module.

FSDP2 passes the inputs of each sharded module through a custom autograd Function, an identity that
tells it when the module's backward pass is over. No ``TorchFunctionMode`` sees that, so what the
inputs owe would be forgotten, and the engine would refuse them. Importing this module, which
:class:`lfp_core.feedback` does where FSDP2 is loaded, lets the identity hand the marks on. It is
done once and for all, and changes nothing for models that are trained otherwise. The Function is
private to torch: where a version has none of that name, the engine refuses its inputs by name.
"""

from functools import wraps
from typing import Any

from torch import Tensor
from torch.distributed.fsdp._fully_shard import _fsdp_param_group

from lfp_core.operations import OWED, carries_reward


def _handing_on(apply: Any) -> Any:
    """Let an identity's outputs owe what its inputs do; inputs of the model owe nothing."""

    @wraps(apply)
    def handing_on(group: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = apply(group, *inputs)
        for before, after in zip(inputs, outputs, strict=True):
            if hasattr(before, OWED) or carries_reward(before):
                setattr(after, OWED, getattr(before, OWED, 0.0))
        return outputs

    return handing_on


_identity = getattr(_fsdp_param_group, "RegisterPostBackwardFunction", None)
if _identity is not None:
    _identity.apply = _handing_on(_identity.apply)
