"""A training step is given to a GPU in few operations, and waits for none of its values."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from baselines import rewards
from benchmarks.asv.launches import MODELS, Launches, as_on_cuda, launches
from lfp_core.rewards import Reduction

DEVICE = "meta"  # where tensors have no values that could be read


def batch() -> tuple[Tensor, Tensor]:
    return torch.empty(4, 3, device=DEVICE), torch.zeros(4, dtype=torch.int64, device=DEVICE)


@pytest.mark.parametrize("model", MODELS)
def test_a_step_reads_no_value(model: str) -> None:
    found = launches("lfp", model)
    assert found.reads == 0
    assert found.counts.total() > launches("sgd", model).counts.total()


#: How many times as many kernels as SGD's the project allows a step of LFP.
LIMITS = {"lenet": 1.3, "resnet18": 1.7}


@pytest.mark.parametrize("model", LIMITS)
def test_a_step_has_few_more_kernels_than_one_of_sgd(model: str) -> None:
    ours, theirs = (launches(method, model).counts.total() for method in ("lfp", "sgd"))
    assert ours <= LIMITS[model] * theirs


@pytest.mark.parametrize("name", rewards.REWARDS)
def test_a_reward_reads_no_value(name: str) -> None:
    with Launches() as found:
        rewards.REWARDS[name](*batch(), "mean")
    assert found.reads == 0
    assert found.counts.total() > 0


@pytest.mark.parametrize(
    "read", [lambda t: int(t.max()), lambda t: bool((t > 1).all()), lambda t: t[0].item()]
)
def test_a_value_that_is_read_is_noticed(
    read: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    softmax = rewards.REWARDS["softmax"]

    def careful(outputs: Tensor, targets: Tensor, reduction: Reduction) -> Tensor:
        read(targets)
        return softmax(outputs, targets, reduction)

    monkeypatch.setattr("baselines.lfp.REWARDS", {"softmax": careful})
    assert launches("lfp", "mlp").reads > 0


def test_kernels_are_counted_and_views_are_not() -> None:
    x = torch.empty(2, 3, device=DEVICE)
    with Launches() as found:
        x.view(6).add_(1).view(2, 3).t()
        torch.empty_like(x)
        torch._foreach_mul_([x, x], 2.0)
        torch._foreach_add([x, x], 2.0)
    assert found.counts == {"aten::add_": 1, "aten::_foreach_mul_": 1, "aten::_foreach_add": 1}


def test_a_formula_of_the_engine_is_one_kernel_and_so_is_attention() -> None:
    layer = nn.Linear(3, 3, device=DEVICE)
    with as_on_cuda("lfp"), Launches() as found, lfp.feedback(attention="constant"):
        tokens = layer(torch.empty(1, 2, 4, 3, device=DEVICE))
        outputs = F.scaled_dot_product_attention(tokens, tokens, tokens)
    assert found.counts["aten::_scaled_dot_product_efficient_attention"] == 1
    with as_on_cuda("lfp"), Launches() as found:
        lfp.backward(outputs, outputs.detach())
    formulas = 4  # the reward over the output, the values' epsilon, and both parameters
    assert found.counts["aten::add"] == formulas
    assert found.counts["aten::_scaled_dot_product_efficient_attention_backward"] == 1
