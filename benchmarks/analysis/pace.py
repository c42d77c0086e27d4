"""How fast runs get where: accuracy at a time, time to an accuracy, and what no other run beats.

Accuracies are of the test split and known at the ends of epochs, so both are step functions. Time
is of training alone, without evaluation.
"""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.runs.run import Epoch, Result

#: Accuracies that a time to get there is told for, the highest three that any run reached.
TARGETS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
TARGETS_TOLD = 3


def timed(results: Iterable[Result]) -> bool:
    """Return whether all epochs know their time, as those of old runs do not."""
    return all(epoch.seconds is not None for result in results for epoch in result.history)


def accuracy_at(
    history: Sequence[Epoch], *, seconds: float = inf, epochs: float = inf
) -> float | None:
    """Return the accuracy after the last epoch that ended within both limits and has one."""
    accuracies = [
        epoch.test
        for number, epoch in enumerate(history)
        if number <= epochs and _seconds(epoch) <= seconds and epoch.test is not None
    ]
    return accuracies[-1] if accuracies else None


def time_to(history: Sequence[Epoch], target: float) -> float:
    """Return the seconds until the accuracy is at least the target; infinity if it never is."""
    for epoch in history:
        if epoch.test is not None and epoch.test >= target:
            return _seconds(epoch)
    return inf


def _seconds(epoch: Epoch) -> float:
    return 0.0 if epoch.seconds is None else epoch.seconds


def targets(results: Iterable[Result]) -> list[float]:
    """Return the TARGETS to tell the times of."""
    reached = max((epoch.test or 0.0 for r in results for epoch in r.history), default=0.0)
    return [target for target in TARGETS if target <= reached][-TARGETS_TOLD:]


def at_equal_cost(results: Sequence[Result]) -> pd.DataFrame:
    """Return accuracies at equal time and after equally many epochs, a row for each method.

    The time, for each activation, is what the method that is done first takes for its slowest run,
    so that each of its runs counts with all of its epochs; the number of epochs is the smallest
    that any run has, but for those that end by time if there are others. Diverged runs set neither,
    and count with the last accuracy before. There are no rows for an activation with which all runs
    diverge.
    """
    rows = []
    for activation, of_activation in _by("activation", results).items():
        methods = _by("method", of_activation)
        healthy = {
            method: [r for r in runs if r.divergence is None] for method, runs in methods.items()
        }
        if not any(healthy.values()):
            continue
        seconds = min(max(r.seconds for r in runs) for runs in healthy.values() if runs)
        whole = [r for runs in healthy.values() for r in runs]
        unlimited = [r for r in whole if r.run.budget is None]
        epochs = min(len(r.history) - 1 for r in unlimited or whole)
        for method, runs in methods.items():
            by_time = pd.Series([accuracy_at(r.history, seconds=seconds) for r in runs])
            by_epoch = pd.Series([accuracy_at(r.history, epochs=epochs) for r in runs])
            rows.append(
                {
                    "activation": activation,
                    "method": method,
                    "seeds": len(runs),
                    "seconds": seconds,
                    "accuracy_at_time_mean": by_time.mean(),
                    "accuracy_at_time_std": by_time.std(ddof=1),
                    "epochs": epochs,
                    "accuracy_at_epochs_mean": by_epoch.mean(),
                    "accuracy_at_epochs_std": by_epoch.std(ddof=1),
                }
            )
    return pd.DataFrame(rows)


def times_to_targets(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each method and target: the median time, and how many runs got there.

    A run that never does takes infinitely long, so the median is infinite if half of them miss.
    """
    told = targets(results)
    return pd.DataFrame(
        {
            "activation": activation,
            "method": method,
            "target": target,
            "seconds": float(np.median(times)),
            "reached": sum(time < inf for time in times),
            "seeds": len(times),
        }
        for activation, of_activation in _by("activation", results).items()
        for method, runs in _by("method", of_activation).items()
        for target in told
        for times in [[time_to(r.history, target) for r in runs]]
    )


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (seconds, accuracy) that none beats in one and equals in the other.

    >>> front([(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (1.0, 0.2)])
    [(1.0, 0.5), (2.0, 0.7)]
    """
    best, found = -inf, []
    for seconds, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if accuracy > best:
            best = accuracy
            found.append((seconds, accuracy))
    return found


def _by(field: str, results: Iterable[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Any]] = {}
    for result in results:
        found.setdefault(getattr(result.run, field), []).append(result)
    return found
