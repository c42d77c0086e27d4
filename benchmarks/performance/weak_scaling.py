"""Weak scaling: images a second of LFP on one process and on more, each with batches of its own.

``lfp-bench perf weak-scaling`` runs :mod:`benchmarks.performance.train_distributed` with each
number of processes in turn, one thread each, and writes scaling.json and scaling.md. With a core
for every process, perfect scaling has the efficiency 1.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.rendering.text import Lines, document, in_bytes, origins
from benchmarks.storage.files import write, write_json
from benchmarks.storage.provenance import ROOT, describe

PROGRAM = "benchmarks.performance.train_distributed"


def train(processes: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Return what the example reports; raises `RuntimeError` with its errors where it fails."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", PROGRAM),
            *("--steps", str(steps), "--batch-size", str(batch_size)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise RuntimeError(f"{PROGRAM} failed with code {done.returncode}:\n{done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def efficiencies(runs: list[dict[str, Any]]) -> list[float]:
    """Return images a second of a process, over those of a process of the first run."""
    of_one = [run["images_per_second"] / run["processes"] for run in runs]
    return [rate / of_one[0] for rate in of_one]


def write_report(
    folder: Path, steps: int, batch_size: int, processes: Sequence[int], command: str
) -> tuple[Lines, list[str]]:
    """Measure, and write the report; return its table and remarks."""
    load, cores = os.getloadavg()[0], os.cpu_count()  # what else the machine does counts here
    runs = [train(count, steps, batch_size) for count in processes]
    # torchrun gives each process one thread.
    environment = {**describe(torch.device("cpu")), "threads": 1}
    if torch.cuda.is_available():
        environment = describe(torch.device("cuda"))
    description = {"command": command, "environment": environment, "load": load, "runs": runs}
    write_json(folder / "scaling.json", description)
    header = ["processes", "images / s", "step ms", "efficiency"]
    rows = [
        [
            str(run["processes"]),
            f"{run['images_per_second']:.1f}",
            f"{1000 * run['seconds_per_step']:.1f}",
            f"{efficiency:.2f}",
        ]
        for run, efficiency in zip(runs, efficiencies(runs), strict=True)
    ]
    remarks = [
        f"VGG-like network, ReLU, synthetic images, batches of {batch_size} for each process, "
        f"median of {steps} steps; the efficiency is images a second of a process over those of "
        "a process in the first row.",
        f"Load average of the machine's {cores} cores before the first run: {load:.1f}.",
        *(f"Made on: {origin}." for origin in origins([environment])),
        f"Command: `{command}`",
    ]
    write(folder / "scaling.md", in_bytes(document((header, rows), remarks)))
    return (header, rows), remarks
