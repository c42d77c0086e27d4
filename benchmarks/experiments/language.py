"""A small GPT that learns English letter by letter: LFP's epsilon and optimiser against gradients.

The text is what scikit-learn ships as descriptions of its data sets, 43 kB of prose and tables: its
last tenth is for the test, the tenth before for validation. That is little text, and a model that
is trained for minutes; what is compared is how far each arm gets in the same number of steps.

An arm is what fills ``p.grad`` (LFP with an epsilon and a treatment of attention, or the gradient
of the cross-entropy) and the optimiser that follows it. Every arm has the same learning rates to
choose from, by the validation loss averaged over the seeds, and is reported by its test loss there.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

import lfp_core as lfp
from baselines import OPTIMIZERS
from benchmarks.experiments.base import STRICT, Experiment, Place, Report
from benchmarks.models.transformer import Block, Positions
from benchmarks.rendering import curves
from benchmarks.rendering.text import Lines, document, edge_notes
from benchmarks.runs.tuning import edge_of
from benchmarks.storage.files import write
from benchmarks.storage.records import Record
from lfp_core.propagation import Attention

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Optimizer = Literal["sgd", "adam"]
MOMENTUM = 0.9
EVALUATIONS = 10  # of the validation loss within a run, the last one at its end


class Arm(NamedTuple):
    """What fills ``p.grad`` (the gradient has no epsilon and no attention), and what steps."""

    method: str
    optimizer: Optimizer
    epsilon: float | None = None
    attention: Attention | None = None


class Options(BaseModel):
    """The keys of a part in a study file.

    Attributes:
        optimizers: that each arm is made with.
        epsilons: of LFP.
        attentions: LFP's treatments of attention.
        learning_rates: by optimiser: those that every arm with it chooses from.
        seeds: of initialisation and batches.
        steps: of training.
        batch: how many sequences a step sees.
        context: how many characters a sequence has.
        features: of a character; heads have 16 of them.
        layers: how many blocks.
        clip_norm: the 2-norm that ``p.grad`` is clipped to.
    """

    model_config = STRICT
    optimizers: list[Optimizer] = ["sgd", "adam"]
    epsilons: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = [1e-6, 1e-2, 1.0]
    attentions: list[Attention] = ["uniform", "constant"]
    learning_rates: dict[Optimizer, Annotated[list[Positive], Field(min_length=1)]]
    seeds: Annotated[int, Field(ge=1)] = 3
    steps: Annotated[int, Field(ge=EVALUATIONS)] = 1000
    batch: Annotated[int, Field(ge=1)] = 16
    context: Annotated[int, Field(ge=2, le=1000)] = 64
    features: Annotated[int, Field(ge=16, multiple_of=16)] = 64
    layers: Annotated[int, Field(ge=1)] = 2
    clip_norm: Positive = 1.0

    def arms(self) -> list[Arm]:
        """Return the gradient with every optimiser, then LFP with every combination."""
        gradients = [Arm("gradient", optimizer) for optimizer in self.optimizers]
        return gradients + [
            Arm("lfp", optimizer, epsilon, attention)
            for optimizer in self.optimizers
            for attention in self.attentions
            for epsilon in self.epsilons
        ]


class Text(NamedTuple):
    """Characters as indices (length,), and how many different ones there are."""

    train: Tensor
    validation: Tensor
    test: Tensor
    characters: int


def corpus() -> Text:
    """Return scikit-learn's descriptions, in the order of their names."""
    folder = files("sklearn.datasets") / "descr"
    parts = sorted(
        (path.name, path.read_text("utf-8")) for path in folder.iterdir() if path.is_file()
    )
    text = "".join(content for name, content in parts if name.endswith(".rst"))
    alphabet = sorted(set(text))
    index = {character: i for i, character in enumerate(alphabet)}
    indices = torch.tensor([index[character] for character in text])
    cuts = [int(0.8 * len(indices)), int(0.9 * len(indices))]
    training, validation, test = torch.tensor_split(indices, cuts)
    return Text(training, validation, test, len(alphabet))


class GPT(nn.Sequential):
    """Characters (N, T) to logits (N T, characters) of the one that follows each."""

    def __init__(self, characters: int, options: Options) -> None:
        features = options.features
        super().__init__(
            nn.Embedding(characters, features),
            Positions(options.context, features),
            *(Block(features, features // 16, nn.GELU, causal=True) for _ in range(options.layers)),
            nn.LayerNorm(features),
            nn.Flatten(0, 1),
            nn.Linear(features, characters),
        )


def windows(text: Tensor, starts: Sequence[int] | Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return inputs (N, length) that begin at the starts, and what follows (N length,)."""
    cut = torch.stack([text[start : start + length + 1] for start in starts])
    return cut[:, :-1], cut[:, 1:].flatten()


def loss_on(model: nn.Module, text: Tensor, context: int) -> float:
    """Return the cross-entropy of a character in nats, over consecutive windows."""
    inputs, targets = windows(text, range(0, len(text) - context, context), context)
    with torch.no_grad():
        return float(F.cross_entropy(model(inputs), targets))


def fill_gradients(model: nn.Module, arm: Arm, inputs: Tensor, targets: Tensor) -> None:
    """Add what the arm descends to ``p.grad``."""
    if arm.epsilon is None or arm.attention is None:
        F.cross_entropy(model(inputs), targets).backward()
        return
    with lfp.feedback(arm.epsilon, attention=arm.attention):
        logits = model(inputs)
    lfp.backward(logits, lfp.rewards.softmax(logits, targets))


def train(arm: Arm, learning_rate: float, seed: int, options: Options, text: Text) -> Record:
    """Train one GPT; return its validation losses on the way (None: not finite), and test loss.

    And which parameters cannot learn, as :class:`benchmarks.runs.run.Result` has it.

    Returns:
        The losses, and the parameters that cannot learn, in plain JSON types.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = GPT(text.characters, options)
    batches = torch.Generator().manual_seed(seed)
    optimizer = OPTIMIZERS[arm.optimizer](model.parameters(), learning_rate, MOMENTUM)
    losses: list[float | None] = []
    last_start = len(text.train) - options.context - 1
    for step in range(options.steps):
        starts = torch.randint(last_start, (options.batch,), generator=batches)
        optimizer.zero_grad()
        fill_gradients(model, arm, *windows(text.train, starts, options.context))
        if step == 0:
            dead_at_start = asdict(lfp.dead_parameters(model))
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        optimizer.step()
        if (step + 1) * EVALUATIONS // options.steps > len(losses):
            losses.append(_finite(loss_on(model, text.validation, options.context)))
    test = _finite(loss_on(model, text.test, options.context))
    return {
        "validation_losses": losses,
        "test_loss": test,
        "dead_at_start": dead_at_start,
        "dead_at_end": asdict(lfp.dead_parameters(model)),
    }


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


class Language(Experiment[Options]):
    """See the module."""

    schema = Options
    axes = frozenset({"optimizers", "epsilons", "attentions", "learning_rates", "seeds"})

    def check(self, options: Options) -> None:
        """Raise `ValueError` for an optimiser without rates."""
        for name in options.optimizers:
            if name not in options.learning_rates:
                raise ValueError(f"learning_rates: there must be some for {name!r}")

    def runs(self, options: Options) -> int:
        """Return the number of trainings."""
        return sum(1 for _ in self._runs(options))

    def _runs(self, options: Options) -> Iterator[tuple[Arm, float, int]]:
        self.check(options)
        for arm in options.arms():
            for rate in options.learning_rates[arm.optimizer]:
                for seed in range(options.seeds):
                    yield arm, rate, seed

    def carry_out(self, options: Options, folder: Path, place: Place) -> Report:
        """Make the runs, and write the table and the figure."""
        records, text = self.records(options, folder), corpus()
        found: list[Record] = []
        for arm, rate, seed in self._runs(options):
            description = {**arm._asdict(), "learning_rate": rate, "seed": seed}
            make = partial(train, arm, rate, seed, options, text)
            found.append(records.get(description, make))
            place.advance(f"{arm.method} {arm.optimizer} {rate:g} {seed}")
        rows = [chosen(arm, found) for arm in options.arms()]
        remarks = [
            "Losses in nats a character, mean ± standard deviation, seeds: "
            f"{options.seeds}; after {options.steps} steps of {options.batch} sequences of "
            f"{options.context} characters.",
            f"Guessing evenly among the {text.characters} characters costs "
            f"{math.log(text.characters):.2f}, and by their frequency {entropy(text):.2f}.",
            "The learning rate was chosen for each arm by its validation loss, out of "
            + "; ".join(f"{n}: {r}" for n, r in options.learning_rates.items())
            + ".",
            *edge_notes(row["at_edge"] for row in rows),
            f"Command: `{place.command}`",
        ]
        table = lines(rows)
        write(folder / "table.md", document(table, remarks).encode())
        write(folder / "validation-loss-by-step.png", figure(rows, options))
        return Report(table, remarks, rows)


def entropy(text: Text) -> float:
    """Return the cross-entropy of the test text under the letters' frequencies in training."""
    counts = torch.bincount(text.train, minlength=text.characters) + 1.0
    return float(-(counts / counts.sum()).log()[text.test].mean())


def chosen(arm: Arm, records: Sequence[Record]) -> dict[str, Any]:
    """Return the arm's rate with the least validation loss, and the losses there."""

    def runs(rate: float) -> list[Record]:
        own = {**arm._asdict(), "learning_rate": rate}.items()
        return [record for record in records if record.items() >= own]

    def validation(rate: float) -> list[float | None]:
        return [record["validation_losses"][-1] for record in runs(rate)]

    def total(rate: float) -> float:
        return sum(math.inf if loss is None else loss for loss in validation(rate))

    rates = sorted({r["learning_rate"] for r in records if r["optimizer"] == arm.optimizer})
    best = min(rates, key=total)
    return {
        **arm._asdict(),
        "learning_rate": best,
        "at_edge": edge_of(rates, best) is not None,
        "validation_losses": [record["validation_losses"] for record in runs(best)],
        "validation_loss": validation(best),
        "test_loss": [record["test_loss"] for record in runs(best)],
    }


def figure(rows: Sequence[dict[str, Any]], options: Options) -> bytes:
    """Return the validation losses of the rows that :func:`chosen` returns, by step, as a PNG."""
    steps = [math.ceil(i * options.steps / EVALUATIONS) for i in range(1, EVALUATIONS + 1)]
    panels: dict[str, dict[str, list[list[float]]]] = {name: {} for name in options.optimizers}
    for row in rows:
        own = [
            row["method"],
            *([f"{row['epsilon']:g}", row["attention"]] if row["attention"] else []),
        ]
        panels[row["optimizer"]][" ".join(own)] = [
            list(takewhile(lambda loss: loss is not None, losses))
            for losses in row["validation_losses"]
        ]
    return curves.png(
        panels,
        steps,
        across="step",
        up="validation loss (nats a character)",
        title=f"A small GPT by optimiser: mean and range over {options.seeds} seeds",
    )


def lines(rows: Sequence[dict[str, Any]]) -> Lines:
    """Return the table of the rows that :func:`chosen` returns."""
    header = ("method", "optimiser", "epsilon", "attention", "rate", "validation loss", "test loss")
    return header, [
        (
            row["method"],
            row["optimizer"],
            "-" if row["epsilon"] is None else f"{row['epsilon']:g}",
            row["attention"] or "-",
            f"{row['learning_rate']:g}" + (" (edge)" if row["at_edge"] else ""),
            spread(row["validation_loss"]),
            spread(row["test_loss"]),
        )
        for row in rows
    ]


def spread(losses: Sequence[float | None]) -> str:
    """Return mean ± standard deviation; of one loss, the loss; None is that of a diverged run."""
    finite = [loss for loss in losses if loss is not None]
    if len(finite) < len(losses):
        return "diverged"
    values = torch.tensor(finite, dtype=torch.float64)
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{values.mean():.3f} ± {values.std(correction=0):.3f}"
