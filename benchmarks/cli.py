"""The command line: `lfp-bench compare`, `run`, `status`, `list`, `speed` and `diagnose`.

Reports go to stdout (one JSON document with `--json`), everything else to stderr. Exit codes: 0,
1 for a check that fails, 2 for bad input (with one line that says what is wrong), 130 for Ctrl-C.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from typer.core import TyperGroup

from baselines import FAMILIES, METHODS, Settings, Spiking
from benchmarks import table
from benchmarks.data import DATASETS, DataError, load
from benchmarks.diagnose import before_and_after, png
from benchmarks.environment import describe, processor
from benchmarks.executors import Executor, ExecutorError, Here, Local, RayCluster, Worker
from benchmarks.files import StoreError, write, write_json
from benchmarks.models import ACTIVATIONS, MODELS
from benchmarks.plans import SIZES, Options, chosen, names, read
from benchmarks.registry import pick
from benchmarks.report import rows, write_report
from benchmarks.speed import (
    CLASSES,
    PEER,
    SETTINGS,
    SHAPES,
    Measurement,
    Workload,
    measure,
    peer_is_installed,
)
from benchmarks.store import Store
from benchmarks.study import Study, carry_out, check

#: With these, the work of an operation is less than the cost of sharing it among threads: on two
#: busy cores a step of the digits MLP took 1 ms with one thread and 36 ms with two.
SMALL_MODELS = {"toy-mlp", "mlp"}


class Refused(typer.TyperException):
    """Bad input, described in one line."""

    exit_code = 2


EXECUTORS = ("local", "ray")


class OneLineErrors(TyperGroup):
    """A command line that reports every error in one line, instead of a box with a usage text."""

    def main(self, args: Sequence[str] | None = None, *other: Any, **options: Any) -> Any:
        """Run and exit; the arguments become the context's `obj`, to be quoted in reports."""
        arguments = sys.argv[1:] if args is None else list(args)
        options = {**options, "standalone_mode": False, "obj": arguments}
        try:
            code = super().main(arguments, *other, **options)
        except typer.TyperException as error:
            _say(f"error: {error.format_message()}")
            code = error.exit_code
        sys.exit(code or 0)


def _whole(text: str | int) -> int:
    """Parse an option; typer's own message does not say what it was given."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise typer.BadParameter(f"{text!r}; allowed: whole numbers from 1")
    return number


def _real(text: str | float) -> float:
    """Parse an option; which numbers make sense is checked where they are used."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


app = typer.Typer(
    cls=OneLineErrors, help="Benchmark Layer-wise Feedback Propagation against its rivals."
)

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Threads = Annotated[
    int | None,
    typer.Option(
        parser=_whole, help="Of the CPU; by default 1 for small models, else all but one."
    ),
]
Results = Annotated[Path, typer.Option(help="Folder of all studies.")]
StudyName = Annotated[str | None, typer.Option(help="Folder of this study in it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
ExecutorName = Annotated[
    str, typer.Option("--executor", help=f"Where runs are made: {' or '.join(EXECUTORS)}.")
]
Jobs = Annotated[int, typer.Option(parser=_whole, help="Runs at a time on this machine.")]
RayAddress = Annotated[
    str, typer.Option(help="Of a Ray cluster, or auto for the one of this machine.")
]
GpuShare = Annotated[
    float, typer.Option(parser=_real, help="Of a GPU, for a run on a Ray cluster.")
]
Methods = Annotated[
    str,
    typer.Option(help=f"'all', or a list like a,b of: {', '.join([*FAMILIES, *METHODS])}."),
]
Activations = Annotated[
    str, typer.Option(help=f"'all', or a list like a,b of: {', '.join(ACTIVATIONS)}.")
]


@app.command()
def compare(
    context: typer.Context,
    dataset: Annotated[str, typer.Option(help=f"One of: {', '.join(DATASETS)}.")] = "digits",
    model: Annotated[
        str | None, typer.Option(help=f"One of: {', '.join(MODELS)}; by default the data set's.")
    ] = None,
    methods: Methods = "lfp,sgd,wsgd",
    activations: Activations = "all",
    seeds: Annotated[
        int, typer.Option(parser=_whole, help="Runs of each method and activation.")
    ] = 3,
    epochs: Annotated[
        int | None, typer.Option(parser=_whole, help="By default the data set's.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(parser=_whole, help="By default the data set's.")
    ] = None,
    momentum: Annotated[float, typer.Option(parser=_real, help="Of SGD, in [0, 1).")] = 0.9,
    clip_norm: Annotated[
        float, typer.Option(parser=_real, help="Largest feedback norm; 0: no limit.")
    ] = 3.0,
    reduction: Annotated[str, typer.Option(help="Of the batch's losses: mean or sum.")] = "mean",
    epsilon: Annotated[float, typer.Option(parser=_real, help="Stabiliser of LFP.")] = 1e-6,
    learning_rates: Annotated[
        str, typer.Option(help="The grid of the sweep.")
    ] = "0.003,0.01,0.03,0.1,0.3,1,3",
    learning_rate: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD=RATE", help="Fix a method's rate; can be repeated."),
    ] = None,
    sweep_epochs: Annotated[
        int | None, typer.Option(parser=_whole, help="By default the data set's.")
    ] = None,
    sweep_seeds: Annotated[
        int, typer.Option(parser=_whole, help="Runs of each rate in the sweep.")
    ] = 2,
    schedule: Annotated[
        str, typer.Option(help="Of the learning rate: constant or one-cycle.")
    ] = "constant",
    adaptive_clip: Annotated[
        float, typer.Option(parser=_real, help="Largest relative change of a unit; 0: any.")
    ] = 0.0,
    max_norm: Annotated[
        bool, typer.Option("--max-norm", help="Spiking LFP: rewards of a layer over their maximum.")
    ] = False,
    normaliser: Annotated[str, typer.Option(help="Spiking LFP: current or earlier.")] = "current",
    beta: Annotated[float, typer.Option(parser=_real, help="Decay of lif neurons.")] = Spiking.beta,
    time_steps: Annotated[
        int, typer.Option(parser=_whole, help="T of lif networks.")
    ] = Spiking.steps,
    encoding: Annotated[
        str, typer.Option(help="Of the input of lif networks: constant, rate or latency.")
    ] = Spiking.encoding,
    seconds: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD=SECONDS", help="Time budget of a run; can be repeated."),
    ] = None,
    executor: ExecutorName = "local",
    jobs: Jobs = 1,
    ray_address: RayAddress = "auto",
    gpu_share: GpuShare = 1.0,
    device: Device = "auto",
    threads: Threads = None,
    results: Results = Path("results"),
    study: StudyName = None,
    as_json: AsJson = False,
) -> None:
    """Train with every method and activation, and report accuracy, time and memory.

    Learning rates are chosen on the validation split in a sweep. Every run is stored when it is
    done: the same command again makes only those that are missing.
    """
    with _refusing(ValueError, DataError):
        plan = Options(
            dataset=dataset,
            model=model,
            methods=_split(methods),
            activations=_split(activations),
            seeds=seeds,
            epochs=epochs,
            batch_size=batch_size,
            momentum=momentum,
            clip_norm=clip_norm,
            reduction=reduction,
            epsilon=epsilon,
            learning_rates=[_number("learning_rates", text) for text in learning_rates.split(",")],
            learning_rate=_by_method("learning_rate", "RATE", learning_rate or []),
            sweep_epochs=sweep_epochs,
            sweep_seeds=sweep_seeds,
            schedule=schedule,
            adaptive_clip=adaptive_clip,
            max_norm=max_norm,
            normaliser=normaliser,
            beta=beta,
            time_steps=time_steps,
            encoding=encoding,
            seconds=_by_method("seconds", "SECONDS", seconds or []),
        ).study()
        store = Store(_folder(results, study or f"{dataset}-{plan.model}"))
        chosen_device = _prepare(device, threads, [plan.model])
        place = _executor(executor, store, chosen_device, jobs, ray_address, gpu_share)
        check(plan)
    command = shlex.join(["lfp-bench", *context.obj])
    found = _make(plan, store, chosen_device, place, command, quiet=as_json)
    if as_json:
        _print_json(found)


@app.command()
def run(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="STUDY", help="See `lfp-bench list`; or a file of your own.")
    ],
    size: Annotated[str, typer.Option(help=f"One of: {', '.join(SIZES)}.")] = "cpu",
    executor: ExecutorName = "local",
    jobs: Jobs = 1,
    ray_address: RayAddress = "auto",
    gpu_share: GpuShare = 1.0,
    device: Device = "auto",
    threads: Threads = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Carry out a study that is written down, part by part; each has a folder and a report.

    The same command again goes on where it was interrupted.
    """
    with _refusing(ValueError, DataError):
        studies = read(name).studies(size)
        folder = _folder(results, f"{Path(name).stem}-{size}")
        chosen_device = _prepare(device, threads, [plan.model for plan in studies.values()])
        for plan in studies.values():
            check(plan)
    found = []
    for part, plan in studies.items():
        _say(f"{name}: {part}")
        store = Store(folder / part)
        with _refusing(ValueError):
            place = _executor(executor, store, chosen_device, jobs, ray_address, gpu_share)
        command = shlex.join(["lfp-bench", *context.obj])
        made = _make(plan, store, chosen_device, place, command, quiet=as_json)
        found.append({"part": part, **made})
    if as_json:
        _print_json({"study": name, "size": size, "parts": found})


@app.command("list")
def list_studies(as_json: AsJson = False) -> None:
    """List the studies that are written down, with the number of runs that each size has."""
    with _refusing(ValueError):
        plans = {name: read(name) for name in names()}
    runs = {
        name: {
            str(size): sum(study.runs for study in plan.studies(size).values())
            for size in plan.sizes
        }
        for name, plan in plans.items()
    }
    if as_json:
        found = [
            {"study": name, "title": plan.title, "source": plan.source, "runs": runs[name]}
            for name, plan in plans.items()
        ]
        _print_json({"studies": found})
    else:
        header = ("study", "title", *(f"runs, {size}" for size in SIZES))
        lines = [
            (name, plan.title, *(str(runs[name].get(size, "-")) for size in SIZES))
            for name, plan in plans.items()
        ]
        _print_table((header, lines), [])


@app.command()
def status(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="As it was given to `run`.")],
    size: Annotated[str, typer.Option(help=f"One of: {', '.join(SIZES)}.")] = "cpu",
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Tell how far a study is: runs that are done, have diverged, and are under way."""
    with _refusing(ValueError, StoreError):
        folder = _folder(results, f"{Path(name).stem}-{size}")
        found = []
        for part, plan in read(name).studies(size).items():
            store = Store(folder / part)
            stored = store.all()
            found.append(
                {
                    "part": part,
                    "done": len(stored),
                    "of": plan.runs,
                    "diverged": sum(s.result.divergence is not None for s in stored),
                    "under way": len(list((store.folder / "checkpoints").glob("*.pt"))),
                }
            )
    if as_json:
        _print_json({"study": name, "size": size, "parts": found})
    else:
        header = ("part", "done", "of", "diverged", "under way")
        _print_table((header, [tuple(map(str, part.values())) for part in found]), [])


@app.command()
def speed(
    context: typer.Context,
    models: Annotated[
        str, typer.Option(help=f"'all', or a list like a,b of: {', '.join(SHAPES)}.")
    ] = ("lenet,vgg-like"),
    activations: Activations = "all",
    methods: Methods = "lfp,sgd,wsgd",
    batch_size: Annotated[int, typer.Option(parser=_whole, help="Of random inputs.")] = 128,
    repeats: Annotated[
        int, typer.Option(parser=_whole, help="Timed rounds of one step each.")
    ] = 10,
    peer: Annotated[bool, typer.Option("--peer", help=f"Also the authors' {PEER}.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    results: Results = Path("results"),
    study: StudyName = None,
    as_json: AsJson = False,
) -> None:
    """Measure time and peak memory of a training step against SGD's, on random inputs."""
    with _refusing(ValueError):
        names = chosen("models", _split(models), SHAPES)
        kinds = chosen("activations", _split(activations), ACTIVATIONS)
        compared = chosen("methods", _split(methods), METHODS, FAMILIES)
        folder = _folder(results, study or "speed")
        chosen_device = _prepare(device, threads, names)
    if peer and not peer_is_installed():
        _say(f"{PEER} is missing or does not import here, so it is left out (see `make peer`)")
        peer = False
    found = []
    with _refusing(OSError), _progress(len(names) * len(kinds)) as tick:
        for name in names:
            for kind in kinds:
                # Of all activations, the authors' package knows only its own step function, and of
                # neurons only its own layers (see `python -m benchmarks.speed_spiking`).
                rivals = (PEER,) if peer and kind not in ("heaviside", "lif") else ()
                spiking = Spiking() if kind == "lif" else None
                going = [m for m in compared if kind not in METHODS[m].refusals]
                measurement = Measurement(
                    workload=Workload(name, kind, SHAPES[name], CLASSES, batch_size, spiking),
                    methods=(*going, *rivals),
                    repeats=repeats,
                    settings=SETTINGS,
                    processor=processor(chosen_device),
                    threads=torch.get_num_threads(),
                )
                costs = measure(measurement, chosen_device)
                found += [{"model": name, "activation": kind, **asdict(c)} for c in costs]
                tick(f"{name} {kind}")
        environment, command = describe(chosen_device), shlex.join(["lfp-bench", *context.obj])
        description = {"command": command, "environment": environment, "rows": found}
        lines = table.speed_lines(found)
        write_json(folder / "speed.json", description)
        remarks = [
            "Heaviside's ratios are to SGD's step with ReLU: no gradient passes a step function.",
            f"Batches of {batch_size}; median of {repeats} interleaved rounds, with the quartiles.",
            *(f"Made on: {origin}." for origin in table.origin([environment])),
            f"Command: `{command}`",
        ]
        write(folder / "speed.md", table.document(lines, remarks).encode())
    if as_json:
        _print_json(description)
    else:
        _print_table(lines, remarks)
    _say(f"The report is in {folder}: speed.md, speed.json")


@app.command()
def verify(
    model: Annotated[
        str | None,
        typer.Option(metavar="PACKAGE:CALLABLE", help="Returns a model of your own to check."),
    ] = None,
    shape: Annotated[
        str, typer.Option("--input", help="Shape of an input of that model, like 3,32,32.")
    ] = "",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Check the engine on this machine against Theorem 1 and an oracle; exit code 1: it differs."""
    from validation import verify as checks  # noqa: PLC0415  (tests, of no use to other commands)

    with _refusing(ValueError, TypeError, RuntimeError):
        precision = pick("dtype", dtype, {"float32": torch.float32, "float64": torch.float64})
        chosen_device = _prepare(device, None, ["mlp"])
        if model is None:
            found = list(checks.machine(chosen_device, precision))
        else:
            sizes = [_size("input", text) for text in shape.split(",")]
            torch.manual_seed(0)
            inputs = torch.randn(checks.BATCH, *sizes).to(chosen_device, precision)
            found = list(checks.users_model(checks.load(model)(), inputs))
    environment = describe(chosen_device)
    if as_json:
        _print_json({"checks": [asdict(check) for check in found], "environment": environment})
    else:
        lines = [(check.name, check.verdict, check.detail) for check in found]
        origins = [f"Checked on: {o}." for o in table.origin([environment])]
        _print_table((("check", "verdict", "detail"), lines), origins)
    if any(check.verdict == "differs" for check in found):
        raise typer.Exit(1)


@app.command()
def diagnose(
    context: typer.Context,
    dataset: Annotated[str, typer.Option(help=f"One of: {', '.join(DATASETS)}.")] = "mnist",
    model: Annotated[str, typer.Option(help=f"One of: {', '.join(MODELS)}.")] = "mlp",
    activations: Activations = "all",
    learning_rate: Annotated[float, typer.Option(parser=_real, help="Of LFP.")] = 0.01,
    reduction: Annotated[str, typer.Option(help="Of the batch's rewards: mean or sum.")] = "sum",
    epsilon: Annotated[float, typer.Option(parser=_real, help="Stabiliser of LFP.")] = 1e-6,
    epochs: Annotated[int, typer.Option(parser=_whole, help="Of training.")] = 2,
    results: Results = Path("results"),
    study: StudyName = None,
    as_json: AsJson = False,
) -> None:
    """Show why LFP learns or does not: secant slopes and feedback norms, before and after."""
    with _refusing(ValueError, DataError):
        # The slope of a spike depends on what came before it.
        without = {name: slope for name, slope in ACTIVATIONS.items() if name != "lif"}
        kinds = chosen("activations", _split(activations), without)
        settings = Settings(learning_rate, reduction=reduction, epsilon=epsilon)  # type: ignore[arg-type]
        pick("model", model, MODELS)
        data = load(dataset)
        folder = _folder(results, study or f"diagnosis-{dataset}-{model}")
        device = _prepare("cpu", None, [model])
        found = {}
        with _progress(len(kinds)) as tick:
            for kind in kinds:
                found[kind] = before_and_after(data, model, kind, settings, epochs)
                tick(kind)
    environment, command = describe(device), shlex.join(["lfp-bench", *context.obj])
    description = {
        "command": command,
        "environment": environment,
        "activations": {
            kind: {time: [asdict(layer) for layer in layers] for time, layers in of_kind.items()}
            for kind, of_kind in found.items()
        },
    }
    lines = table.diagnosis_lines(found)
    remarks = [
        f"{dataset}, {model}: slopes f(z) / (z + eps s(z)) of the hidden units, eps = {epsilon:g}, "
        f"before and after {epochs} epochs at learning rate {learning_rate:g} ({reduction}). Norms "
        "are of the feedback of the layer's weights, and of their gradient times |w|.",
        *(f"Made on: {origin}." for origin in table.origin([environment])),
        f"Command: `{command}`",
    ]
    with _refusing(OSError):
        write_json(folder / "diagnosis.json", description)
        write(folder / "diagnosis.md", table.document(lines, remarks).encode())
        write(folder / "diagnosis.png", png(found))
    if as_json:
        _print_json(description)
    else:
        _print_table(lines, remarks)
    _say(f"The report is in {folder}: diagnosis.md, diagnosis.png, diagnosis.json")


# --- reading the options --------------------------------------------------------------------------


def _split(text: str) -> list[str] | Literal["all"]:
    """Return the names in a comma-separated text."""
    return "all" if text == "all" else [name.strip() for name in text.split(",")]


def _number(field: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{field}: {text!r} is not a number; allowed: above 0") from None


def _size(field: str, text: str) -> int:
    try:
        size = int(text)
    except ValueError:
        size = 0
    if size < 1:
        raise ValueError(f"{field}: {text!r}; allowed: whole numbers from 1, like 3,32,32")
    return size


def _by_method(field: str, unit: str, texts: Iterable[str]) -> dict[str, float]:
    """Return the number that is given for each method or family."""
    numbers = {}
    for text in texts:
        name, sign, number = text.partition("=")
        if not sign:
            raise ValueError(f"{field}: {text!r} is not of the form METHOD={unit}")
        numbers[name] = _number(field, number)
    return numbers


def _folder(results: Path, study: str) -> Path:
    """Return the study's folder; its name must not lead elsewhere."""
    if not re.fullmatch(r"\w[\w.-]*", study):
        raise ValueError(
            f"study: {study!r} is no name for a folder; allowed: letters, digits, and . _ - inside"
        )
    return results / study


def _prepare(device: str, threads: int | None, models: Iterable[str]) -> torch.device:
    """Return the device, after setting the number of threads."""
    available = ["auto", "cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if device == "cuda" and device not in available:
        raise ValueError("device: 'cuda' is not available on this machine; allowed: auto, cpu")
    pick("device", device, dict.fromkeys(available))
    if threads is None:
        # One core is left to the rest of the machine: threads wait for the slowest of them.
        threads = 1 if SMALL_MODELS.issuperset(models) else max((os.cpu_count() or 1) - 1, 1)
    torch.set_num_threads(threads)
    # Deterministic matrix products on a GPU need this before the first one.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(available[-1] if device == "auto" and len(available) > 2 else "cpu")


def _executor(
    name: str, store: Store, device: torch.device, jobs: int, address: str, share: float
) -> Executor:
    """Return where runs are made."""
    pick("executor", name, dict.fromkeys(EXECUTORS))
    worker = Worker(store.folder.absolute(), device.type, torch.get_num_threads())
    if name == "ray":
        if not 0 < share < inf:
            raise ValueError(f"gpu_share: {share}; allowed: above 0, 1 for a whole one")
        return RayCluster(worker, address, share if device.type == "cuda" else 0.0)
    return Local(worker, jobs) if jobs > 1 else Here(worker)


def _make(
    plan: Study,
    store: Store,
    device: torch.device,
    place: Executor,
    command: str,
    *,
    quiet: bool,
) -> dict[str, Any]:
    """Carry out a study, write and (if not quiet) show its report; return it in JSON types."""
    description = {
        "command": command,
        "configuration": asdict(plan),
        "environment": describe(device),
    }
    with (
        _refusing(StoreError, ExecutorError, OSError, MemoryError),
        _resumable(command, store),
        store.locked(),
    ):
        write_json(store.folder / "study.json", description)
        with _progress(plan.size) as tick:
            outcome = carry_out(plan, store, device, tick, place)
        summary = write_report(store, outcome, command)
    _say(f"The report is in {store.folder}: table.md, figure.png, results.csv, results.parquet")
    if not quiet:
        _print_table(table.lines(summary), table.notes(outcome, summary))
    return {**description, "folder": str(store.folder), "rows": rows(summary)}


# --- talking --------------------------------------------------------------------------------------


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _print_table(lines: table.Lines, remarks: Iterable[str]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(table.terminal(lines))
    for remark in remarks:
        console.print(f"- {remark}", style="dim", highlight=False, markup=False)


def _print_json(content: Mapping[str, Any]) -> None:
    print(json.dumps(content, indent=2, allow_nan=False))


@contextmanager
def _refusing(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors that are the user's to solve into one line and exit code 2."""
    try:
        yield
    except errors as error:
        raise Refused(str(error)) from error


@contextmanager
def _resumable(command: str, store: Store) -> Iterator[None]:
    """On Ctrl-C, say that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        _say(
            f"interrupted; finished runs are in {store.folder}, the same command resumes: {command}"
        )
        raise typer.Exit(130) from None


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar on stderr; yield what moves it on by one."""
    columns = (
        TextColumn("{task.description:18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=total)
        yield lambda description: progress.update(task, advance=1, description=description)
