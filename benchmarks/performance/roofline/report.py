"""Where the time of a step goes: its parts against what the machine can do at best.

``python -m benchmarks.performance.roofline [FOLDER]`` measures, by default into
`benchmarks/stored/roofline`: `roofline.json`, `roofline.md` and `roofline.png`. What the folder has
is not measured again.

The roofline (Williams, Waterman and Patterson, 2009): an operation of F floating-point operations
that reads and writes B bytes takes at least max(F / P, B / W) seconds on a machine that does P of
the one and W of the other in a second, which is measured first. Here the least time of a part is
the sum over its operations, each of which reads its operands and writes its results once, from
wherever so many bytes fit: W is that of a copy of as many. F of a product or a convolution is what
:mod:`torch.utils.flop_counter` says; of anything else, an operation an element. What is measured
beyond that is what calls cost, and what the kernels leave.

All on one thread, in time of the process (see :mod:`benchmarks.asv.common`).
"""

import gc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry

import lfp_core as lfp
from baselines import Spiking, SpikingNetwork
from baselines.surrogate import rate_loss
from benchmarks.asv.common import PROFILE, batch, clock_of, device_of
from benchmarks.models import CLASSES, SHAPES, build
from benchmarks.rendering import text
from benchmarks.rendering.style import LABELS, PALETTE
from benchmarks.storage.files import write
from benchmarks.storage.provenance import ROOT, describe
from benchmarks.storage.records import Records

FOLDER = ROOT / "benchmarks" / "stored" / "roofline"
CPU = torch.device("cpu")
SIDE = 1536  # of the matrices whose product gives P
COPIED = tuple(2**power for power in range(12, 29, 2))  # bytes read and written by a copy
ROUNDS = 5, 40  # at least and at most
PARTS = ("forward", "backward", "update")


@dataclass(frozen=True)
class Workload:
    """A network, and the methods that train it; with `steps`, a spiking one over T steps."""

    model: str
    samples: int
    methods: tuple[str, str] = ("lfp", "sgd")
    steps: int | None = None

    @property
    def name(self) -> str:
        """What to call it."""
        return self.model if self.steps is None else f"{self.model}, T = {self.steps}"


WORKLOADS = (
    Workload("lenet", 128),
    Workload("vgg-like", 32),
    *(Workload("mlp-1000", 128, ("lfp", "surrogate"), steps) for steps in (5, 15, 25)),
)


# --- the machine ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ceilings:
    """What the machine does in a second.

    Attributes:
        flops: P, of a float32 matrix product.
        bandwidths: W in bytes, of a copy that reads and writes each of COPIED bytes in all.
    """

    flops: float
    bandwidths: tuple[float, ...]

    def seconds(self, flops: float, size: float) -> float:
        """Return the least time of an operation of so many operations on so many bytes."""
        bandwidth = np.interp(np.log(max(size, 1)), np.log(COPIED), self.bandwidths)
        return max(flops / self.flops, size / float(bandwidth))


def ceilings() -> Ceilings:
    """Measure this machine, at its best."""
    a, b = torch.randn(2, SIDE, SIDE)
    out = torch.empty(SIDE, SIDE)
    flops = 2 * SIDE**3 / _fastest(lambda: torch.mm(a, b, out=out), 1)
    bandwidths = []
    for size in COPIED:
        source, target = torch.ones(2, size // 8)  # 4 bytes each, read and written
        calls = max(1, 2**22 // size)
        bandwidths.append(size / _fastest(partial(target.copy_, source), calls))
    return Ceilings(flops, tuple(bandwidths))


def _fastest(work: Callable[[], object], calls: int) -> float:
    """Return the least seconds of a call, out of 20 times so many."""
    clock, least = clock_of(CPU), np.inf
    for _ in range(20):
        started = clock()
        for _ in range(calls):
            work()
        least = min(least, (clock() - started) / calls)
    return float(least)


# --- the arithmetic -------------------------------------------------------------------------------


@dataclass
class Ledger(TorchDispatchMode):
    """Context that keeps what every operation of torch computes and moves; views do neither.

    Attributes:
        entries: floating-point operations and bytes of each.
    """

    entries: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare the mode."""
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        returned = [value.alias_info for value in func._schema.returns]
        if any(alias is not None and not alias.is_write for alias in returned):
            return out  # a view
        read, written = _tensors((args, kwargs)), _tensors(out)
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            elements = (sum(t.numel() for t in tensors) for tensors in (read, written))
            flops = float(max(elements))
        else:
            flops = float(count(*args, **kwargs, out_val=out))
        self.entries.append((flops, float(sum(t.nbytes for t in read + written))))
        return out


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


# --- the steps ------------------------------------------------------------------------------------

Parts = dict[str, Callable[[], object]]


def parts_of(workload: Workload, method: str) -> Parts:
    """Return the parts of a step, which are to be called in turn."""
    spiking = None if workload.steps is None else Spiking(steps=workload.steps)
    shape = SHAPES[workload.model]
    model = build(
        workload.model,
        activation="relu" if spiking is None else "lif",
        input_shape=shape,
        classes=CLASSES,
        seed=0,
        spiking=spiking,
    )
    inputs, targets = batch(workload.samples, shape, CPU)
    # So small that the weights stay as they are, however many steps are timed.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-8, momentum=0.9)
    outputs: list[Tensor] = []

    def forward() -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs[:] = [forward_of(model, method, inputs)]

    def backward() -> None:
        backward_of(model, method, outputs.pop(), targets)

    def update() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()

    return dict(zip(PARTS, (forward, backward, update), strict=True))


def forward_of(model: nn.Module, method: str, inputs: Tensor) -> Tensor:
    """Return logits (batch, classes) or spikes (T, batch, classes)."""
    run = model.spikes if isinstance(model, SpikingNetwork) else model
    if method != "lfp":
        return run(inputs)
    if isinstance(model, SpikingNetwork):
        from lfp_core import spiking  # noqa: PLC0415  (snntorch is slow to import)

        with spiking.feedback():
            return model.spikes(inputs)
    with lfp.feedback():
        return run(inputs)


def backward_of(model: nn.Module, method: str, outputs: Tensor, targets: Tensor) -> None:
    """Fill the gradients from loss or reward."""
    is_spiking = isinstance(model, SpikingNetwork)
    if method == "lfp":
        reward_of = lfp.rewards.spike_rate if is_spiking else lfp.rewards.softmax
        lfp.backward(outputs, reward_of(outputs.detach(), targets))
    else:
        loss_of = rate_loss if is_spiking else F.cross_entropy
        loss_of(outputs, targets).backward()


# --- the measurement ------------------------------------------------------------------------------


def measure(workload: Workload) -> dict[str, Any]:
    """Return what each part of a step of each method computes, moves and takes."""
    steps = {method: parts_of(workload, method) for method in workload.methods}
    for parts in steps.values():  # warm up
        for part in parts.values():
            part()
    rows = {
        method: {name: _counted(part) for name, part in steps[method].items()} for method in steps
    }
    for method, of_method in _timed(steps).items():
        for name, seconds in of_method.items():
            rows[method][name]["seconds"] = float(np.median(seconds))
    return {"methods": rows, "environment": describe(CPU)}


def _counted(part: Callable[[], object]) -> dict[str, Any]:
    """Return floating-point operations, bytes and number of the operations that have as many."""
    with Ledger() as ledger:
        part()
    alike = Counter(ledger.entries)
    return {"operations": [[flops, size, number] for (flops, size), number in alike.items()]}


def _timed(steps: Mapping[str, Parts]) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each part in rounds in which every method makes a step."""
    clock = clock_of(CPU)
    found: dict[str, dict[str, list[float]]] = {
        method: {name: [] for name in parts} for method, parts in steps.items()
    }
    gc.collect()
    gc.disable()
    try:
        started = clock()
        for done in range(ROUNDS[1]):
            if done >= ROUNDS[0] and clock() > started + 4 * PROFILE.seconds:
                break
            for method, parts in steps.items():
                for name, part in parts.items():
                    before = clock()
                    part()
                    found[method][name].append(clock() - before)
    finally:
        gc.enable()
    return found


# --- the report -----------------------------------------------------------------------------------


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
            LABELS.get(row.method, row.method),
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


def main(folder: Path = FOLDER, workloads: Sequence[Workload] = WORKLOADS) -> None:
    """Measure what the folder does not have, and write the report."""
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
        "Command: `python -m benchmarks.performance.roofline`",
    ]
    every = rows(records)
    write(folder / "roofline.md", text.document(lines(every), remarks).encode())
    write(folder / "roofline.png", png(every, machine))
