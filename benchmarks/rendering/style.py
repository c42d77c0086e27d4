"""How methods look in every figure: their labels, colours, strokes and hatches."""

from itertools import cycle

from baselines import METHODS

#: Okabe and Ito's palette, which colour-blind readers can tell apart, in the order of `METHODS`;
#: then it begins again, with other strokes and hatches.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
#: Curves that coincide, as LFP and |w|-scaled SGD nearly do with ReLU, stay visible.
STROKES = ("-", "-", "--", "-", "--", "-.", "-", ":", *["--"] * 2, *[":"] * 6)
HATCHES = ("", "///")  # of bars, the first and the second time round


def label_of(method: str) -> str:
    """Return what figures call a method, also one that is not ours."""
    return (METHODS[method].label if method in METHODS else "") or method


def styles() -> dict[str, tuple[str, str, str]]:
    """Return colour, stroke and hatch of every method, the same in every figure."""
    hatches = cycle([hatch for hatch in HATCHES for _ in PALETTE])
    styles = zip(cycle(PALETTE), cycle(STROKES), hatches, strict=False)
    return dict(zip(METHODS, styles, strict=False))
