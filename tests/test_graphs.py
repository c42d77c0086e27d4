"""Steps that a GPU is given as one graph are the steps that are made without one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from baselines import METHODS, Settings, Spiking
from baselines.lfp import LFP
from baselines.sgd import SGD
from baselines.spiking import Encoding
from baselines.surrogate import Surrogate
from baselines.trainer import DescentTrainer, Step
from benchmarks.asv.launches import READS
from benchmarks.models import ACTIVATIONS, build
from benchmarks.runs import training
from benchmarks.runs.graphs import Graphed, Record, step_of
from benchmarks.runs.run import Result
from benchmarks.runs.training import execute
from tests.noisy import RUN, noise

CPU = torch.device("cpu")
SETTINGS = Settings(0.1, schedule="one-cycle", total_steps=12)
BATCH = 8


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)
    ).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = [BATCH, BATCH, 5, BATCH, BATCH, 5]
    return [(torch.randn(n, 4, generator=generator).double(), torch.arange(n) % 3) for n in sizes]


def recorder(trainer: DescentTrainer) -> Record:
    """Return what stands for a graph on the CPU: the work again, into the memory of the first."""

    def record(step: Callable[[], Step]) -> tuple[Callable[[], None], Step]:
        step()  # as a graph is warmed up, which must not be seen
        told = step()
        gradients = [p.grad for p in trainer.parameters]

        def replay() -> None:
            for memory, value in zip(told, step(), strict=True):
                memory.copy_(value)
            for gradient, parameter in zip(gradients, trainer.parameters, strict=True):
                assert gradient is not None
                assert parameter.grad is not None
                gradient.copy_(parameter.grad)

        return replay, told

    return record


def trajectory(method: type[DescentTrainer], graphed: bool) -> tuple[list[Tensor], list[Step]]:
    """Return all parameters and buffers at the end, and what the steps told."""
    model = network()
    trainer = method(model, SETTINGS)
    step = Graphed(trainer, BATCH, recorder(trainer)) if graphed else trainer.step
    torch.manual_seed(2)  # of dropout
    told = [step(*batch) for batch in batches()]
    return [tensor.clone() for tensor in model.state_dict().values()], told


@pytest.mark.parametrize("method", [LFP, SGD])
def test_steps_are_the_same_with_smaller_batches_in_between(method: type[DescentTrainer]) -> None:
    """To record a step moves neither running statistics nor the random state."""
    (state, told), (expected, told_expected) = (
        trajectory(method, graphed) for graphed in (True, False)
    )
    torch.testing.assert_close(state, expected, rtol=0, atol=0)
    torch.testing.assert_close(told, told_expected, rtol=0, atol=0)


def test_what_a_step_told_is_not_overwritten() -> None:
    losses = [float(step.loss) for step in trajectory(SGD, graphed=True)[1]]
    assert len(set(losses)) == len(losses)


def test_a_step_that_cannot_be_recorded_is_an_error_that_names_the_method() -> None:
    def refuse(step: Callable[[], Step]) -> tuple[Callable[[], None], Step]:
        raise RuntimeError("operation not permitted when stream is capturing")

    step = Graphed(SGD(network(), SETTINGS), BATCH, refuse)
    with pytest.raises(RuntimeError, match=r"^sgd: its step cannot be a CUDA graph.*not permitted"):
        step(*batches()[0])


class Own(LFP):
    """A method that may do anything in a step."""


def test_a_graph_is_for_methods_that_say_so_themselves() -> None:
    gpu = torch.device("cuda")
    assert isinstance(step_of(LFP(network(), SETTINGS), BATCH, gpu), Graphed)
    for trainer, device in ((LFP(network(), SETTINGS), CPU), (Own(network(), SETTINGS), gpu)):
        assert step_of(trainer, BATCH, device) == trainer.step


@pytest.mark.parametrize(
    ("encoding", "reset_delay", "graphed"),
    [
        ("constant", True, True),
        ("rate", True, True),
        ("latency", True, False),
        ("constant", False, False),
    ],
)
def test_a_spiking_network_has_a_graph_unless_snntorch_reads_from_the_device(
    encoding: Encoding, reset_delay: bool, graphed: bool
) -> None:
    spiking = Spiking(steps=2, encoding=encoding)
    data: dict[str, Any] = {"input_shape": (1, 4, 4), "classes": 3, "seed": 0}
    model = build("mlp", activation="lif", spiking=spiking, **data)
    module: Any
    for module in model.modules():
        if hasattr(module, "reset_delay"):
            module.reset_delay = reset_delay
    trainer = LFP(model, SETTINGS)
    step = step_of(trainer, BATCH, torch.device("cuda"))
    assert isinstance(step, Graphed) == graphed

    reads = Reads()
    inputs, targets = torch.rand(2, 1, 4, 4), torch.arange(2)
    with reads:
        Surrogate(model, SETTINGS).fill_and_clip(inputs, targets)
    assert bool(reads.found) == (not graphed), "this is what the rule is about"


class Reads(TorchDispatchMode):
    """Notes the operations that wait for a device, and does them, as `Launches` does not."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[object] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        if func._schema.name in READS:
            self.found.append(func)
        return func(*args, **(kwargs or {}))


ONE_CYCLE = replace(RUN, settings=Settings(learning_rate=0.05, schedule="one-cycle"))
GRAPHABLE = [name for name in METHODS if getattr(METHODS[name], "graphable", False)]
PAIRS = [
    (method, activation)
    for method in GRAPHABLE
    for activation in ("relu", "heaviside", "lif")
    if METHODS[method].supports(ACTIVATIONS[activation]) is None
]


@pytest.mark.gpu
@pytest.mark.parametrize(("method", "activation"), PAIRS)
def test_a_run_with_graphs_gives_the_bits_of_one_without(
    method: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda")
    spiking = Spiking() if activation == "lif" else None
    run = replace(ONE_CYCLE, method=method, activation=activation, spiking=spiking)
    data = noise().to(gpu)
    with_graphs = execute(run, data, gpu)
    monkeypatch.setattr(training, "step_of", lambda trainer, size, device: trainer.step)
    assert measured(with_graphs) == measured(execute(run, data, gpu))


def measured(result: Result) -> tuple[object, ...]:
    """Return all of a result but the time that it took."""
    return [replace(epoch, seconds=None) for epoch in result.history], result.inspection
