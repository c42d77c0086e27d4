"""Feedback of a batch that is spread over processes is that of the whole batch on one."""

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_param_group import RegisterPostBackwardFunction
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import lfp_core as lfp
from lfp_core import _torch, marks
from validation.examples import EPSILON, batch, dense, error, fresh, gradients, propagate

pytestmark = pytest.mark.slow

Parallel = Callable[[nn.Sequential], nn.Module]


def blocks() -> nn.Sequential:
    """Return the dense network in blocks that begin with an activation: debts cross their edges."""
    layers = list(dense())
    return nn.Sequential(
        nn.Sequential(layers[0]), nn.Sequential(*layers[1:4]), nn.Sequential(*layers[4:])
    )


def sharded(model: nn.Sequential, *, parts: bool) -> nn.Module:
    """Shard the model over two processes, as a whole or each of its children first."""
    mesh = init_device_mesh("cpu", (2,))
    for child in model if parts else ():
        if any(True for _ in child.parameters()):
            fully_shard(child, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def flattened(model: nn.Sequential) -> nn.Module:
    """Let all parameters be views of a flat one, by what was there before `fully_shard`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its class
        return FullyShardedDataParallel(
            model,
            sharding_strategy=ShardingStrategy.NO_SHARD,  # so that each process has all feedback
            device_id=torch.device("cpu"),
            use_orig_params=True,
        )


def forgetful(model: nn.Sequential) -> nn.Module:
    """Shard it so that what crosses into a block is forgotten to owe anything: the twin."""
    identity = RegisterPostBackwardFunction.apply

    def forgetting(*inputs: Any) -> Any:
        return marks.marked(identity(*inputs), marks.ACTIVATION)

    RegisterPostBackwardFunction.apply = forgetting
    return sharded(model, parts=True)


PARALLEL: dict[str, tuple[Callable[[], nn.Sequential], Parallel]] = {
    "default": (dense, DistributedDataParallel),
    "find_unused_parameters": (
        dense,
        lambda model: DistributedDataParallel(model, find_unused_parameters=True),
    ),
    "static_graph": (dense, lambda model: DistributedDataParallel(model, static_graph=True)),
    "fully_shard": (dense, lambda model: sharded(model, parts=False)),
    "fully_shard by layer": (dense, lambda model: sharded(model, parts=True)),
    "fully_shard by block": (blocks, lambda model: sharded(model, parts=True)),
    "FullyShardedDataParallel": (dense, flattened),
}
#: After the others, as it breaks the engine.
TWIN = {"twin": (blocks, forgetful)}


def distributed(rank: int, folder: str) -> None:
    """Write what one of two processes finds, each with half of the batch: feedback or error."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    half = slice(6 * rank, 6 * rank + 6)
    for name, (build, wrap) in {**PARALLEL, **TWIN}.items():
        model = build().double()
        x, targets = batch(model)
        try:
            propagate(wrap(model), x[half], targets[half], "mean")
            found = {n: getattr(g, "full_tensor", g.clone)() for n, g in gradients(model).items()}
            torch.save(found, Path(folder) / f"{name}-{rank}")
        except Exception as error:  # of the option, so that the others are still tried
            torch.save(repr(error), Path(folder) / f"{name}-{rank}")
    dist.barrier()  # or one process may be gone while the other still talks to it
    gc.collect()  # the wrappers, which are in cycles, hold threads of the group
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    spawn(distributed, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("options", PARALLEL)
def test_two_processes_give_the_feedback_of_the_whole_batch(
    options: str, rank: int, processes: Path
) -> None:
    found = torch.load(processes / f"{options}-{rank}", weights_only=True)
    assert isinstance(found, dict), found
    assert error(found, fresh(PARALLEL[options][0]().double())) < 1e-12


def test_debts_forgotten_at_the_edge_of_a_shard_would_be_noticed(processes: Path) -> None:
    found = torch.load(processes / "twin-0", weights_only=True)
    assert isinstance(found, dict), found
    assert error(found, fresh(blocks().double())) > 1e-3


class Group:
    """What FSDP2's identity wants to tell of the backward pass."""

    def post_backward(self) -> None:
        """Do nothing."""


def through_identity() -> dict[str, Tensor]:
    """Return the feedback of two layers with FSDP2's identity between them, by name."""
    torch.manual_seed(0)
    layers = nn.Linear(2, 3), nn.Linear(3, 1)
    with lfp.feedback(EPSILON):
        (x,) = RegisterPostBackwardFunction.apply(Group(), layers[0](torch.ones(1, 2)))
        outputs = layers[1](x)
    lfp.backward(outputs, torch.ones_like(outputs))
    return gradients(nn.Sequential(*layers))


def test_inputs_of_a_shard_whose_identity_is_unknown_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A torch that renames its private Function is not silently wrong."""
    expected = through_identity()
    monkeypatch.setattr(_torch, "IDENTITIES", set())
    with pytest.raises(lfp.UnsupportedOperation, match="RegisterPostBackwardFunction"):
        through_identity()
    identity = RegisterPostBackwardFunction.apply
    monkeypatch.setattr(
        RegisterPostBackwardFunction,
        "apply",
        lambda *inputs: marks.marked(identity(*inputs), marks.ACTIVATION),
    )
    assert error(through_identity(), expected) > 1e-3
