"""How figures look: their width, the size of their text, and the labels and colours of methods."""

from collections.abc import Sequence
from typing import Any

from baselines import METHODS

WIDTH = 5.4  # inches of a figure: shown 390 pixels wide, 9 points of it are 9 pixels
SIZE = 9.0  # points of all text
LINE = 1.25 * SIZE  # from one line of text to the next
TEXT, GRID = "#1d2329", "#e3e3e3"  # on white, also on a dark page
#: Names are shown as they are, text of an SVG stays text, and the same results give the same bytes.
RC: Any = {
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "text.color": TEXT,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lfp-bench",
}

#: Okabe and Ito's palette, which colour-blind readers can tell apart, in the order of `METHODS`.
#: Its yellow cannot be seen on white; Tol's olive stands for it.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999933", "#000000")
#: Strokes of the lines in a panel, from the lowest up: one below is seen through the gaps.
STROKES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (7, 2, 1.5, 2)),
    (0, (3, 3)),
    (0, (1, 2)),
)
#: Widths of these lines: those below are wider than those above them.
THICKEST, THINNEST = 3.0, 1.5


def label_of(method: str) -> str:
    """Return what figures call a method, also one that is not ours."""
    return (METHODS[method].label if method in METHODS else "") or method


def colours(names: Sequence[str], among: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name, all of them different while the palette has enough.

    Args:
        names: of lines in a panel.
        among: those of all lines that a panel of the figure could have, so that a name which is no
            method's has the same colour in every panel.
    """
    methods = list(METHODS)
    found: dict[str, str] = {}
    for name in names:
        start = (methods if name in METHODS else among).index(name)
        wanted = PALETTE[start % len(PALETTE)]
        free = [colour for colour in PALETTE if colour not in found.values()]
        found[name] = wanted if wanted in free or not free else free[0]
    return found


def strokes(count: int) -> list[dict[str, Any]]:
    """Return the strokes of so many lines in a panel, in the order in which they are drawn."""
    step = (THICKEST - THINNEST) / max(len(STROKES) - 1, 1)
    return [
        {"linestyle": STROKES[number % len(STROKES)], "linewidth": max(THICKEST - number * step, 1)}
        for number in range(count)
    ]
