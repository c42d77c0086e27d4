"""What is to be measured on a machine with a GPU, in parts of less than ten minutes.

::

    SESSION="python -m benchmarks.performance.gpu_session"
    $SESSION all         all that follow but asv, the most valuable first
    $SESSION tests       the tests that need CUDA
    $SESSION precision   errors of feedback in float32, TF32 and bfloat16
    $SESSION steps       training steps made in every way, of six networks with six activations
    $SESSION study       the activations on CIFAR-10, as far as time allows
    $SESSION asv         the asv suite, into benchmarks/asv/results; needs git

Each stops after `--seconds`, and goes on where it stopped when it is called again. `--smoke` does
the same work on the CPU at the smallest size, to see that nothing but a GPU is missing. The machine
needs neither a network nor git nor an installation of this project: the copy is run from its root,
and the environment variable LFP_COMMIT says which commit it is of. Where the project is installed,
`lfp-bench perf gpu` is the same.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.storage.git import ROOT
from benchmarks.storage.records import Record, Records

if TYPE_CHECKING:
    import torch

    from benchmarks.performance.steps import Variant

app = typer.Typer(help=(__doc__ or "").partition("\n")[0], no_args_is_help=True)

RESULTS = Path("results/gpu")
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
ACTIVATIONS = ("relu", "silu", "heaviside", "sigmoid", "tanh", "elu")
#: What a shell starts in the background ignores Ctrl-C, and so would what it starts in turn.
HEED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
LFP_BENCH = HEED + "import lfp_bench; lfp_bench.main()"  # which heeds it while it imports, too
INTERRUPTED = (130, -signal.SIGINT)  # exit codes after Ctrl-C: of lfp-bench, and of Python before
GRACE = 20.0  # seconds that it gets to end by itself

Seconds = Annotated[float, typer.Option(help="When to stop.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="The smallest size, on the CPU.")]
Results = Annotated[Path, typer.Option(help="Folder of all results but asv's.")]


def lfp_bench(command: Sequence[str], seconds: float) -> bool:
    """Run lfp-bench, which Ctrl-C does not harm.

    Returns:
        Whether it came to its end.

    Raises:
        typer.Exit: it failed; with its exit code.
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


def device_of(smoke: bool) -> "torch.device":
    """Return the device; leave with exit code 2 if it is missing."""
    import torch  # noqa: PLC0415  (slow, and not needed for help)

    if not smoke and not torch.cuda.is_available():
        print(
            "error: device: no CUDA device here; --smoke does the same on the CPU", file=sys.stderr
        )
        raise typer.Exit(2)
    return torch.device("cpu" if smoke else "cuda")


def measure_in_time(
    tasks: Sequence[tuple[Record, Callable[[], Record]]],
    path: Path,
    seconds: float,
    told: Callable[[Record], list[object]],
) -> None:
    """Measure what is described and the file does not have; nothing is begun after the time."""
    records, deadline = Records(path), perf_counter() + seconds
    for description, make in tasks:
        name, activation = description["model"], description["activation"]
        if perf_counter() > deadline:
            print(f"stopped before {name} with {activation}; the same command goes on")
            return
        print(name, activation, *told(records.get(description, make)), flush=True)
    print(f"the results are in {path}")


@app.command("precision")
def precisions(
    seconds: Seconds = SECONDS, smoke: Smoke = False, results: Results = RESULTS
) -> None:
    """Measure how far feedback is from float64's in the precisions that a GPU offers."""
    from benchmarks.performance import precision  # noqa: PLC0415  (slow)

    device = device_of(smoke)
    tasks = [
        (
            {"model": name, "activation": activation},
            partial(precision.measure, name, activation, device),
        )
        for name in (("toy-mlp",) if smoke else precision.MODELS)
        for activation in (("relu",) if smoke else ACTIVATIONS)
    ]
    path = results / f"precision-{device.type}.json"
    measure_in_time(tasks, path, seconds, lambda record: [record["errors"]])


@app.command("all")
def everything(
    seconds: Seconds = SECONDS, smoke: Smoke = False, results: Results = RESULTS
) -> None:
    """Do what is most valuable in the time: tests, steps with half of the rest, and the study."""
    started = perf_counter()
    gpu_tests(min(90.0, seconds / 4), smoke, results)
    precisions(seconds / 8, smoke, results)
    left = seconds - (perf_counter() - started)
    steps(left / 2, smoke, results)
    left = seconds - (perf_counter() - started)
    study(left, smoke, results)


@app.command("asv")
def asv_suite(seconds: Seconds = SECONDS, smoke: Smoke = False) -> None:
    """Measure HEAD with the asv suite on the GPU alone, and store it with the machine's name."""
    from benchmarks.performance import history  # noqa: PLC0415  (needs asv, which others do not)

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


@app.command("tests")
def gpu_tests(seconds: Seconds = 90.0, smoke: Smoke = False, results: Results = RESULTS) -> None:
    """Run the tests that need CUDA; what they print goes to a file."""
    device_of(smoke)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rfE", "--tb=short"]
    command += ["--collect-only", "tests/test_memory.py"] if smoke else ["-m", "gpu"]
    log = results / "tests.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("w") as file:
            # As on other old versions of torch, which warn of other things.
            subprocess.run(
                [*command, "-W", "default"], cwd=ROOT, stdout=file, timeout=seconds, check=False
            )
    except subprocess.TimeoutExpired:
        print(f"stopped after {seconds:.0f} s")
    print("\n".join(log.read_text().splitlines()[-15:]))


def cases(smoke: bool) -> "Iterator[tuple[str, str, list[Variant]]]":
    """Yield networks, activations and the ways of making a step, the most valuable first."""
    from benchmarks.performance.steps import (  # noqa: PLC0415  (slow)
        COMPILED_GRAPHS,
        EAGER_AND_GRAPH,
        WITHOUT_COMPILER,
        Variant,
    )

    if smoke:
        yield "toy-mlp", "relu", [Variant("lfp"), Variant("sgd")]
        return
    networks = ("lenet", "vgg-like", "resnet18", "vit-tiny", "mlp", "vgg16")
    for name in networks:
        yield name, "relu", WITHOUT_COMPILER
    for activation in ACTIVATIONS[1:]:
        for name in networks:
            yield name, activation, EAGER_AND_GRAPH
    for name in ("mlp", "lenet", "vgg-like"):
        yield name, "relu", COMPILED_GRAPHS


@app.command("steps")
def steps(
    seconds: Seconds = SECONDS,
    smoke: Smoke = False,
    results: Results = RESULTS,
    rounds: Annotated[int, typer.Option(help="Rounds of ten steps.")] = 12,
) -> None:
    """Measure training steps: time and memory, stored after every network and activation."""
    import torch  # noqa: PLC0415  (slow, as what follows)

    from benchmarks.performance import steps as step_table  # noqa: PLC0415

    device = device_of(smoke)
    torch.set_num_threads(1)
    tasks = [
        (
            {
                "model": name,
                "activation": activation,
                "batch": step_table.BATCH,
                "rounds": rounds,
                "variants": [str(variant) for variant in variants],
            },
            partial(
                step_table.measure, name, device, rounds, activation=activation, variants=variants
            ),
        )
        for name, activation, variants in cases(smoke)
    ]

    def told(record: Record) -> list[object]:
        ratios = {
            way: [f"{1e3 * found['seconds']:.3f} ms", *found.get("to SGD, same variant", [])[1:2]]
            for way, found in record["steps"].items()
        }
        return [ratios, record.get("errors", "")]

    measure_in_time(tasks, results / f"steps-{device.type}.json", seconds, told)


@app.command("study")
def study(
    seconds: Seconds = SECONDS,
    smoke: Smoke = False,
    results: Results = RESULTS,
    jobs: Annotated[int, typer.Option(help="Runs that share the GPU.")] = 1,
) -> None:
    """Train on CIFAR-10 with LFP, SGD and |w|-scaled SGD; data stays on the GPU."""
    device = device_of(smoke)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for the processes of the runs
    command = ["run", "activations", "--size", "smoke" if smoke else "gpu"]
    command += ["--device", device.type, "--jobs", str(jobs), "--threads", "1"]
    command += ["--results", str(results.absolute())]
    done = lfp_bench(command, seconds)
    print("the study is done" if done else "stopped; the same command goes on")


if __name__ == "__main__":
    app()
