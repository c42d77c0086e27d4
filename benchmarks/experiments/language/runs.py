"""The model, its runs and what they measure."""

import math
from dataclasses import dataclass, replace
from statistics import mean
from time import perf_counter
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

import lfp_core as lfp
from baselines import LFP, Settings
from benchmarks.analysis.feedback import beside, filled, finite, scaled_gradient
from benchmarks.experiments.language.options import EVALUATIONS, METHODS, Arm, Options
from benchmarks.experiments.language.text import corpus, loss_on, windows
from benchmarks.models.llama import Llama, LlamaBlock
from benchmarks.models.transformer import Block, Positions
from benchmarks.runs.run import Divergence, Epoch, Result, Run, Task
from benchmarks.runs.training import dead_at_start, reproducible
from benchmarks.storage.checkpoint import Checkpoint


class Sizes(Protocol):
    """What decides the size of a :class:`GPT`; see :class:`Options`."""

    @property
    def context(self) -> int: ...  # noqa: D102
    @property
    def features(self) -> int: ...  # noqa: D102
    @property
    def layers(self) -> int: ...  # noqa: D102


class GPT(nn.Sequential):
    """Characters (N, T) to logits (N T, characters) of the one that follows each."""

    def __init__(self, characters: int, options: Sizes) -> None:
        features = options.features
        super().__init__(
            nn.Embedding(characters, features),
            Positions(options.context, features),
            *(Block(features, features // 16, nn.GELU, causal=True) for _ in range(options.layers)),
            nn.LayerNorm(features),
            nn.Flatten(0, 1),
            nn.Linear(features, characters),
        )


@dataclass(frozen=True, kw_only=True)
class LanguageRun(Run):
    """A run that sees sequences of a text; an epoch is one of :data:`EVALUATIONS` parts of it.

    Attributes:
        steps: of training, in all.
        context, features, layers: as in :class:`Options`.
    """

    task: ClassVar[Task] = Task("language", "cross-entropy", "cross-entropy in nats a character")

    steps: int
    context: int
    features: int
    layers: int

    @property
    def label(self) -> str:
        """See :class:`Run`."""
        settings = Settings.of(self.settings)
        return f"{self.method} {settings.optimizer} {settings.learning_rate:g} {self.seed}"


def train(run: LanguageRun, device: torch.device, checkpoint: Checkpoint | None = None) -> Result:
    """Train one model; a run takes seconds, and has no checkpoint.

    Returns:
        Its validation losses on the way, and its test loss at the end; as `details` what its first
        batch feeds back (:func:`at_start`).
    """
    text = corpus()
    model = untrained(run, text.characters).to(device)
    batches = torch.Generator().manual_seed(run.seed)
    last_start = len(text.train) - run.context - 1

    def batch() -> tuple[Tensor, Tensor]:
        starts = torch.randint(last_start, (run.batch_size,), generator=batches)
        inputs, targets = windows(text.train, starts, run.context)
        return inputs.to(device), targets.to(device)

    with reproducible(device, run.seed):
        before = batches.get_state()
        first = batch()
        dead = dead_at_start(model, run, run.settings, first, device)
        details = at_start(model, run, *first)
        batches.set_state(before)
        trainer = run.methods[run.method](model, run.settings)
        history, seconds, losses = [Epoch(seconds=0.0)], 0.0, list[float]()
        for step in range(run.steps):
            started = perf_counter()
            losses.append(float(trainer.step(*batch()).loss))
            seconds += perf_counter() - started
            if (step + 1) * EVALUATIONS // run.steps >= len(history):
                loss = loss_on(model, text.validation.to(device), run.context)
                trained = finite(mean(losses))
                history.append(Epoch(trained, validation=finite(loss), seconds=seconds))
                losses.clear()
        test = finite(loss_on(model, text.test.to(device), run.context))
    history[-1] = replace(history[-1], test=test)
    lost = next((e for e, epoch in enumerate(history[1:], 1) if epoch.validation is None), None)
    diverged = lost is not None or test is None
    return Result(
        run,
        tuple(history),
        Divergence(steps_at(lost or EVALUATIONS, run.steps), "the loss is not finite")
        if diverged
        else None,
        run.steps,
        seconds,
        dead_at_start=dead,
        dead_at_end=lfp.dead_parameters(model),
        details=details,
    )


def untrained(run: LanguageRun, characters: int) -> nn.Sequential:
    """Return the model that the run begins with; torch's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.seed)
        if run.model == "llama":
            return Llama(characters, run.features, run.layers, run.context)
        return GPT(characters, run)


def at_start(model: nn.Module, run: LanguageRun, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """Return what a batch feeds back, beside |w| times the gradient.

    Returns:
        `ratio` and `cosine` as :func:`~benchmarks.analysis.feedback.beside` has them, and
        `by_depth`: the norm of each block's feedback over that of the first block's. Where the
        method is the gradient, its feedback is |w| times the gradient.
    """
    found = scaled = scaled_gradient(model, inputs, targets)
    if run.method != METHODS["gradient"]:
        found = filled(LFP(model, run.settings), inputs, targets)
    details = {"by_depth": by_depth(model), **beside(found, scaled)}
    model.zero_grad()
    return details


def by_depth(model: nn.Module) -> list[float | None]:
    """Return the norm of each block's ``p.grad`` over that of the first block's."""
    norms = [
        torch.cat([p.grad.double().flatten() for p in block.parameters() if p.grad is not None])
        .norm()
        .item()
        for block in model.children()
        if isinstance(block, Block | LlamaBlock)
    ]
    return [finite(norm / norms[0]) if norms[0] else None for norm in norms]


def steps_at(epoch: int, steps: int) -> int:
    """Return how many steps there are before the evaluation that ends an epoch."""
    return math.ceil(epoch * steps / EVALUATIONS)


def runs_of(arm: Arm, options: Options) -> dict[float, list[LanguageRun]]:
    """Return the runs of an arm by their learning rates."""
    return {
        rate: [
            LanguageRun(
                kind="final",
                dataset="sklearn-descriptions",
                model=options.model,
                method=METHODS[arm.method],
                activation="gelu",
                seed=seed,
                epochs=EVALUATIONS,
                batch_size=options.batch,
                settings=arm.settings(rate, options.clip_norm),
                steps=options.steps,
                context=options.context,
                features=options.features,
                layers=options.layers,
            )
            for seed in range(options.seeds)
        ]
        for rate in options.learning_rates[arm.optimizer]
    }
