"""Training steps on a GPU whose kernels are given to the device at once, as a CUDA graph.

A processor gives a GPU one kernel after the other. For a small network that takes longer than the
kernels themselves, and LFP has more of them than gradient descent. A graph is given as a whole, so
the device never waits (docs/gpu.md has the times).
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from baselines import Step, Trainer
from baselines.spiking_network import SpikingNetwork
from baselines.trainer import DescentTrainer

T = TypeVar("T")
MakeStep = Callable[[Tensor, Tensor], Step]
Record = Callable[[Callable[[], Step]], tuple[Callable[[], None], Step]]
WARM_UP = 3  # steps before a graph is recorded: libraries choose their kernels and workspaces


def step_of(trainer: Trainer, batch_size: int, device: torch.device) -> MakeStep:
    """Return what makes a trainer's steps: with a graph where there can be one.

    Args:
        trainer: of a model on the device.
        batch_size: of all batches but smaller ones, which are trained on without a graph.
        device: of the model and of all batches.

    Returns:
        A function of inputs (batch, ...) and targets (batch,); it makes the steps that
        `trainer.step` makes.
    """
    # A subclass may do something in a step that a graph would not repeat: it has to say so itself.
    graphable = vars(type(trainer)).get("graphable", False) and device.type == "cuda"
    if not graphable or not isinstance(trainer, DescentTrainer) or _waits(trainer.model):
        return trainer.step
    return Graphed(trainer, batch_size)


def _waits(model: nn.Module) -> bool:
    """Return whether snntorch waits for the device in a step of the model, to read a value."""
    return isinstance(model, SpikingNetwork) and (
        model.spiking.encoding == "latency"
        or any(not getattr(neuron, "reset_delay", True) for neuron in model.modules())
    )


class Graphed:
    """The steps of a trainer, with a graph of everything until the update.

    The update is not in the graph, as the learning rate, which a schedule changes, would be a
    constant there.

    Raises:
        RuntimeError: at the first step, the method waits for the device, which cannot be recorded.
    """

    def __init__(self, trainer: DescentTrainer, batch_size: int, record: Record | None = None):
        """Prepare to record a step, which is done with the first batch of this size."""
        self.trainer = trainer
        self.batch_size = batch_size
        self._record = recorded if record is None else record
        self._replay: Callable[[], None] | None = None

    def __call__(self, inputs: Tensor, targets: Tensor) -> Step:
        """Make one step on inputs (batch, ...) and targets (batch,)."""
        if len(inputs) != self.batch_size:
            return self.trainer.step(inputs, targets)
        if self._replay is None:
            self._replay = self._prepare(inputs, targets)
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._replay()
        # A step without a graph, of a smaller batch, has left gradients of its own.
        for parameter, gradient in zip(self.trainer.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self.trainer.update()
        return Step(*(value.clone() for value in self._told))

    def _prepare(self, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
        """Record the step on copies of the batch, which later batches are written to."""
        self._inputs, self._targets = inputs.clone(), targets.clone()
        model, device = self.trainer.model, inputs.device
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        # What is done to record it must not count as training.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            try:
                replay, self._told = self._record(
                    lambda: self.trainer.fill_and_clip(self._inputs, self._targets)
                )
            except RuntimeError as error:
                raise RuntimeError(
                    f"{self.trainer.name}: its step cannot be a CUDA graph, so its class must not "
                    f"be graphable: {error}"
                ) from error
        for buffer, before in buffers:
            buffer.copy_(before)
        self._gradients = [parameter.grad for parameter in self.trainer.parameters]
        return replay


def recorded(step: Callable[[], T]) -> tuple[Callable[[], None], T]:
    """Record a CUDA graph of the work that a function gives the current device.

    Returns:
        What repeats the work, and where it writes what the function returned.

    Raises:
        RuntimeError: the function waits for the device.
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        told = step()
    return graph.replay, told
