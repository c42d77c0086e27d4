"""``p.grad`` is an ordinary gradient, so everything torch does with gradients works on feedback."""

import copy
import io
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError, checkpoint

import lfp_core as lfp
from benchmarks.models import build
from validation.examples import (
    EPSILON,
    batch,
    convolutional,
    dense,
    error,
    fresh,
    gradients,
    propagate,
)
from validation.strategies import ACTIVATIONS

# --- clipping, accumulation, optimisers -----------------------------------------------------------


def test_clipping_scales_the_feedback_as_a_whole() -> None:
    model = dense().double()
    whole = fresh(model)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert torch.allclose(norm, torch.stack([g.norm() for g in whole.values()]).norm())
    factor = 1e-3 / (norm + 1e-6)  # torch adds that to the norm it divides by
    expected = {name: g * factor for name, g in whole.items()}
    assert error(gradients(model), expected) < 1e-12


@pytest.mark.parametrize("build", [dense, convolutional])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sizes", [(6, 6), (1, 4, 7)])
def test_micro_batches_accumulate_to_the_full_batch(
    build: Callable[[], nn.Module], reduction: lfp.rewards.Reduction, sizes: tuple[int, ...]
) -> None:
    model = build().double().eval()
    expected = fresh(model, reduction)
    model.zero_grad()
    x, targets = batch(model)
    for part, labels in zip(x.split(sizes), targets.split(sizes), strict=True):
        with lfp.feedback(EPSILON):
            outputs = model(part)
        reward = lfp.rewards.softmax(outputs, labels, reduction)
        lfp.backward(outputs, reward * (len(part) / len(x) if reduction == "mean" else 1))
    assert error(gradients(model), expected) < 1e-12


#: How far training gets depends little on the initial weights of so wide a network; with 8 units it
#: is a matter of luck.
WIDE = 256

OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1.0),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimiser_lowers_the_loss(name: str) -> None:
    model = dense(width=WIDE)
    optimiser = OPTIMISERS[name](model.parameters())
    x, targets = batch(model, 64)
    targets = x[:, :3].argmax(dim=1)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        losses.append(float(F.cross_entropy(propagate(model, x, targets), targets)))
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]


def test_ascending_the_feedback_raises_the_loss() -> None:
    model = dense(width=WIDE)
    x, _ = batch(model, 64)
    targets = x[:, :3].argmax(dim=1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    first = propagate(model, x, targets)
    for _ in range(5):
        optimiser.step()
        optimiser.zero_grad()
        last = propagate(model, x, targets)
    assert F.cross_entropy(last, targets) > F.cross_entropy(first, targets)


# --- precision and memory layout ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "silu", "tanh", "gelu"])
@pytest.mark.parametrize("build", [dense, convolutional])
def test_float32_agrees_with_float64(build: Any, name: str) -> None:
    model = build(ACTIVATIONS[name]).eval()
    expected = fresh(copy.deepcopy(model).double())
    found = fresh(model)
    assert {g.dtype for g in found.values()} == {torch.float32}
    # Where |z| is about epsilon, a rounding error of z weighs 1 / epsilon = 100 times as much.
    assert error(found, expected) < 100 * 10 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("name", ["relu", "silu", "tanh", "gelu"])
@pytest.mark.parametrize("build", [dense, convolutional])
def test_autocast_to_bfloat16_keeps_feedback_close_and_in_the_parameters_dtype(
    build: Any, name: str
) -> None:
    model = build(ACTIVATIONS[name])
    expected = fresh(model)
    model.zero_grad()
    x, targets = batch(model)
    with lfp.feedback(EPSILON), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(x)
    assert outputs.dtype == torch.bfloat16
    lfp.backward(outputs, lfp.rewards.softmax(outputs, targets))
    found = gradients(model)
    assert {g.dtype for g in found.values()} == {torch.float32}
    assert all(g.isfinite().all() for g in found.values())
    together = [torch.cat([g.flatten() for g in each.values()]) for each in (found, expected)]
    assert F.cosine_similarity(together[0], together[1], dim=0) > 0.99


def test_bfloat16_model_has_finite_feedback_in_bfloat16() -> None:
    found = fresh(dense().bfloat16())
    assert all(g.dtype == torch.bfloat16 and g.isfinite().all() for g in found.values())
    assert any(g.any() for g in found.values())


@pytest.mark.parametrize("name", ["relu", "silu"])
def test_channels_last_gives_the_feedback_of_contiguous(name: str) -> None:
    model = convolutional(ACTIVATIONS[name]).double()
    expected = fresh(model)
    model.zero_grad()
    x, targets = batch(model)
    propagate(
        model.to(memory_format=torch.channels_last),
        x.to(memory_format=torch.channels_last),
        targets,
    )
    assert error(gradients(model), expected) < 1e-12


# --- checkpointing, copying, saving ---------------------------------------------------------------


class Checkpointed(nn.Module):
    """A network whose hidden layers are computed again in the backward pass."""

    def __init__(self, model: nn.Sequential, **options: Any) -> None:
        super().__init__()
        self.body, self.head, self.options = model[:-1], model[-1], options

    def forward(self, x: Tensor) -> Tensor:
        """Run the model."""
        return self.head(checkpoint(self.body, x, use_reentrant=False, **self.options))


@pytest.mark.parametrize("build", [dense, convolutional])
def test_checkpointing_works_with_the_context_for_the_second_pass_too(build: Any) -> None:
    model = build().double().eval()
    expected = list(fresh(model).values())
    model.zero_grad()
    twice = {"context_fn": lambda: (nullcontext(), lfp.feedback(EPSILON))}
    propagate(Checkpointed(model, **twice), *batch(model))
    found = gradients(model).values()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_checkpointing_without_it_fails_loudly() -> None:
    model = dense().double()
    with pytest.raises(CheckpointError):
        propagate(Checkpointed(model), *batch(model))


def test_trained_model_can_be_copied_and_pickled() -> None:
    model = convolutional()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    propagate(model, *batch(model))
    optimiser.step()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    restored = convolutional()
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    with_functions = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), restored]
    expected = fresh(model.eval())
    for other in with_functions:
        found = fresh(other.eval())
        assert all(torch.equal(found[name], expected[name]) for name in expected)


# --- GPU ------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("build", [dense, convolutional])
def test_gpu_gives_the_feedback_of_the_cpu(build: Any, name: str) -> None:
    model = build(ACTIVATIONS[name]).double().eval()
    expected = fresh(model)
    found = fresh(model.cuda())
    assert {g.device.type for g in found.values()} == {"cuda"}
    assert error({name: g.cpu() for name, g in found.items()}, expected) < 1e-9


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["convolutional", "vit-tiny"])
def test_gpu_autocast_keeps_feedback_close(dtype: torch.dtype, name: str) -> None:
    vit = build("vit-tiny", activation="relu", input_shape=(3, 8, 8), classes=3, seed=0)
    model = (convolutional() if name == "convolutional" else vit).cuda()
    expected = fresh(model)
    model.zero_grad()
    x, targets = batch(model)
    with lfp.feedback(EPSILON), torch.autocast("cuda", dtype=dtype):
        outputs = model(x)
    lfp.backward(outputs, lfp.rewards.softmax(outputs, targets))
    found = gradients(model)
    together = [torch.cat([g.flatten() for g in each.values()]) for each in (found, expected)]
    assert F.cosine_similarity(together[0], together[1], dim=0) > 0.99


@pytest.mark.gpu
def test_gpu_step_waits_for_nothing() -> None:
    model = dense().cuda()
    x, _ = batch(model)
    reward = torch.rand(len(x), 3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with lfp.feedback():
            outputs = model(x)
        lfp.backward(outputs, reward)
    finally:
        torch.cuda.set_sync_debug_mode("default")
