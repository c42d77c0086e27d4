"""The runs of a network and a method, and how one is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from numpy.random import SeedSequence
from torch import Tensor, nn

from baselines import LFP, BasicSettings, LFPSettings, Settings
from benchmarks.experiments.alignment import updates
from benchmarks.experiments.depth.networks import network
from benchmarks.experiments.depth.options import COMPARED, Cell, Options
from benchmarks.models import ACTIVATIONS
from benchmarks.runs.run import Result, Run, Task
from benchmarks.runs.training import dataset, train
from benchmarks.runs.tuning import FIRST_SWEEP_SEED
from benchmarks.storage.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class DepthRun(Run):
    """A network of some depth, trained by one method; `model` is its structure.

    Attributes:
        depth, width, epsilons: as in :class:`~benchmarks.experiments.depth.options.Options`.
    """

    task: ClassVar[Task] = Task("depth", "cross-entropy", "accuracy")

    depth: int
    width: int
    epsilons: tuple[float, ...]

    @property
    def label(self) -> str:
        """See :class:`Run`."""
        return f"{self.model} {self.method}, {self.depth} hidden layers"


def untrained(run: DepthRun, input_shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Return the network that the run begins with."""
    _, weight_seed = SeedSequence(run.seed).generate_state(2)
    return network(
        run.model,
        run.depth,
        run.width,
        ACTIVATIONS[run.activation],
        input_shape=input_shape,
        classes=classes,
        seed=int(weight_seed),
    )


def train_deep(run: DepthRun, device: torch.device, checkpoint: Checkpoint | None = None) -> Result:
    """Train a network from scratch; a reported run of LFP has the norms before it as `details`.

    Returns:
        What the run measured.
    """
    data = dataset(run.dataset, run.seed, device.type)
    model = untrained(run, data.input_shape, data.classes).to(device)
    batch = data.train.inputs[: run.batch_size], data.train.targets[: run.batch_size]
    watched = run.kind == "final" and run.method == LFP.name
    norms = norms_of(model, run.epsilons, *batch) if watched else {}
    result = train(model, run, data, device, checkpoint)
    if norms:
        result.details["norms"] = norms
    return result


def norms_of(
    model: nn.Module, epsilons: Sequence[float], inputs: Tensor, targets: Tensor
) -> dict[str, list[float]]:
    """Return the norm of the update of each weight matrix, by the name of what makes it."""
    plain = {n: method(model, Settings(1.0)) for n, method in COMPARED.items() if n != LFP.name}
    ours = {named(epsilon): LFP(model, LFPSettings(1.0, epsilon=epsilon)) for epsilon in epsilons}
    found = {
        name: [float(update.norm()) for update in updates(trainer, inputs, targets)]
        for name, trainer in {**ours, **plain}.items()
    }
    model.zero_grad()
    return found


def named(epsilon: float) -> str:
    """Return what LFP with this epsilon is called."""
    return f"lfp, epsilon {epsilon:g}"


def runs_of(cell: Cell, options: Options, settings: BasicSettings, sweep: bool) -> list[DepthRun]:
    """Return the runs of a cell with these options of its method."""
    kind: Literal["sweep", "final"] = "sweep" if sweep else "final"
    first, count = (FIRST_SWEEP_SEED, options.sweep_seeds) if sweep else (0, options.seeds)
    return [
        DepthRun(
            kind=kind,
            dataset=options.dataset,
            model=cell.structure,
            method=cell.method,
            activation=options.activation,
            seed=seed,
            epochs=options.epochs,
            batch_size=options.batch_size,
            settings=settings,
            depth=cell.depth,
            width=options.width,
            epsilons=tuple(options.epsilons),
        )
        for seed in range(first, first + count)
    ]


def sweep_of(cell: Cell, options: Options) -> list[DepthRun]:
    """Return the runs that the rate of a cell is chosen by."""
    trials = options.trials(cell.method)
    return [run for trial in trials for run in runs_of(cell, options, trial, sweep=True)]
