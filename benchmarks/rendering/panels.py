"""Figures of panels: titles that fit, and a label at the end of each line or a legend above all."""

from collections.abc import Callable, Sequence
from io import BytesIO
from math import ceil

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import AutoLocator, MaxNLocator

from benchmarks.rendering.inline import marked, of_line
from benchmarks.rendering.labels import height_of, spread, width_of, wrapped
from benchmarks.rendering.style import GRID, LINE, RC, SIZE, WIDTH

HEIGHT = 2.3  # inches of a panel
FRAME = 0.9  # of its height, for title, numbers and name of the axis
SAMPLE = 22.0  # points of a line before its label, and half of it from the axes to there
WIDEST = 90.0  # points of a label at the end of a line
Draw = Callable[[Axes], None]


def image(
    panels: Sequence[Draw],
    *,
    columns: int = 1,
    height: float = HEIGHT,
    share: bool = False,
    legend: bool = False,
    title: str = "",
    media: str = "svg",
) -> bytes:
    """Return panels in rows, as a file.

    Args:
        panels: each draws one; lines that it labels are those that have labels in the figure.
        columns: beside each other, at most.
        height: of a panel in inches, at least.
        share: whether all have the same axes.
        legend: whether the labels of lines are above all panels, each once, and not at their ends.
        title: of the figure.
        media: svg or png.
    """
    with matplotlib.rc_context(RC):
        columns = min(columns, len(panels))
        rows = ceil(len(panels) / columns)
        figure = Figure(figsize=(WIDTH, height * rows), layout="constrained", facecolor="white")
        axes = list(figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False).flat)
        for axis in axes[len(panels) :]:
            axis.remove()
        axes = axes[: len(panels)]
        for axis, draw in zip(axes, panels, strict=True):
            draw(axis)
            for line in _lines(axis):
                line.set_gid(of_line(str(line.get_label())))
            _bare(axis, columns, height)
        title = wrapped(title, 72 * WIDTH - SIZE)
        above = LINE / 72 * height_of(title) if title else 0.0
        if title:
            figure.suptitle(title, fontsize=SIZE)
        if legend:
            above += _legend(figure, axes)
        else:
            height = max(height, *(_room(axis) for axis in axes))
        figure.set_size_inches(WIDTH, height * rows + above)
        if not legend:
            _label_ends(figure, axes)
        file = BytesIO()
        metadata = {"Date": None, "Creator": None} if media == "svg" else None
        figure.savefig(file, format=media, dpi=150, metadata=metadata)
    return marked(file.getvalue()) if media == "svg" else file.getvalue()


def _bare(axis: Axes, columns: int, height: float) -> None:
    """Leave what a reader needs, with texts that are no longer than what they belong to."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelbottom=True, labelleft=True)
    if not axis.images:
        axis.grid(color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    for drawn in (axis.xaxis, axis.yaxis):
        if isinstance(drawn.get_major_locator(), AutoLocator):
            # The number of ticks stays, so that their widths do when the layout changes the size.
            drawn.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_title(wrapped(axis.get_title(), 72 * (WIDTH / columns) - 2 * SIZE))
    axis.set_ylabel(wrapped(axis.get_ylabel(), 72 * (height - FRAME)))


def _lines(axis: Axes) -> list[Line2D]:
    """Return the lines that have labels."""
    return [line for line in axis.get_lines() if not str(line.get_label()).startswith("_")]


def _legend(figure: Figure, axes: Sequence[Axes]) -> float:
    """Add a legend of as many columns as there is room for; return its height in inches."""
    found = {str(line.get_label()): line for axis in axes for line in _lines(axis)}
    if not found:
        return 0.0
    labels = [wrapped(label, 72 * WIDTH / 2) for label in found]
    columns = int(72 * WIDTH / (max(map(width_of, labels)) + 5 * SIZE)) or 1
    figure.legend(
        handles=list(found.values()),
        labels=labels,
        loc="outside upper left",
        ncols=min(columns, len(labels)),
        frameon=False,
        handlelength=2.4,
        columnspacing=1.5,
    )
    rows = ceil(len(labels) / columns)
    return LINE / 72 * (rows * max(map(height_of, labels)) + 1)


def _room(axis: Axes) -> float:
    """Return the height in inches that a panel needs for the labels of its lines."""
    labels = [wrapped(str(line.get_label()), WIDEST) for line in _lines(axis)]
    highest = max(map(height_of, labels), default=0)
    return FRAME + LINE / 72 * (len(labels) * highest + height_of(axis.get_title()))


def _label_ends(figure: Figure, axes: Sequence[Axes]) -> None:
    """Write the label of each line to the right of the axes, as high as the line ends."""
    ends = [[(line, _label(axis, str(line.get_label()))) for line in _lines(axis)] for axis in axes]
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)  # Now the axes have their size,
    figure.set_layout_engine("none")  # and keep it.
    for axis, of_axis in zip(axes, ends, strict=True):
        _place(axis, of_axis, figure.dpi / 72)


def _label(axis: Axes, label: str) -> Annotation:
    """Write a label to the right of the axes, and a sample's length away from them."""
    return axis.annotate(
        wrapped(label, WIDEST),
        (1, 0.5),
        xycoords="axes fraction",
        xytext=(2 * SAMPLE, 0),
        textcoords="offset points",
        va="center",
    )


def _place(axis: Axes, ends: Sequence[tuple[Line2D, Annotation]], dots: float) -> None:
    """Move labels to where their lines end, apart from each other, and join both.

    Args:
        axis: has its size.
        ends: lines and their labels.
        dots: of the figure, in a point.
    """
    box = axis.get_window_extent()
    points = [_last(axis, line) for line, _ in ends]
    lines = max((height_of(label.get_text()) for _, label in ends), default=1)
    distance = lines * LINE * dots / box.height
    heights = spread([y for _, y in points], distance, distance / 2, 1 - distance / 2)
    begin, end = (1 + part * SAMPLE * dots / box.width for part in (0.8, 1.8))
    for (line, label), (x, y), height in zip(ends, points, heights, strict=True):
        label.xy = (1, height)
        joint = Line2D([x, begin], [y, height], linewidth=0.6, alpha=0.7, color=line.get_color())
        sample = Line2D([begin, end], [height, height])
        sample.update_from(line)
        label.set_gid(line.get_gid())
        for one in (joint, sample):
            one.set(
                transform=axis.transAxes, clip_on=False, label="_", marker="", gid=line.get_gid()
            )
            axis.add_artist(one)


def _last(axis: Axes, line: Line2D) -> tuple[float, float]:
    """Return where a line ends, in parts of the axes."""
    points = np.asarray(line.get_xydata(), dtype=float)
    last = points[np.isfinite(points).all(axis=1)][-1]
    x, y = axis.transAxes.inverted().transform(axis.transData.transform(last))
    return float(x), float(y)
