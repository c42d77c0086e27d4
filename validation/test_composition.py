"""``p.grad`` is an ordinary gradient, so everything torch does with gradients works on feedback."""

import copy
import gc
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import CheckpointError, checkpoint

import lfp_core as lfp
from validation.compare import relative_error
from validation.networks import Residual
from validation.strategies import ACTIVATIONS

EPSILON = 0.01


def dense(activation: Callable[[], nn.Module] = nn.SiLU) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), activation(), nn.LayerNorm(8), nn.Linear(8, 8), activation()
    return nn.Sequential(*layers, nn.Dropout(0.0), nn.Linear(8, 3))


def convolutional(activation: Callable[[], nn.Module] = nn.SiLU) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        activation(),
        Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), activation(), nn.Conv2d(8, 8, 1))),
        nn.MaxPool2d(2),
        activation(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def batch(model: nn.Module, size: int = 12) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    first = next(model.parameters())
    shape = (6,) if first.dim() == 2 else (3, 8, 8)
    x = torch.randn(size, *shape, generator=random).to(first)
    return x, torch.randint(0, 3, (size,), generator=random).to(first.device)


def propagate(
    model: nn.Module, x: Tensor, targets: Tensor, reduction: lfp.rewards.Reduction = "mean"
) -> Tensor:
    with lfp.feedback(EPSILON):
        outputs = model(x)
    lfp.backward(outputs, lfp.rewards.softmax(outputs, targets, reduction))
    return outputs.detach()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    assert all(p.grad is not None for p in model.parameters())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def fresh(model: nn.Module, reduction: lfp.rewards.Reduction = "mean") -> dict[str, Tensor]:
    model.zero_grad()
    propagate(model, *batch(model), reduction)
    return gradients(model)


def error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    keys = {name: torch.empty(0) for name in expected}
    return relative_error(
        {keys[n]: found[n].double() for n in keys}, {keys[n]: expected[n].double() for n in keys}
    )


# --- clipping, accumulation, optimisers -----------------------------------------------------------


def test_clipping_scales_the_feedback_as_a_whole() -> None:
    model = dense().double()
    whole = fresh(model)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert torch.allclose(norm, torch.stack([g.norm() for g in whole.values()]).norm())
    expected = {name: g * (1e-3 / norm) for name, g in whole.items()}
    assert error(gradients(model), expected) < 1e-5  # torch adds 1e-6 to the norm it divides by


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
    model = dense()
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
    model = dense()
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


# --- torch.compile --------------------------------------------------------------------------------


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled_agrees(model: nn.Module, backend: str, whole_step: bool) -> None:
    expected = fresh(model)
    model.zero_grad()
    x, targets = batch(model)

    def forward(x: Tensor) -> Tensor:
        with lfp.feedback(EPSILON):
            return model(x)

    if whole_step:
        outputs = torch.compile(forward, backend=backend, fullgraph=True)(x)
    else:
        with lfp.feedback(EPSILON):
            outputs = torch.compile(model, backend=backend, fullgraph=True)(x)
    lfp.backward(outputs, lfp.rewards.softmax(outputs, targets))
    assert error(gradients(model), expected) < 1e-12


@pytest.mark.parametrize("whole_step", [False, True], ids=["model", "context too"])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.usefixtures("compiler")
def test_compiled_dense_network_gives_the_feedback_of_eager(name: str, whole_step: bool) -> None:
    compiled_agrees(dense(ACTIVATIONS[name]).double(), "aot_eager", whole_step)


@pytest.mark.parametrize("whole_step", [False, True], ids=["model", "context too"])
@pytest.mark.parametrize("inplace", [False, True], ids=["copying", "in place"])
@pytest.mark.usefixtures("compiler")
def test_compiled_convolutional_network_gives_the_feedback_of_eager(
    inplace: bool, whole_step: bool
) -> None:
    model = convolutional(lambda: nn.SiLU(inplace=inplace)).double().eval()
    compiled_agrees(model, "aot_eager", whole_step)


@pytest.mark.parametrize("build", [dense, convolutional])
@pytest.mark.usefixtures("compiler")
def test_inductor_gives_the_feedback_of_eager(build: Callable[[], nn.Module]) -> None:
    compiled_agrees(build().double().eval(), "inductor", whole_step=True)


@pytest.mark.usefixtures("compiler")
def test_compiled_model_is_plain_again_outside_the_context() -> None:
    model = dense().double()
    x, targets = batch(model)
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)

    def plain(network: Any) -> dict[str, Tensor]:
        model.zero_grad()
        F.cross_entropy(network(x), targets).backward()
        return gradients(model)

    expected = plain(model)
    assert error(plain(compiled), expected) < 1e-12
    model.zero_grad()
    propagate(compiled, x, targets)
    assert error(gradients(model), expected) > 0.1
    assert error(plain(compiled), expected) < 1e-12


@pytest.mark.usefixtures("compiler")
def test_compiled_code_does_not_confuse_epsilons() -> None:
    model = dense().double()
    x, targets = batch(model)
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    for epsilon in (0.5, 0.001, 0.5):
        both = []
        for network in (model, compiled):
            model.zero_grad()
            with lfp.feedback(epsilon):
                outputs = network(x)
            lfp.backward(outputs, lfp.rewards.softmax(outputs, targets))
            both.append(gradients(model))
        assert error(both[1], both[0]) < 1e-12


@pytest.mark.usefixtures("compiler")
def test_compiled_model_still_refuses_what_has_no_rule() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.LogSoftmax(dim=1), nn.Linear(5, 3))
    with pytest.raises(Exception, match="no LFP rule for log_softmax"), lfp.feedback():
        torch.compile(model, backend="aot_eager", fullgraph=True)(torch.randn(4, 6))


# --- more than one process ------------------------------------------------------------------------


PARALLEL: dict[str, dict[str, Any]] = {
    "default": {},
    "find_unused_parameters": {"find_unused_parameters": True},
    "static_graph": {"static_graph": True},
}


def distributed(rank: int, folder: str) -> None:
    """Write what one of two processes finds, each with half of the batch: feedback or error."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    half = slice(6 * rank, 6 * rank + 6)
    for name, options in PARALLEL.items():
        model = dense().double()
        x, targets = batch(model)
        try:
            propagate(DistributedDataParallel(model, **options), x[half], targets[half], "mean")
            torch.save(gradients(model), Path(folder) / f"{name}-{rank}")
        except Exception as error:  # of the option, so that the others are still tried
            torch.save(repr(error), Path(folder) / f"{name}-{rank}")
    dist.barrier()  # or one process may be gone while the other still talks to it
    gc.collect()  # the wrappers, which are in cycles, hold threads of the group
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    mp.spawn(distributed, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("options", PARALLEL)
def test_two_processes_give_the_feedback_of_the_whole_batch(
    options: str, rank: int, processes: Path
) -> None:
    found = torch.load(processes / f"{options}-{rank}")
    assert isinstance(found, dict), found
    assert error(found, fresh(dense().double())) < 1e-12


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
def test_gpu_autocast_keeps_feedback_close(dtype: torch.dtype) -> None:
    model = convolutional().cuda()
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
@pytest.mark.parametrize("build", [dense, convolutional])
@pytest.mark.usefixtures("compiler")
def test_gpu_inductor_gives_the_feedback_of_eager(build: Callable[[], nn.Module]) -> None:
    compiled_agrees(build().double().eval().cuda(), "inductor", whole_step=True)


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
