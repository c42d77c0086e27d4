"""The parts of steps beside the least time that the roofline allows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.asv.common import device_of
from benchmarks.performance.roofline.machine import CPU, SIDE, Ceilings, ceilings
from benchmarks.performance.roofline.measurement import measure
from benchmarks.performance.roofline.steps import PARTS, Workload
from benchmarks.rendering import text
from benchmarks.rendering.style import PALETTE, label_of
from benchmarks.storage.files import write
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Records


@dataclass(frozen=True)
class Row:
    """One part of a step; `least` seconds is what the roofline allows."""

    workload: str
    method: str
    part: str
    calls: int
    flops: float
    moved: float  # bytes
    least: float
    seconds: float


def rows(records: Records) -> list[Row]:
    """Return all parts, with a step as the sum of its parts."""
    machine = Ceilings(**next(r["ceilings"] for r in records.runs if "ceilings" in r))
    found = []
    for run in (r for r in records.runs if "methods" in r):
        for method, parts in run["methods"].items():
            of_step = [_row(run["name"], method, n, part, machine) for n, part in parts.items()]
            found += [*of_step, _sum(of_step)]
    return found


def _row(name: str, method: str, part: str, measured: dict[str, Any], machine: Ceilings) -> Row:
    alike = measured["operations"]
    return Row(
        workload=name,
        method=method,
        part=part,
        calls=sum(number for _, _, number in alike),
        flops=sum(number * flops for flops, _, number in alike),
        moved=sum(number * size for _, size, number in alike),
        least=sum(number * machine.seconds(flops, size) for flops, size, number in alike),
        seconds=measured["seconds"],
    )


def _sum(parts: Sequence[Row]) -> Row:
    return Row(
        parts[0].workload,
        parts[0].method,
        "step",
        *(
            sum(getattr(row, name) for row in parts)
            for name in ("calls", "flops", "moved", "least", "seconds")
        ),
    )


def lines(found: Sequence[Row]) -> text.Lines:
    """Return a line for each part; the last column is its time over that of the other method."""
    header = (
        "network",
        "part",
        "method",
        "calls",
        "MFLOP",
        "MB",
        "FLOP/byte",
        "least ms",
        "ms",
        "of the roof",
        "over the other",
    )
    ordered = sorted(
        found,
        key=lambda row: (
            [r.workload for r in found].index(row.workload),
            (*PARTS, "step").index(row.part),
            row.method != "lfp",
        ),
    )
    other = {(r.workload, r.part): r.seconds for r in found if r.method != "lfp"}
    return header, [
        (
            row.workload,
            row.part,
            label_of(row.method),
            str(row.calls),
            f"{row.flops / 1e6:.1f}",
            f"{row.moved / 1e6:.1f}",
            f"{row.flops / row.moved:.1f}",
            f"{1000 * row.least:.2f}",
            f"{1000 * row.seconds:.2f}",
            f"{row.least / row.seconds:.0%}",
            f"{row.seconds / other[row.workload, row.part]:.2f}" if row.method == "lfp" else "",
        )
        for row in ordered
    ]


def png(found: Sequence[Row], machine: Ceilings) -> bytes:
    """Return the roof, for memory and for a copy that fits the cache, with the parts below it."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    intensity = np.geomspace(0.05, 200)
    for bandwidth, where in (
        (max(machine.bandwidths), "cache"),
        (machine.bandwidths[-1], "memory"),
    ):
        roof = np.minimum(machine.flops, intensity * bandwidth) / 1e9
        axis.loglog(intensity, roof, color="#666666", linewidth=1)
        axis.annotate(where, (intensity[2], roof[2]), fontsize=7, ha="left", va="bottom")
    names = list(dict.fromkeys(row.workload for row in found))
    markers = dict(zip(PARTS, "os^", strict=True))
    for row in found:
        if row.part in markers:
            colour = PALETTE[names.index(row.workload) % len(PALETTE)]
            axis.loglog(
                row.flops / row.moved,
                row.flops / row.seconds / 1e9,
                markers[row.part],
                color=colour,
                markerfacecolor=colour if row.method == "lfp" else "none",
                label=row.workload if (row.part, row.method) == ("forward", "lfp") else None,
            )
    axis.set_xlabel("FLOP / byte")
    axis.set_ylabel("GFLOP / s")
    axis.set_title("○ forward, □ backward, △ update; filled: LFP, hollow: the other", fontsize=9)
    axis.legend(fontsize=7, frameon=False, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def write_report(
    folder: Path, workloads: Sequence[Workload], command: str
) -> tuple[text.Lines, list[str]]:
    """Measure what the folder does not have, and write the report; return its table and remarks."""
    device_of("cpu")
    records = Records(folder / "roofline.json")
    found = records.get(
        {"name": "machine"},
        lambda: {"ceilings": asdict(ceilings()), "environment": describe(CPU)},
    )
    machine = Ceilings(**found["ceilings"])
    for workload in workloads:
        description = {"name": workload.name, "samples": workload.samples}
        records.get(description, partial(measure, workload))
    fastest = max(machine.bandwidths)
    remarks = [
        f"Ceilings: {machine.flops / 1e9:.0f} GFLOP/s (a float32 product of {SIDE}x{SIDE} "
        f"matrices); copies of {fastest / 1e9:.0f} GB/s in the cache and "
        f"{machine.bandwidths[-1] / 1e9:.1f} GB/s in memory, read and written.",
        "Batches of " + ", ".join(f"{w.samples} ({w.name})" for w in workloads) + ".",
        "Calls: operations of torch without views. Least: what the roofline allows them.",
        "Over the other: the time of LFP over that of SGD, or of the surrogate gradient.",
        *(f"Made on: {o}." for o in text.origins([run["environment"] for run in records.runs])),
        f"Command: `{command}`",
    ]
    every = rows(records)
    table = lines(every)
    write(folder / "roofline.md", text.in_bytes(text.document(table, remarks)))
    write(folder / "roofline.png", png(every, machine))
    return table, remarks
