"""The feedback of torchvision's networks before training, beside |w| times the gradient.

The experiment `initial-feedback` of study files: each arm is LFP with some of its options, which
are all tried on the same weights, random images and labels. The model is in training mode, as it
would be in the first step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from pydantic import BaseModel, Field
from torch import nn

from baselines import LFP, LFPSettings
from baselines.options import fields_of
from baselines.registry import pick
from benchmarks.analysis.feedback import beside, between, filled, scaled_gradient
from benchmarks.experiments.base import STRICT, Experiment, Found, Results
from benchmarks.experiments.options import DECIDED, Seeds, Whole
from benchmarks.rendering.document import Section, Table
from benchmarks.rendering.text import Lines, seeds_of
from benchmarks.runs.run import Epoch, Result, Run, Task
from benchmarks.runs.training import reproducible
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.names import refuse_repeated

CLASSES = 5


def _of_torchvision(name: str) -> nn.Module:
    from torchvision.models import get_model  # noqa: PLC0415  (torchvision is slow to import)

    model: nn.Module = get_model(name, weights=None, num_classes=CLASSES)
    return model


def _small_maxvit(name: str) -> nn.Module:
    """Return torchvision's maxvit_t with windows of 2, not 7, so that it takes images of 64."""
    from torchvision.models import MaxVit  # noqa: PLC0415

    model: nn.Module = MaxVit(
        input_size=(64, 64),
        stem_channels=64,
        partition_size=2,
        block_channels=[64, 128, 256, 512],
        block_layers=[2, 2, 5, 2],
        head_dim=32,
        stochastic_depth_prob=0.2,
        num_classes=CLASSES,
    )
    return model


#: Networks with gates, which make themselves of their names.
NETWORKS: Mapping[str, Callable[[str], nn.Module]] = {
    "efficientnet_b0": _of_torchvision,
    "regnet_y_400mf": _of_torchvision,
    "maxvit_t": _small_maxvit,
}


class Options(BaseModel):
    """Compare LFP before training with the magnitude of the weights times the gradient.

    Attributes:
        networks: names of networks in torchvision; by default all that are known here.
        arms: options of LFP by the name of an arm.
        side: height and width of the random images, in pixels; maxvit_t takes 64 alone.
        batch: how many images there are.
        seeds: how many draws of weights and images there are.
    """

    model_config = STRICT

    networks: Annotated[list[str], Field(min_length=1)] = list(NETWORKS)
    arms: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    side: Annotated[int, Field(ge=32, le=1024)] = 64
    batch: Whole = 8
    seeds: Seeds = 3

    def settings(self, arm: str) -> LFPSettings:
        """Return the options of an arm; raises `ValueError` naming one that is wrong."""
        known = {n: f for n, f in fields_of(LFP.Options).items() if n not in DECIDED}
        for name in self.arms[arm]:
            pick(f"arms.{arm}", name, known)
        return LFPSettings(1.0, **self.arms[arm])


@dataclass(frozen=True, kw_only=True)
class FeedbackRun(Run):
    """One batch of random images through an untrained network, and its feedback.

    Attributes:
        arm: a name in :class:`Options`.
        side: of the images.
    """

    task: ClassVar[Task] = Task("initial-feedback", "none", "none")

    arm: str
    side: int

    @property
    def label(self) -> str:
        """See :class:`Run`."""
        return f"{self.model} {self.arm}"


def untrained(name: str, seed: int) -> nn.Module:
    """Return a network of torchvision, with weights that were not trained."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return NETWORKS[name](name)


def compare(run: FeedbackRun, device: torch.device, checkpoint: Checkpoint | None = None) -> Result:
    """Measure the feedback of one arm on one random network and batch.

    Returns:
        As `details` the norm of the feedback over that of |w| times the gradient, the cosine
        between the two, and the latter's norm.
    """
    started = perf_counter()
    model = untrained(run.model, run.seed).to(device)
    generator = torch.Generator().manual_seed(run.seed)
    inputs = torch.randn(run.batch_size, 3, run.side, run.side, generator=generator).to(device)
    targets = torch.randint(CLASSES, (run.batch_size,), generator=generator).to(device)
    with reproducible(device, run.seed):
        scaled = scaled_gradient(model, inputs, targets)
        feedback = filled(LFP(model, run.settings), inputs, targets)
    details = {"scaled_gradient": float(scaled.norm()), **beside(feedback, scaled)}
    return Result(run, (Epoch(),), None, 0, perf_counter() - started, details=details)


class InitialFeedback(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(compare)

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        refuse_repeated("networks", options.networks)
        for name in options.networks:
            pick("networks", name, NETWORKS)
        if "maxvit_t" in options.networks and options.side != 64:
            raise ValueError(f"side: {options.side}; allowed with maxvit_t: 64")
        return len(self.plan(options, {}))

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`."""
        return [
            FeedbackRun(
                kind="final",
                dataset="random images",
                model=network,
                method=LFP.name,
                activation="the network's",
                seed=seed,
                epochs=0,
                batch_size=options.batch,
                settings=options.settings(arm),
                arm=arm,
                side=options.side,
            )
            for network in options.networks
            for arm in options.arms
            for seed in range(options.seeds)
        ]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`."""
        frame = tidy([stored.result for stored in found.runs.values()])
        if frame.empty:
            return []
        caption = "Feedback beside |w| dL/dw before training"
        table = Table("feedback", caption, lines(frame), frame, remarks(options))
        return [Section("Initial feedback", tables=[table])]


def tidy(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each run."""
    return pd.DataFrame(
        {
            "network": result.run.model,
            "arm": result.run.arm,
            "seed": result.run.seed,
            **{name: result.details[name] for name in ("ratio", "cosine", "scaled_gradient")},
        }
        for result in results
        if isinstance(result.run, FeedbackRun)
    )


def lines(frame: pd.DataFrame) -> Lines:
    """Return a line for each network and arm: the least and the largest of the seeds."""
    header = ("network", "arm", "feedback over |w| dL/dw", "cosine")
    return header, [
        (
            *map(str, cell),
            between([_known(value) for value in of_cell["ratio"]], ".2g"),
            between([_known(value) for value in of_cell["cosine"]], ".2f"),
        )
        for cell, of_cell in frame.groupby(["network", "arm"], sort=False)
    ]


def _known(value: float | None) -> float | None:
    """Return the value, None where a column of numbers has NaN for it."""
    return None if pd.isna(value) else value


def remarks(options: Options) -> list[str]:
    """Return what a reader of the table has to know."""
    small = " maxvit_t has windows of 2, not 7." if "maxvit_t" in options.networks else ""
    return [
        "Before training, in training mode: the least and the largest over "
        f"{seeds_of(options.seeds)}, batches of {options.batch} random images with sides of "
        f"{options.side}, {CLASSES} classes, epsilon 1e-6 unless an arm says another.{small}"
    ]
