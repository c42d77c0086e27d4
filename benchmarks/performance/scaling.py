"""How the cost of a step grows: with depth, width, batch, time steps and particles.

``lfp-bench perf scaling`` writes `scaling.json` with all times, `scaling.md` with the fitted
exponents, and `scaling.png`. What the folder has is not measured again; delete it to do so.

The exponent k of seconds ~ size^k is the slope of a straight line through the logarithms (least
squares), over all sizes and over the upper half of them, where fixed costs matter less. Time is
that of the process, on one thread (see :mod:`benchmarks.asv.common`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import linregress

from baselines import METHODS
from benchmarks.asv.common import SETTINGS, batch, dense, device_of, network, seconds_of, step_of
from benchmarks.asv.spiking import spiking_step
from benchmarks.rendering import text
from benchmarks.rendering.style import PALETTE, label_of
from benchmarks.storage.files import write
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Records

DEPTH, WIDTH, SAMPLES = 4, 256, 64  # of dense networks, unless they vary
SWARM_SAMPLES = 64
CPU = torch.device("cpu")


def dense_seconds(method: str, depth: int, width: int, samples: int) -> float:
    """Return the seconds of a step on a dense network."""
    return seconds_of(step_of(method, dense(depth, width), (width,), samples, CPU), CPU)


def spiking_seconds(method: str, steps: int) -> float:
    """Return the seconds of a step on a spiking network."""
    return seconds_of(spiking_step(method, steps, CPU), CPU)


def swarm_seconds(method: str, particles: int) -> float:
    """Return the seconds of an iteration of a swarm on the MLP for MNIST."""
    swarm = METHODS[method]
    recipe = replace(swarm.recipe, particles=particles)  # type: ignore[attr-defined]
    trainer = swarm(network("mlp"), SETTINGS, recipe)  # type: ignore[call-arg]
    data = batch(SWARM_SAMPLES, (1, 28, 28), CPU)
    return seconds_of(lambda: trainer.step(*data), CPU)


@dataclass(frozen=True)
class Law:
    """What varies, what it is measured of, and what the arithmetic alone would have as exponent."""

    axis: str
    sizes: tuple[int, ...]
    methods: tuple[str, ...]
    seconds: Callable[[str, int], float]
    arithmetic: float


LAWS = (
    Law(
        "depth",
        (2, 4, 8, 16, 32),
        ("lfp", "sgd"),
        lambda method, size: dense_seconds(method, size, WIDTH, SAMPLES),
        1,
    ),
    Law(
        "width",
        (64, 128, 256, 512, 1024, 2048),
        ("lfp", "sgd"),
        lambda method, size: dense_seconds(method, DEPTH, size, SAMPLES),
        2,
    ),
    Law(
        "batch",
        (16, 32, 64, 128, 256, 512, 1024),
        ("lfp", "sgd"),
        lambda method, size: dense_seconds(method, DEPTH, WIDTH, size),
        1,
    ),
    Law("T", (4, 8, 16, 32, 64), ("lfp", "surrogate"), spiking_seconds, 1),
    Law("particles", (25, 50, 100, 200, 400), ("pso-torch-stable",), swarm_seconds, 1),
)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return k of seconds ~ size^k, and its standard error.

    >>> k, error = exponent([1, 2, 4, 8], [3, 12, 48, 192])
    >>> round(k, 12), round(error, 6)
    (2.0, 0.0)

    Raises:
        ValueError: there are fewer than two sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f"sizes: {list(sizes)}; allowed: at least two that differ")
    fit = linregress(np.log(sizes), np.log(seconds))
    return float(fit.slope), float(fit.stderr)


def measure(records: Records, laws: Sequence[Law]) -> None:
    """Measure what is missing, a size at a time."""
    device_of("cpu")
    for law in laws:
        for method in law.methods:
            for size in law.sizes:
                description = {"axis": law.axis, "method": method, "size": size}
                records.get(description, lambda: _record(law, method, size))  # noqa: B023


def _record(law: Law, method: str, size: int) -> dict[str, Any]:
    return {"seconds": law.seconds(method, size), "environment": describe(CPU)}


Curves = Mapping[tuple[str, str], tuple[list[int], list[float]]]


def curves(records: Records, laws: Sequence[Law]) -> Curves:
    """Return sizes and seconds by axis and method."""
    found: dict[tuple[str, str], tuple[list[int], list[float]]] = {}
    for law in laws:
        for method in law.methods:
            runs = [r for r in records.runs if (r["axis"], r["method"]) == (law.axis, method)]
            runs.sort(key=lambda run: int(run["size"]))
            sizes, seconds = [r["size"] for r in runs], [r["seconds"] for r in runs]
            found[law.axis, method] = sizes, seconds
    return found


def lines(measured: Curves, laws: Sequence[Law]) -> text.Lines:
    """Return a line for each curve: the range, its times, and the exponents."""
    header = ("axis", "method", "sizes", "ms", "exponent", "upper half", "arithmetic")
    rows = []
    for law in laws:
        for method in law.methods:
            sizes, seconds = measured[law.axis, method]
            half = len(sizes) // 2
            overall = exponent(sizes, seconds)
            upper = exponent(sizes[half - 1 :], seconds[half - 1 :])
            rows.append(
                (
                    law.axis,
                    method,
                    f"{sizes[0]} to {sizes[-1]}",
                    f"{1000 * seconds[0]:.2f} to {1000 * seconds[-1]:.1f}",
                    *(f"{k:.2f} ± {error:.2f}" for k, error in (overall, upper)),
                    f"{law.arithmetic:g}",
                )
            )
    return header, rows


def png(measured: Curves, laws: Sequence[Law]) -> bytes:
    """Return a panel of each axis: times, and the fitted lines."""
    figure = Figure(figsize=(2.8 * len(laws), 3.0), layout="constrained")
    panels = figure.subplots(1, len(laws), squeeze=False)[0]
    for law, axis in zip(laws, panels, strict=True):
        _draw(axis, law, measured)
    panels[0].set_ylabel("ms a step")
    file = BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def _draw(axis: Axes, law: Law, measured: Curves) -> None:
    for colour, method in zip(PALETTE, law.methods, strict=False):
        sizes, seconds = measured[law.axis, method]
        k, _ = exponent(sizes, seconds)
        middle = np.exp(np.mean(np.log(seconds)) - k * np.mean(np.log(sizes)))
        axis.loglog(sizes, np.multiply(1000, seconds), "o", color=colour, markersize=4)
        label = f"{label_of(method)}: {k:.2f}"
        axis.loglog(sizes, 1000 * middle * np.power(sizes, k), color=colour, label=label)
    axis.set_title(law.axis, fontsize=9)
    axis.set_xticks(law.sizes, [str(size) for size in law.sizes])
    axis.xaxis.minorticks_off()
    axis.tick_params(labelsize=7, which="both")
    axis.legend(fontsize=7, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


def write_report(folder: Path, laws: Sequence[Law], command: str) -> tuple[text.Lines, list[str]]:
    """Measure what the folder does not have, and write the report; return its table and remarks."""
    records = Records(folder / "scaling.json")
    measure(records, laws)
    measured = curves(records, laws)
    origins = text.origins([run["environment"] for run in records.runs])
    remarks = [
        f"Dense networks with ReLU, {DEPTH} layers of {WIDTH} inputs, batches of {SAMPLES}, where "
        "nothing else is said; spiking networks 784-1000-10, batches of 32; swarms on the MLP for "
        f"MNIST, batches of {SWARM_SAMPLES}. Median time of a training step, one thread.",
        "Exponents with their standard errors; arithmetic: that of the multiplications alone.",
        *(f"Made on: {origin}." for origin in origins),
        f"Command: `{command}`",
    ]
    table = lines(measured, laws)
    write(folder / "scaling.md", text.in_bytes(text.document(table, remarks)))
    write(folder / "scaling.png", png(measured, laws))
    return table, remarks
