"""The commands that carry out studies, and tell of them."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from baselines import Spiking
from benchmarks import table
from benchmarks.cli.app import app, refusing
from benchmarks.cli.options import (
    Activations,
    AsJson,
    Device,
    ExecutorName,
    GpuShare,
    Jobs,
    Methods,
    RayAddress,
    Results,
    StudyName,
    Threads,
    by_method,
    executor_named,
    parse_number,
    parse_real,
    parse_whole,
    prepare,
    split,
    study_folder,
)
from benchmarks.cli.output import print_json, print_table, progress, resumable, say
from benchmarks.data import DATASETS, DataError
from benchmarks.environment import describe
from benchmarks.executors import Executor, ExecutorError
from benchmarks.files import StoreError, write_json
from benchmarks.models import MODELS
from benchmarks.plans import SIZES, Options, names, read
from benchmarks.report import rows, write_report
from benchmarks.store import Store
from benchmarks.study import Study, carry_out, check


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
        int, typer.Option(parser=parse_whole, help="Runs of each method and activation.")
    ] = 3,
    epochs: Annotated[
        int | None, typer.Option(parser=parse_whole, help="By default the data set's.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(parser=parse_whole, help="By default the data set's.")
    ] = None,
    momentum: Annotated[float, typer.Option(parser=parse_real, help="Of SGD, in [0, 1).")] = 0.9,
    clip_norm: Annotated[
        float, typer.Option(parser=parse_real, help="Largest feedback norm; 0: no limit.")
    ] = 3.0,
    reduction: Annotated[str, typer.Option(help="Of the batch's losses: mean or sum.")] = "mean",
    epsilon: Annotated[float, typer.Option(parser=parse_real, help="Stabiliser of LFP.")] = 1e-6,
    learning_rates: Annotated[
        str, typer.Option(help="The grid of the sweep.")
    ] = "0.003,0.01,0.03,0.1,0.3,1,3",
    learning_rate: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD=RATE", help="Fix a method's rate; can be repeated."),
    ] = None,
    sweep_epochs: Annotated[
        int | None, typer.Option(parser=parse_whole, help="By default the data set's.")
    ] = None,
    sweep_seeds: Annotated[
        int, typer.Option(parser=parse_whole, help="Runs of each rate in the sweep.")
    ] = 2,
    schedule: Annotated[
        str, typer.Option(help="Of the learning rate: constant or one-cycle.")
    ] = "constant",
    adaptive_clip: Annotated[
        float, typer.Option(parser=parse_real, help="Largest relative change of a unit; 0: any.")
    ] = 0.0,
    max_norm: Annotated[
        bool, typer.Option("--max-norm", help="Spiking LFP: rewards of a layer over their maximum.")
    ] = False,
    normaliser: Annotated[str, typer.Option(help="Spiking LFP: current or earlier.")] = "current",
    beta: Annotated[
        float, typer.Option(parser=parse_real, help="Decay of lif neurons.")
    ] = Spiking.beta,
    time_steps: Annotated[
        int, typer.Option(parser=parse_whole, help="T of lif networks.")
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
    with refusing(ValueError, DataError):
        plan = Options(
            dataset=dataset,
            model=model,
            methods=split(methods),
            activations=split(activations),
            seeds=seeds,
            epochs=epochs,
            batch_size=batch_size,
            momentum=momentum,
            clip_norm=clip_norm,
            reduction=reduction,
            epsilon=epsilon,
            learning_rates=[
                parse_number("learning_rates", text) for text in learning_rates.split(",")
            ],
            learning_rate=by_method("learning_rate", "RATE", learning_rate or []),
            sweep_epochs=sweep_epochs,
            sweep_seeds=sweep_seeds,
            schedule=schedule,
            adaptive_clip=adaptive_clip,
            max_norm=max_norm,
            normaliser=normaliser,
            beta=beta,
            time_steps=time_steps,
            encoding=encoding,
            seconds=by_method("seconds", "SECONDS", seconds or []),
        ).study()
        store = Store(study_folder(results, study or f"{dataset}-{plan.model}"))
        chosen_device = prepare(device, threads, [plan.model])
        place = executor_named(executor, store, chosen_device, jobs, ray_address, gpu_share)
        check(plan)
    command = shlex.join(["lfp-bench", *context.obj])
    found = _make(plan, store, chosen_device, place, command, quiet=as_json)
    if as_json:
        print_json(found)


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
    with refusing(ValueError, DataError):
        studies = read(name).studies(size)
        folder = study_folder(results, f"{Path(name).stem}-{size}")
        chosen_device = prepare(device, threads, [plan.model for plan in studies.values()])
        for plan in studies.values():
            check(plan)
    found = []
    for part, plan in studies.items():
        say(f"{name}: {part}")
        store = Store(folder / part)
        with refusing(ValueError):
            place = executor_named(executor, store, chosen_device, jobs, ray_address, gpu_share)
        command = shlex.join(["lfp-bench", *context.obj])
        made = _make(plan, store, chosen_device, place, command, quiet=as_json)
        found.append({"part": part, **made})
    if as_json:
        print_json({"study": name, "size": size, "parts": found})


@app.command("list")
def list_studies(as_json: AsJson = False) -> None:
    """List the studies that are written down, with the number of runs that each size has."""
    with refusing(ValueError):
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
        print_json({"studies": found})
    else:
        header = ("study", "title", *(f"runs, {size}" for size in SIZES))
        lines = [
            (name, plan.title, *(str(runs[name].get(size, "-")) for size in SIZES))
            for name, plan in plans.items()
        ]
        print_table((header, lines), [])


@app.command()
def status(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="As it was given to `run`.")],
    size: Annotated[str, typer.Option(help=f"One of: {', '.join(SIZES)}.")] = "cpu",
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Tell how far a study is: runs that are done, have diverged, and are under way."""
    with refusing(ValueError, StoreError):
        folder = study_folder(results, f"{Path(name).stem}-{size}")
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
        print_json({"study": name, "size": size, "parts": found})
    else:
        header = ("part", "done", "of", "diverged", "under way")
        print_table((header, [tuple(map(str, part.values())) for part in found]), [])


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
        refusing(StoreError, ExecutorError, OSError, MemoryError),
        resumable(command, store),
        store.locked(),
    ):
        write_json(store.folder / "study.json", description)
        with progress(plan.size) as tick:
            outcome = carry_out(plan, store, device, tick, place)
        summary = write_report(store, outcome, command)
    say(f"The report is in {store.folder}: table.md, figure.png, results.csv, results.parquet")
    if not quiet:
        print_table(table.lines(summary), table.notes(outcome, summary))
    return {**description, "folder": str(store.folder), "rows": rows(summary)}
