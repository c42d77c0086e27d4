"""Text that fits: how wide it is, where to break it, and how labels make room for each other."""

from collections.abc import Sequence
from functools import lru_cache
from textwrap import fill

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from scipy.optimize import isotonic_regression

from benchmarks.rendering.style import SIZE


@lru_cache(maxsize=1024)
def width_of(text: str, size: float = SIZE) -> float:
    """Return the width of the widest line of a text, in points as its size is."""
    font = FontProperties(size=size)
    return max(
        (
            text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]
            for line in text.splitlines()
            if line
        ),
        default=0.0,
    )


def wrapped(text: str, width: float, size: float = SIZE) -> str:
    """Return the text in lines that are at most so wide, broken within words where it has to be.

    Args:
        text: of any length; blanks and line breaks count the same.
        width: in points; a single character may be wider.
        size: of the text, in points.
    """
    for characters in range(len(text), 1, -1):
        lines = fill(text, characters)
        if width_of(lines, size) <= width:
            return lines
    return fill(text, 1) if text else text


def height_of(text: str) -> int:
    """Return the number of lines of a text."""
    return 1 + text.count("\n")


def spread(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Return places for labels that are as near to the wanted ones as they can be.

    The sum of the squares of what they are moved by is the least that there is. Labels keep their
    order; of equal ones, the first is lower.

    Args:
        wanted: where each label is to be.
        distance: at least between a label and the next.
        low: no place is below it.
        high: no place is above it, unless there is no room for all labels from `low` on.
    """
    if not len(wanted):
        return []
    order = np.argsort(wanted, kind="stable")
    # Each place minus the room of the labels below it may equal the last one, but not fall.
    room = distance * np.arange(len(wanted))
    rising = isotonic_regression(np.asarray(wanted, dtype=float)[order] - room).x
    places = np.clip(rising, low, max(low, high - room[-1])) + room
    found = np.empty(len(wanted))
    found[order] = places
    return [float(place) for place in found]
