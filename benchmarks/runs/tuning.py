"""Choosing the options of a method by trials, on the validation split alone.

Trials are the learning rates of a grid, or points of the space that the method declares
(:class:`baselines.options.Search`): as many for every method, from a scrambled Sobol sequence,
which fills a space of any number of options more evenly than a grid or independent draws (Sobol
1967; Owen 1998).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import exp, log
from statistics import mean
from typing import Any, Literal

from scipy.stats import qmc

from baselines import BasicSettings
from baselines.options import Choice as Values
from baselines.options import LogUniform, Search
from benchmarks.runs.run import Result

#: The sweep's seeds start here, so that no reported run was tuned on its own draw or weights.
FIRST_SWEEP_SEED = 1000
#: Share of a range at each end: what is chosen there asks for a wider range.
MARGIN = 0.1
#: Significant digits of a number that is tried, so that a table can tell it.
DIGITS = 3
#: Decimal places of a score; accuracies differ by more, and rounding errors by less.
PLACES = 9

Edge = Literal["lowest", "highest"]


@dataclass(frozen=True)
class Choice:
    """The options of a method; if from trials, their score, and what lies at an edge.

    Attributes:
        settings: the options.
        score: the mean metric on the validation split over the seeds of the trials.
        edges: the options whose chosen value ends a grid, or lies within a tenth of the end of a
            range (of its logarithm), and at which end.
    """

    settings: BasicSettings
    score: float | None = None
    edges: Mapping[str, Edge] = field(default_factory=dict)

    @property
    def learning_rate(self) -> float:
        """The learning rate."""
        return self.settings.learning_rate

    @property
    def edge(self) -> Edge | None:
        """The end at which the learning rate is, if it is at one."""
        return self.edges.get("learning_rate")


def grid(settings: BasicSettings, rates: Iterable[float]) -> list[BasicSettings]:
    """Return the options with each of the learning rates."""
    return [replace(settings, learning_rate=rate) for rate in rates]


@cache  # a plan asks for the same points at each look at its results
def sampled(
    settings: BasicSettings, names: tuple[str, ...], count: int, search: int = 0
) -> tuple[BasicSettings, ...]:
    """Return points of a method's space, in each of which the named options have other values.

    A method has the same points in every study that asks for as many by the same search.

    Args:
        settings: what the other options are.
        names: of options that the method declares a range for.
        count: how many points; powers of 2 fill the space most evenly.
        search: the number of the search, of which each has points of its own.

    Returns:
        The options of each trial.
    """
    space = settings.space()
    whole = 1 << (count - 1).bit_length()  # of fewer points than a power of 2 Sobol's warns
    points = qmc.Sobol(len(names), scramble=True, rng=search).random(whole)[:count]
    return tuple(
        replace(settings, **{n: value_at(space[n], u) for n, u in zip(names, point, strict=True)})
        for point in points.tolist()
    )


def value_at(search: Search, share: float) -> Any:
    """Return the value at a share in [0, 1) of the way through a space.

    >>> value_at(LogUniform(0.01, 1), 0.5), value_at(Values(("a", "b")), 0.7)
    (0.1, 'b')
    """
    if isinstance(search, LogUniform):
        value = exp(log(search.low) + share * log(search.high / search.low))
        return float(f"{value:.{DIGITS}g}")
    assert isinstance(search, Values)
    return search.values[int(share * len(search.values))]


def choose(results: Iterable[Result]) -> Choice:
    """Return the options with the highest mean on the validation split, by :func:`ranked`.

    Raises:
        ValueError: there is no result.
    """
    scores = ranked(results)
    if not scores:
        raise ValueError("results: a choice needs at least one")
    best, score = next(iter(scores.items()))
    return Choice(best, score, edges_of(scores, best))


def ranked(results: Iterable[Result]) -> dict[BasicSettings, float]:
    """Return all options that were tried and their means on the validation split, best first.

    A diverged run scores 0, whatever it reached before. Of equals, up to rounding, the smallest
    learning rate comes first.
    """
    scores: dict[BasicSettings, list[float]] = {}
    for result in results:
        score = 0.0 if result.diverged else result.validation
        scores.setdefault(result.run.settings, []).append(score or 0.0)
    means = {settings: mean(each) for settings, each in scores.items()}
    # Accuracies of few examples tie, and their mean has rounding errors.
    order = sorted(means, key=lambda s: (-round(means[s], PLACES), s.learning_rate))
    return {settings: means[settings] for settings in order}


def edges_of(tried: Collection[BasicSettings], best: BasicSettings) -> dict[str, Edge]:
    """Return which options of the best trial lie at an edge of what was tried."""
    space = best.space()
    varied = [n for n in space if len({getattr(s, n) for s in tried}) > 1]
    if varied == ["learning_rate"]:
        edge = edge_of({settings.learning_rate for settings in tried}, best.learning_rate)
        return {} if edge is None else {"learning_rate": edge}
    found: dict[str, Edge] = {}
    for name in varied:
        search = space[name]
        if isinstance(search, LogUniform):
            share = log(getattr(best, name) / search.low) / log(search.high / search.low)
            if not MARGIN <= share <= 1 - MARGIN:
                found[name] = "lowest" if share < MARGIN else "highest"
    return found


def edge_of(rates: Collection[float], best: float) -> Edge | None:
    """Return the end of a grid of several rates that the best one is, if it is one.

    >>> edge_of([0.1, 0.2, 0.3], 0.3)
    'highest'
    """
    if len(rates) < 2 or min(rates) < best < max(rates):
        return None
    return "lowest" if best == min(rates) else "highest"
