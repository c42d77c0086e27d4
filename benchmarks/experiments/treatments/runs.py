"""The runs of an arm, and how one is made."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from numpy.random import SeedSequence
from torch import nn

from baselines import BasicSettings
from benchmarks.experiments.treatments.networks import NETWORKS
from benchmarks.experiments.treatments.options import Options
from benchmarks.runs import training
from benchmarks.runs.run import Result, Run, Task
from benchmarks.runs.tuning import FIRST_SWEEP_SEED
from benchmarks.storage.checkpoint import Checkpoint

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class TreatedRun(Run):
    """A run of an arm; the model is one of
    :data:`~benchmarks.experiments.treatments.networks.NETWORKS`.
    """

    task: ClassVar[Task] = Task("treatment", "cross-entropy", "accuracy")

    arm: str

    @property
    def label(self) -> str:
        """See :class:`Run`."""
        return f"{self.model} {self.arm}"


def untrained(run: TreatedRun, input_shape: tuple[int, ...]) -> nn.Module:
    """Return the network that the run begins with; torch's random state stays as it was."""
    _, weight_seed = SeedSequence(run.seed).generate_state(2)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(weight_seed))
        return NETWORKS[run.model].build(input_shape)


def train(run: TreatedRun, device: torch.device, checkpoint: Checkpoint | None = None) -> Result:
    """Train a network from scratch; see :func:`benchmarks.runs.training.train`.

    Returns:
        What the run measured.
    """
    data = training.dataset(run.dataset, run.seed, device.type)
    model = untrained(run, data.input_shape).to(device)
    return training.train(model, run, data, device, checkpoint)


def sweep(network: str, arm: str, options: Options) -> list[TreatedRun]:
    """Return the runs that an arm is chosen by."""
    seeds = range(FIRST_SWEEP_SEED, FIRST_SWEEP_SEED + options.sweep_seeds)
    return [
        run
        for settings in options.trials(arm)
        for run in _runs("sweep", network, arm, settings, seeds, options)
    ]


def final(network: str, arm: str, settings: BasicSettings, options: Options) -> list[TreatedRun]:
    """Return the reported runs of an arm."""
    return _runs("final", network, arm, settings, range(options.seeds), options)


def _runs(
    kind: Literal["final", "sweep"],
    network: str,
    arm: str,
    settings: BasicSettings,
    seeds: Iterable[int],
    options: Options,
) -> list[TreatedRun]:
    return [
        TreatedRun(
            kind=kind,
            dataset=options.dataset,
            model=network,
            method=options.method_of(arm),
            activation=NETWORKS[network].activation,
            seed=seed,
            epochs=options.epochs if kind == "final" else options.sweep_epochs,
            batch_size=BATCH,
            settings=settings,
            arm=arm,
        )
        for seed in seeds
    ]
