"""Choosing the learning rate of a method from a small grid, on the validation split alone."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from benchmarks.runs.run import Result

#: The sweep's seeds start here, so that no reported run was tuned on its own draw or weights.
FIRST_SWEEP_SEED = 1000

Edge = Literal["lowest", "highest"]


@dataclass(frozen=True)
class Choice:
    """A learning rate; if from a sweep, its score and whether the grid ended with it."""

    learning_rate: float
    score: float | None = None  # mean validation accuracy over the sweep's seeds, in [0, 1]
    edge: Edge | None = None


def choose(results: Iterable[Result]) -> Choice:
    """Return the rate with the highest mean validation accuracy; of equals, the smallest.

    A diverged run scores 0, whatever it reached before.

    Raises:
        ValueError: there is no result.
    """
    scores: dict[float, list[float]] = {}
    for result in results:
        score = 0.0 if result.divergence else result.validation
        scores.setdefault(result.run.settings.learning_rate, []).append(score or 0.0)
    if not scores:
        raise ValueError("results: a choice needs at least one")
    rates = sorted(scores)
    best = max(rates, key=lambda rate: mean(scores[rate]))  # the first, so the smallest, of equals
    return Choice(best, mean(scores[best]), edge_of(rates, best))


def edge_of(rates: Collection[float], best: float) -> Edge | None:
    """Return the end of a grid of several rates that the best one is, if it is one.

    >>> edge_of([0.1, 0.2, 0.3], 0.3)
    'highest'
    """
    if len(rates) < 2 or min(rates) < best < max(rates):
        return None
    return "lowest" if best == min(rates) else "highest"
