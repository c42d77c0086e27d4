"""A small Llama, trained on text letter by letter."""

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from benchmarks.experiments.language import text as language
from benchmarks.experiments.treatments.arms import CPU, Options
from benchmarks.experiments.treatments.feedback import compared, descended, fill, finite
from benchmarks.models.llama import Llama, LlamaBlock
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Record


@dataclass(frozen=True)
class LlamaBudget:
    """The small Llama, and how every arm is trained."""

    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    seeds: int = 3
    steps: int = 200
    batch: int = 16
    context: int = 32
    features: int = 32
    blocks: int = 3


def by_depth(model: nn.Module, scaled: bool) -> list[float | None]:
    """Return the norm of each block's ``p.grad``, times |w| if scaled, over the first block's."""
    norms = []
    for block in model.children():
        if isinstance(block, LlamaBlock):
            moved = [
                p.grad * (p.detach().abs() if scaled else 1.0)
                for p in block.parameters()
                if p.grad is not None
            ]
            norms.append(torch.cat([part.double().flatten() for part in moved]).norm())
    return [finite(float(norm / norms[0])) for norm in norms]


def train_llama(
    options: Options | None, rate: float, seed: int, budget: LlamaBudget, text: language.Text
) -> Record:
    """Train a small Llama with Adam; return the losses at its end (None: not finite).

    Returns:
        The losses, and what the first step was: the feedback by depth, and as a whole beside
        |w| dL/dw.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = Llama(text.characters, budget.features, budget.blocks, budget.context)
    batches = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    last_start = len(text.train) - budget.context - 1
    first: Record = {}
    for _ in range(budget.steps):
        starts = torch.randint(last_start, (budget.batch,), generator=batches)
        inputs, targets = language.windows(text.train, starts, budget.context)
        first = first or at_start(model, inputs, targets, options)
        optimizer.zero_grad()
        fill(model, inputs, targets, options, 1e-6)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {
        "validation_loss": finite(language.loss_on(model, text.validation, budget.context)),
        "test_loss": finite(language.loss_on(model, text.test, budget.context)),
        **first,
    }


def at_start(model: nn.Module, inputs: Tensor, targets: Tensor, options: Options | None) -> Record:
    """Return what the feedback of a batch is, the gradient's times |w|."""
    scaled = descended(model, inputs, targets, None, 0.0)
    feedback = descended(model, inputs, targets, options, 1e-6)
    return {"by_depth": by_depth(model, scaled=options is None), **compared(feedback, scaled)}


def study_llama(options: Options | None, budget: LlamaBudget, text: language.Text) -> Record:
    """Return the runs of all rates, and the rate with the least validation loss."""
    runs = [
        {"rate": rate, "seed": seed, **train_llama(options, rate, seed, budget, text)}
        for rate, seed in product(budget.rates, range(budget.seeds))
    ]

    def total(rate: float) -> float:
        losses = [run["validation_loss"] for run in runs if run["rate"] == rate]
        return sum(math.inf if loss is None else loss for loss in losses)

    best = min(budget.rates, key=total)
    return {"options": options, "runs": runs, "chosen": best, "environment": describe(CPU)}
