"""Our attention against the authors' composite for Hugging Face's ViT, in float64.

``propagator_vit`` gives rules to modules and to functions. With the versions that still run (lfprop
1.0.0, lxt 0.6.1, transformers 4.52.4), those of functions never apply: ``context`` drops the traced
model that has them; the map lists ``operator.matmul`` where transformers calls ``torch.matmul``;
and tracing, where it is forced, records the forward of their autograd functions with its
``detach``. So plain autograd passes rewards through products, sums and softmax as if they were
gradients.

:class:`AsMeant` applies the rules of their map where they were meant. Then two things are left that
differ from ours: lxt adds its stabiliser without a sign, and it is 1e-8 whatever epsilon the
composite has (1 by default). With sign and epsilon, the two agree to the last digits.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

import lfp_core as lfp

pytest.importorskip("lfprop", reason="the authors' package is optional: run `tox -e peer`")

from lfprop.propagation.propagator_vit import LFPEpsilonComposite, div2_fn
from lxt import functional
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit import modeling_vit

from validation.compare import relative_error

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lxt")

TOLERANCE = 1e-12
Feedback = dict[Any, Tensor]


def attention_in_float64(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **_: Any
) -> tuple[Tensor, Tensor]:
    """What transformers computes, but for the softmax in float32."""
    weights = F.softmax(torch.matmul(query, key.transpose(-1, -2)) * scaling, dim=-1)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class AsMeant(TorchFunctionMode):
    """The rules that the composite has for functions, where transformers calls those."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.rules: dict[Any, Callable[..., Tensor]] = {
            Tensor.add: lambda a, b: functional.add2(a, b, epsilon=epsilon),
            torch.matmul: lambda a, b: functional.matmul(a, b, epsilon=epsilon),
            Tensor.mul: lambda a, factor: div2_fn.apply(a, 1 / factor),  # transformers divided once
            F.softmax: lambda a, dim, **_: functional.softmax(a, dim),
        }

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, or what the composite has for it."""
        return self.rules.get(func, func)(*args, **(kwargs or {}))


def signed(z: Tensor, epsilon: float = 1e-6, inplace: bool = False) -> Tensor:
    """Add the stabiliser away from 0, where lxt always adds it."""
    return torch.where(z >= 0, z + epsilon, z - epsilon)


@pytest.fixture
def vit(monkeypatch: pytest.MonkeyPatch) -> ViTForImageClassification:
    """Return a small ViT in float64, the embeddings frozen as by the authors."""
    monkeypatch.setattr(modeling_vit, "eager_attention_forward", attention_in_float64)
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        num_labels=4,
        attn_implementation="eager",
    )
    model = ViTForImageClassification(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # some start at 0
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.vit.embeddings.requires_grad_(False)
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Return pixels (2, 3, 16, 16), and rewards of the logits (2, 4)."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 16, 16, generator=generator, dtype=torch.float64)
    return pixels, torch.randn(2, 4, generator=generator, dtype=torch.float64)


def our_feedback(model: Any, epsilon: float) -> Feedback:
    """Return our feedback by the name of the parameter."""
    model, (pixels, reward) = deepcopy(model), batch()
    with lfp.feedback(epsilon):
        logits = model(pixel_values=pixels).logits
    lfp.backward(logits, reward)
    return {n: -p.grad for n, p in model.named_parameters() if p.grad is not None}


def their_feedback(model: Any, epsilon: float, mode: TorchFunctionMode | None) -> Feedback:
    """Return the authors' feedback, with their rules for functions if there is a mode for them."""
    model, (pixels, reward) = deepcopy(model), batch()
    pixels.requires_grad_()
    composite = LFPEpsilonComposite(epsilon=epsilon)
    with composite.context(model, dummy_inputs={"pixel_values": pixels.detach()}):
        if mode is None:
            logits = model(pixel_values=pixels).logits
        else:
            with mode:
                logits = model(pixel_values=pixels).logits
        torch.autograd.grad(logits, pixels, reward)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return {name: vars(parameter)["feedback"] for name, parameter in trained}


@pytest.mark.parametrize("epsilon", [1.0, 1e-3])
def test_feedback_is_the_authors_with_a_signed_stabiliser(
    vit: Any, epsilon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = our_feedback(vit, epsilon)
    monkeypatch.setattr(functional, "_stabilize", signed)
    theirs = their_feedback(vit, epsilon, AsMeant(epsilon))
    assert set(ours) == set(theirs)
    assert relative_error(ours, theirs) < TOLERANCE


def test_the_sign_of_the_stabiliser_makes_the_difference(vit: Any) -> None:
    ours, theirs = our_feedback(vit, 1e-3), their_feedback(vit, 1e-3, AsMeant(1e-3))
    assert relative_error(ours, theirs) > 1e-3


def test_their_composite_as_it_is_has_no_rule_for_attention(vit: Any) -> None:
    """Rewards, taken for gradients, go through products: other numbers at any epsilon."""
    for epsilon in (1.0, 1e-3):
        theirs = their_feedback(vit, epsilon, None)
        assert relative_error(our_feedback(vit, epsilon), theirs) > 0.1
        with_rules = their_feedback(vit, epsilon, AsMeant(1e-8))
        assert relative_error(with_rules, theirs) > 0.1


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_hugging_face_vit_runs_unmodified(implementation: str) -> None:
    """Both implementations give the same feedback, but for the softmax in float32 of one."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        attn_implementation="eager",
    )
    model = ViTForImageClassification(config).double().eval()
    pixels, reward = batch()
    found = []
    for name in ("eager", implementation):
        model.config._attn_implementation = name
        model.zero_grad()
        with lfp.feedback(1e-3):
            logits = model(pixel_values=pixels).logits
        lfp.backward(logits, reward[:, :2])
        found.append({n: p.grad.clone() for n, p in model.named_parameters()})
    assert all(value.isfinite().all() for value in found[1].values())
    assert relative_error(found[1], found[0]) < 1e-4
