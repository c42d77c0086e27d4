"""How a training run is executed."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from statistics import median
from time import perf_counter
from typing import Any

import torch
from numpy.random import SeedSequence
from torch import Generator, Tensor, nn

from baselines import BasicSettings, Step, Trainer
from baselines.registry import blaming, plug_ins
from baselines.trainer import DescentTrainer
from benchmarks.data import Dataset, Split, load
from benchmarks.models import network
from benchmarks.runs.graphs import MakeStep, step_of
from benchmarks.runs.inspection import inspect
from benchmarks.runs.run import Convolutions, Divergence, Epoch, Result, Run
from benchmarks.storage.checkpoint import Checkpoint
from lfp_core.dead import DeadParameters, dead_parameters

#: Measures what a task is judged by, on a split.
Metric = Callable[[nn.Module, Split], float]
#: Says of a run's history whether it is to end before its epochs are over.
Ended = Callable[[Sequence[Epoch]], bool]
Batch = tuple[Tensor, Tensor]  # inputs and targets

EVALUATION_BATCH = 2000
#: An interruption costs so much of a run at most, or an epoch if that takes longer.
CHECKPOINT_SECONDS = 60.0


def classify(run: Run, device: torch.device, checkpoint: Checkpoint | None = None) -> Result:
    """Train a classifier from scratch as `run` says, on its data set.

    See :func:`train`.

    Returns:
        What the run measured.
    """
    return execute(run, dataset(run.dataset, run.seed, device.type), device, checkpoint)


def dataset(name: str, seed: int, device: str) -> Dataset:
    """Return a data set on the device, as a seed draws it; a process loads nothing twice."""
    first = _dataset(name, 0, device)
    return _dataset(name, seed, device) if first.redrawn else first


@cache
def _dataset(name: str, seed: int, device: str) -> Dataset:
    return _loaded(name, seed).to(device)


@cache
def _loaded(name: str, seed: int) -> Dataset:
    return load(name, seed=seed)


def execute(
    run: Run, dataset: Dataset, device: torch.device, checkpoint: Checkpoint | None = None
) -> Result:
    """Train from scratch as `run` says on `dataset`, whose splits must be on `device`.

    See :func:`train`.

    Returns:
        What the run measured.
    """
    return train(untrained(run, dataset, device), run, dataset, device, checkpoint)


def untrained(run: Run, dataset: Dataset, device: torch.device) -> nn.Module:
    """Return the network that the run begins with, on the device."""
    return network(
        run.method,
        run.model,
        activation=run.activation,
        input_shape=dataset.input_shape,
        classes=dataset.classes,
        seed=run.seed,
        spiking=run.spiking,
        settings=run.settings,
    ).to(device)


def train(
    model: nn.Module,
    run: Run,
    dataset: Dataset,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    metric: Metric | None = None,
    ended: Ended | None = None,
) -> Result:
    """Train a model in place as `run` says on `dataset`; both must be on `device`.

    The metric is measured before training and after each epoch, on the splits that are not empty;
    by default it is the accuracy. `ended` is asked after each epoch, and by default never ends it.

    The same run gives the same bits on the same machine, whatever ran before it, and however often
    it was interrupted, if it has a checkpoint: then it goes on from there. The device is waited for
    once an epoch, so a divergence is noticed at the end of its epoch.

    Returns:
        What the run measured.
    """
    order_seed, dropout_seed = (int(s) for s in SeedSequence(run.seed).generate_state(2))
    with reproducible(device, dropout_seed, run.convolutions):
        in_all = run.epochs * math.ceil(len(dataset.train) / run.batch_size)
        settings = replace(run.settings, total_steps=in_all)
        final = run.kind == "final"
        first = dataset.train.inputs[: run.batch_size], dataset.train.targets[: run.batch_size]
        plug_in = plug_ins((run.methods, run.method))
        with blaming(plug_in):
            dead = dead_at_start(model, run, settings, first, device) if final else None
            trainer = run.methods[run.method](model, settings)
        order = torch.Generator().manual_seed(order_seed)
        step = step_of(trainer, run.batch_size, device)
        training = _Training(model, trainer, step, order, device, metric or accuracy)
        saved = None if checkpoint is None else checkpoint.load()
        if saved is None:
            training.history.append(training.evaluated(Epoch(seconds=0.0), run, dataset))
        else:
            training.load_state_dict(saved)
        budget = math.inf if run.budget is None else run.budget
        divergence, last_saved = None, perf_counter()
        while (
            divergence is None
            and len(training.history) <= run.epochs
            and training.seconds < budget
            and not (ended and ended(training.history))
        ):
            if checkpoint is not None and perf_counter() > last_saved + CHECKPOINT_SECONDS:
                checkpoint.save(training.state_dict())
                last_saved = perf_counter()
            divergence = training.epoch(run, dataset, budget, plug_in)
        return Result(
            run,
            tuple(training.history),
            divergence,
            training.steps,
            training.seconds,
            spikes=_spikes(model, dataset.validation),
            inspection=inspect(model, dataset.train, dataset.classes)
            if final and divergence is None
            else None,
            dead_at_start=dead,
            dead_at_end=dead_parameters(model) if final else None,
        )


def dead_at_start(
    model: nn.Module, run: Run, settings: BasicSettings, batch: Batch, device: torch.device
) -> DeadParameters:
    """Return what cannot learn from a batch before the first step.

    Model and random state stay as they are.
    """
    method = run.methods[run.method]
    if not issubclass(method, DescentTrainer):  # which fill no `p.grad`
        return dead_parameters(model)
    twin = deepcopy(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        method(twin, settings).fill_gradients(*batch)
    return dead_parameters(twin)


@dataclass
class _Training:
    """A run under way: all that changes, and what it is done on.

    `order` draws the order of the examples; `seconds` are of training alone.
    """

    model: nn.Module
    trainer: Trainer
    step: MakeStep
    order: Generator
    device: torch.device
    metric: Metric
    history: list[Epoch] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0

    def epoch(self, run: Run, dataset: Dataset, budget: float, plug_in: str) -> Divergence | None:
        """Train for one more epoch, at most until the budget is spent, and evaluate.

        A method that is a plug-in is named in what it raises.

        Returns:
            The divergence, if it diverged.
        """
        started = perf_counter()
        with blaming(plug_in):
            losses, norms = train_epoch(
                self.step,
                dataset.train,
                run.batch_size,
                self.order,
                deadline=started + budget - self.seconds,
            )
        self.seconds += perf_counter() - started
        divergence = divergence_of(losses, norms, self.model, self.steps)
        healthy = len(losses) if divergence is None else divergence.step - 1 - self.steps
        epoch = replace(_summary(losses[:healthy], norms[:healthy]), seconds=self.seconds)
        self.steps += len(losses)
        if divergence is None:
            epoch = self.evaluated(epoch, run, dataset)
            for value in (epoch.validation, epoch.test):
                if value is not None and not math.isfinite(value):
                    divergence = Divergence(self.steps, f"the {run.task.metric} is {value}")
        if divergence is not None:
            epoch = replace(epoch, validation=None, test=None)
        self.history.append(epoch)
        return divergence

    def evaluated(self, epoch: Epoch, run: Run, dataset: Dataset) -> Epoch:
        """Return the record with the metric; a sweep must not know the test split."""
        splits = {"validation": dataset.validation}
        if run.kind == "final":
            splits["test"] = dataset.test
        measured = {n: self.metric(self.model, s) for n, s in splits.items() if len(s)}
        return replace(epoch, **measured)  # type: ignore[arg-type]  # no name is `overflowed`

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epochs depend on, random states included."""
        on_gpu = self.device.type == "cuda"
        return {
            "model": self.model.state_dict(),
            "trainer": self.trainer.state_dict(),
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "random_of_gpu": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            "history": [asdict(epoch) for epoch in self.history],
            "steps": self.steps,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken."""
        self.model.load_state_dict(state["model"])
        self.trainer.load_state_dict(state["trainer"])
        self.order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        if state["random_of_gpu"] is not None:
            torch.cuda.set_rng_state(state["random_of_gpu"], self.device)
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.steps, self.seconds = state["steps"], state["seconds"]


def _spikes(model: nn.Module, split: Split) -> float | None:
    """Return the mean number of spikes for a sample, if the model has any."""
    count = getattr(model, "spike_count", None)
    if count is None:
        return None
    model.eval()
    counts = [count(inputs) for inputs in split.inputs.split(EVALUATION_BATCH)]
    return float(torch.cat(counts).double().mean())


@contextmanager
def reproducible(
    device: torch.device, dropout_seed: int, convolutions: Convolutions = "float32"
) -> Iterator[None]:
    """Use deterministic kernels and a random state of one's own; leave torch as it was."""
    before = torch.are_deterministic_algorithms_enabled()
    debugging: Any = torch.utils.deterministic
    filled = debugging.fill_uninitialized_memory
    gpus = [device] if device.type == "cuda" else []
    cudnn = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=convolutions == "tf32"
    )
    with torch.random.fork_rng(devices=gpus), cudnn:
        torch.manual_seed(dropout_seed)
        # On a GPU some kernels have no deterministic twin: better a warning than no result.
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        # It shows who reads memory that nobody wrote, and costs a kernel for every tensor.
        debugging.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            debugging.fill_uninitialized_memory = filled


def train_epoch(
    step: MakeStep,
    split: Split,
    batch_size: int,
    order: Generator,
    deadline: float = math.inf,
) -> tuple[list[float], list[float]]:
    """Train for an epoch; return the loss and the feedback norm of every step.

    The last batch may be smaller. No step begins after the deadline of `time.perf_counter`, but the
    first.

    Returns:
        The losses and the norms, one for each step.
    """
    batches = torch.randperm(len(split), generator=order).to(split.targets.device)
    steps: list[Step] = []
    for rows in batches.split(batch_size):
        steps.append(step(split.inputs[rows], split.targets[rows]))
        if perf_counter() > deadline:
            break
    losses = torch.stack([step.loss for step in steps])
    norms = torch.stack([step.feedback_norm for step in steps])
    return losses.tolist(), norms.tolist()


def divergence_of(
    losses: list[float], norms: list[float], model: nn.Module, before: int
) -> Divergence | None:
    """Return the first of the last steps, `before` which there were others, that went wrong.

    A norm that overflows is no such step in itself. Clipping multiplies a finite feedback by 0
    then, so the weights stay finite and a run goes on, as it does in the authors' code.
    """
    healthy = bool(torch.stack([p.isfinite().all() for p in model.parameters()]).all())
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=before + 1):
        if not math.isfinite(loss):
            return Divergence(step, f"the loss is {loss}")
        if math.isnan(norm) or (math.isinf(norm) and not healthy):
            return Divergence(step, f"the feedback norm is {norm}")
    return None if healthy else Divergence(before + len(losses), "a weight is not finite")


def _summary(losses: list[float], norms: list[float]) -> Epoch:
    """Return the training half of an epoch's record, from finite losses."""
    if not losses:
        return Epoch()
    finite = [norm for norm in norms if math.isfinite(norm)]
    return Epoch(
        train_loss=sum(losses) / len(losses),
        feedback_norm_median=median(finite) if finite else None,
        feedback_norm_max=max(finite, default=None),
        overflowed=len(norms) - len(finite),
    )


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Return the share of the split in [0, 1] that the model, in evaluation mode, gets right."""
    training = model.training
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=split.targets.device)
    for inputs, targets in zip(
        split.inputs.split(EVALUATION_BATCH), split.targets.split(EVALUATION_BATCH), strict=True
    ):
        right += (model(inputs).argmax(dim=1) == targets).sum()
    model.train(training)
    return int(right) / len(split)
