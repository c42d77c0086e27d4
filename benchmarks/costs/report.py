"""The costs of steps as a table."""

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.costs.memory import MEGABYTE
from benchmarks.rendering.text import Lines, number

SAME_POOLING = (
    "The same pooling: step time over that of SGD's step with the engine's max-pooling, which is "
    "faster than torch's on a CPU."
)


def pools(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a model of what was measured pools by maxima."""
    return any(row.get("same_pooling_ratio") is not None for row in rows)


def speed_lines(rows: Iterable[Mapping[str, Any]]) -> Lines:
    """Return as text what `lfp-bench speed` measured: costs, each with its model and activation."""
    found = list(rows)
    pooled = pools(found)
    header = (
        "model",
        "activation",
        "method",
        "step ms",
        "step time / SGD",
        "quartiles",
        *(["the same pooling"] if pooled else []),
        "peak MB",
        "peak memory / SGD",
    )
    return header, [
        (
            row["model"],
            row["activation"],
            row["method"],
            f"{1000 * row['seconds']:.2f}",
            f"{row['time_ratio']:.2f}",
            f"{row['time_ratio_low']:.2f} to {row['time_ratio_high']:.2f}",
            *([number(row.get("same_pooling_ratio"), ".2f")] if pooled else []),
            f"{row['peak_bytes'] / MEGABYTE:.2f}",
            f"{row['peak_ratio']:.2f}",
        )
        for row in found
    ]
