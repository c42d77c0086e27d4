"""How many of many that are alike a test tries: a few, or all of them in ``make test-thorough``."""

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, TypeVar

import hypothesis
import pytest
from hypothesis import Phase
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def crossed(*factors: Iterable[Any]) -> list[Any]:
    """Return all combinations of values, for ``pytest.mark.parametrize``.

    As many as have each value once are in every run; the others are marked ``thorough``.

    Args:
        factors: the values of each argument of the test.

    Returns:
        What `parametrize` takes, in the order of the values.
    """
    columns = [list(values) for values in factors]
    few = {
        tuple(column[row % len(column)] for column in columns)
        for row in range(max(map(len, columns)))
    }
    return [
        pytest.param(*values, marks=() if values in few else pytest.mark.thorough)
        for values in product(*columns)
    ]


def examples(count: int) -> hypothesis.settings:
    """Return settings that draw so many examples, or ten times as many if LFP_PROFILE says explore.

    Args:
        count: where a test that says nothing draws 100.

    Returns:
        The settings, which decorate a test.
    """
    return hypothesis.settings(max_examples=count * hypothesis.settings().max_examples // 100)


def example_of(strategy: SearchStrategy[T], wanted: Callable[[T], bool], tries: int = 2000) -> T:
    """Return the first example that is as wanted; it is not made smaller, which takes long.

    Args:
        strategy: draws the examples.
        wanted: tells whether one is.
        tries: at most.

    Returns:
        The example.

    Raises:
        hypothesis.errors.NoSuchExample: none of them is.
    """
    drawn = hypothesis.settings(phases=[Phase.generate], max_examples=tries)
    return hypothesis.find(strategy, wanted, settings=drawn)
