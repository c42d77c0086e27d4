"""What is to be measured on a machine with a GPU, in parts of less than ten minutes.

::

    SESSION="python -m benchmarks.performance.gpu_session"
    $SESSION asv         the asv suite, into benchmarks/asv/results
    $SESSION speed       lfp-bench speed
    $SESSION compiled    steps by torch.compile and in bfloat16
    $SESSION study       the activations on CIFAR-10, as far as time allows

Each stops after `--seconds`, and goes on where it stopped when it is called again. `--smoke` does
the same work on the CPU at the smallest size, to see that nothing but a GPU is missing.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
import yaml

from benchmarks.performance import compiled as compiled_steps
from benchmarks.performance import history
from benchmarks.storage.files import write
from benchmarks.storage.provenance import ROOT
from benchmarks.storage.records import Records
from benchmarks.studies.plan import read

app = typer.Typer(help=(__doc__ or "").partition("\n")[0], no_args_is_help=True)

RESULTS = ROOT / "results" / "gpu"
SECONDS = 540.0
#: The classes of the suite: what asv is asked for at a time, as it stores nothing before the end.
SUITE = (
    "ratios.Models",
    "ratios.Activations",
    "scaling",
    "spiking",
    "throughput",
    "steps.Steps.time_step",
    "steps.Steps.time_forward",
    "steps.Steps.time_backward",
    "steps.Steps.track_peak",
)
PART = "cifar10-vgg-like"  # of the study of activations
#: How the study is made within a lease of a GPU; its size "paper" is two hours and more.
WITHIN_A_LEASE = {
    "seeds": 3,
    "epochs": 15,
    "sweep_epochs": 1,
    "sweep_seeds": 1,
    "schedule": "one-cycle",
}
#: What a shell starts in the background ignores Ctrl-C, and so would what it starts in turn.
HEED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
LFP_BENCH = HEED + "from benchmarks.cli import app; app()"
INTERRUPTED = (130, -signal.SIGINT)  # exit codes after Ctrl-C: of lfp-bench, and of its imports
GRACE = 20.0  # seconds that it gets to end by itself

Seconds = Annotated[float, typer.Option(help="When to stop.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="The smallest size, on the CPU.")]
Results = Annotated[Path, typer.Option(help="Folder of all results but asv's.")]


def lfp_bench(command: Sequence[str], seconds: float) -> bool:
    """Run lfp-bench, which Ctrl-C does not harm; return whether it came to its end.

    Raises `typer.Exit` with its exit code if it failed.
    """
    process = subprocess.Popen([sys.executable, "-c", LFP_BENCH, *command], cwd=ROOT)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            code = INTERRUPTED[0]
    if code not in (0, *INTERRUPTED):
        raise typer.Exit(code)
    return code == 0


def device_of(smoke: bool) -> torch.device:
    """Return the device; leave with exit code 2 if it is missing."""
    if not smoke and not torch.cuda.is_available():
        print(
            "error: device: no CUDA device here; --smoke does the same on the CPU", file=sys.stderr
        )
        raise typer.Exit(2)
    return torch.device("cpu" if smoke else "cuda")


@app.command("asv")
def asv_suite(seconds: Seconds = SECONDS, smoke: Smoke = False) -> None:
    """Measure HEAD with the asv suite on the GPU alone, and store it with the machine's name."""
    device = device_of(smoke)
    started = perf_counter()
    longest = 0.0
    for number, part in enumerate(SUITE[:1] if smoke else SUITE):
        if perf_counter() - started + longest > seconds:
            print(f"stopped before {part}, {number} of {len(SUITE)}; the same command goes on")
            return
        before = perf_counter()
        pattern = rf"^{part}.*\('{device.type}'" + (", 'mlp'" if smoke else "")
        code = history.measure(["HEAD"], [pattern], new_only=True, store=not smoke)
        longest = max(longest, perf_counter() - before)
        if code:
            raise typer.Exit(code)
    print("the suite is done")


@app.command("speed")
def eager(seconds: Seconds = SECONDS, smoke: Smoke = False, results: Results = RESULTS) -> None:
    """Measure steps of LFP, SGD and |w|-scaled SGD with six activations: time and memory."""
    device = device_of(smoke)
    size = ["--models", "toy-mlp", "--activations", "relu", "--repeats", "2"] if smoke else []
    command = ["speed", "--device", device.type, "--results", str(results)]
    lfp_bench([*command, "--study", f"speed-{device.type}", *size], seconds)


@app.command("compiled")
def compiled(seconds: Seconds = SECONDS, smoke: Smoke = False, results: Results = RESULTS) -> None:
    """Measure steps that are compiled, and in bfloat16; a network is not begun without the time."""
    device = device_of(smoke)
    records = Records(results / f"speed-compiled-{device.type}.json")
    rounds, backend = (
        (2, "aot_eager") if smoke else (compiled_steps.ROUNDS, compiled_steps.INDUCTOR)
    )
    deadline = perf_counter() + seconds / 2  # half the time is enough for one
    for model in ("toy-mlp",) if smoke else compiled_steps.MODELS:
        if perf_counter() < deadline:
            description = {"model": model, "batch": compiled_steps.BATCH, "rounds": rounds}
            records.get(
                description, partial(compiled_steps.measure, model, device, rounds, backend)
            )
    print(f"the results are in {records.path}")


def study_file(smoke: bool) -> dict[str, Any]:
    """Return the study of activations with the one part that is meant for a GPU."""
    plan = read("activations").model_dump()
    if smoke:
        sizes = {"smoke": {**plan["sizes"]["smoke"], "parts": [PART]}}
    else:
        sizes = {"paper": WITHIN_A_LEASE}
    return {**plan, "parts": {PART: plan["parts"][PART]}, "sizes": sizes}


@app.command("study")
def study(
    seconds: Seconds = SECONDS,
    smoke: Smoke = False,
    results: Results = RESULTS,
    jobs: Annotated[int, typer.Option(help="Runs that share the GPU.")] = 6,
) -> None:
    """Train on CIFAR-10 with LFP, SGD and |w|-scaled SGD; data stays on the GPU."""
    device = device_of(smoke)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for the processes of the runs
    file = results / f"activations-{device.type}.yaml"
    write(file, yaml.safe_dump(study_file(smoke), sort_keys=False).encode())
    size = "smoke" if smoke else "paper"
    command = ["run", str(file), "--size", size, "--device", device.type]
    command += ["--jobs", str(jobs), "--threads", "1", "--results", str(results)]
    done = lfp_bench(command, seconds)
    print("the study is done" if done else "stopped; the same command goes on")


if __name__ == "__main__":
    app()
