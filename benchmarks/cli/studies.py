"""The commands that carry out studies, and tell of them."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from baselines import METHODS, Spiking
from benchmarks.cli import divergence
from benchmarks.cli.app import app, refusing
from benchmarks.cli.making import Made, counted, describe_study, make, refuse_another_file
from benchmarks.cli.method_options import with_options_of
from benchmarks.cli.options import (
    Activations,
    AsJson,
    Columns,
    Device,
    ExecutorName,
    GpuShare,
    Jobs,
    Methods,
    RayAddress,
    Results,
    Show,
    StoredSize,
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
from benchmarks.cli.output import print_json, print_table, say
from benchmarks.cli.reports import show_report
from benchmarks.data import DATASETS, DataError
from benchmarks.models import MODELS
from benchmarks.storage.files import StoreError
from benchmarks.studies.plan import SIZES, changed, names, read


@app.command()
@with_options_of(METHODS)
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
        int | None,
        typer.Option(
            parser=parse_whole, help="Epochs of a reported run; by default the data set's."
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(parser=parse_whole, help="Samples in a batch; by default the data set's."),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            parser=parse_whole,
            help="Trials of each method in its own space; by default 16, for swarms and R-STDP 0.",
        ),
    ] = None,
    learning_rates: Annotated[
        str | None, typer.Option(help="Learning rates that the sweep tries, instead of trials.")
    ] = None,
    learning_rate: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD=RATE", help="Fix a method's rate; can be repeated."),
    ] = None,
    sweep_epochs: Annotated[
        int | None,
        typer.Option(
            parser=parse_whole, help="Epochs of a run in the sweep; by default the data set's."
        ),
    ] = None,
    sweep_seeds: Annotated[
        int, typer.Option(parser=parse_whole, help="Runs of each trial in the sweep.")
    ] = 1,
    beta: Annotated[
        float, typer.Option(parser=parse_real, help="Decay of spiking neurons, like lif.")
    ] = Spiking.beta,
    time_steps: Annotated[
        int, typer.Option(parser=parse_whole, help="Time steps T of spiking networks.")
    ] = Spiking.steps,
    encoding: Annotated[
        str, typer.Option(help="How spiking networks get their input: constant, rate or latency.")
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
    show: Show = False,
    columns: Columns = "main",
    as_json: AsJson = False,
    **options_of_methods: Any,
) -> None:
    """Train with every method and activation, and show a table of accuracy, time and memory.

    `lfp-bench report` makes a page of the same results, with the statistics and the figures.
    Learning rates are chosen on the validation split in a sweep. Every run is stored when it is
    done: the same command again makes only those that are missing.
    """
    from benchmarks.experiments.comparison import Comparison, Options  # noqa: PLC0415  (slow)

    with refusing(ValueError, DataError):
        options = Options(
            dataset=dataset,
            model=model,
            methods=split(methods),
            activations=split(activations),
            seeds=seeds,
            epochs=epochs,
            batch_size=batch_size,
            trials=trials,
            learning_rates=None
            if learning_rates is None
            else [parse_number("learning_rates", text) for text in learning_rates.split(",")],
            learning_rate=by_method("learning_rate", "RATE", learning_rate or []),
            sweep_epochs=sweep_epochs,
            sweep_seeds=sweep_seeds,
            beta=beta,
            time_steps=time_steps,
            encoding=encoding,
            seconds=by_method("seconds", "SECONDS", seconds or []),
            **options_of_methods,
        )
        kind = Comparison()
        folder = study_folder(
            results, f"{dataset}-{kind.model(options)}" if study is None else study
        )
        chosen_device = prepare(device, threads, [kind.model(options)], jobs)
        at = executor_named(executor, chosen_device, jobs, ray_address, gpu_share)
        kind.check(options)
    command, told = shlex.join(["lfp-bench", *context.obj]), None if as_json else columns
    found = make("comparison", options, folder, chosen_device, at, command, told)
    if as_json:
        print_json(found)
    if show:
        show_report(folder.name, results)
    divergence.leave_if_nothing_finished(counted([found]))


@app.command()
def run(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="A name of `lfp-bench list`, or a YAML file of your own."
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Options that replace those of all parts."),
    ] = None,
    size: Annotated[str, typer.Option(help=f"One of: {', '.join(SIZES)}.")] = "cpu",
    part: Annotated[
        list[str] | None, typer.Option(help="Part to make; can be repeated. By default all.")
    ] = None,
    executor: ExecutorName = "local",
    jobs: Jobs = 1,
    ray_address: RayAddress = "auto",
    gpu_share: GpuShare = 1.0,
    device: Device = "auto",
    threads: Threads = None,
    results: Results = Path("results"),
    show: Show = False,
    columns: Columns = "main",
    as_json: AsJson = False,
) -> None:
    """Carry out a study that is written down, part by part; each has a folder and a table.

    `lfp-bench report` makes a page of all parts. The same command again goes on where it was
    interrupted.
    """
    with refusing(ValueError, DataError):
        plan = read(name)
        studies = plan.studies(size, changed(changes or []), part or [])
        folder = study_folder(results, f"{Path(name).stem}-{size}")
        chosen_device = prepare(device, threads, map(plan.kind.model, studies.values()), jobs)
        at = executor_named(executor, chosen_device, jobs, ray_address, gpu_share)
        for options in studies.values():
            plan.kind.check(options)
    command, found = shlex.join(["lfp-bench", *context.obj]), list[Made]()
    told = None if as_json else columns
    with refusing(ValueError, OSError):
        refuse_another_file(name, folder)
    for each, options in studies.items():  # so that `resume` knows of those not begun yet
        if not (folder / each / "study.json").exists():
            with refusing(OSError):
                describe_study(plan.experiment, options, folder / each, chosen_device, command)
    for each, options in studies.items():
        say(f"{name}: {each}")
        made = make(
            plan.experiment,
            options,
            folder / each,
            chosen_device,
            at,
            command,
            told,
        )
        found.append({"part": each, **made})
    if as_json:
        print_json({"study": name, "size": size, "parts": found})
    if show:
        show_report(folder.name, results)
    divergence.leave_if_nothing_finished(counted(found))


@app.command()
def resume(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the study, as `compare` or `run` has named it.")
    ],
    executor: ExecutorName = "local",
    jobs: Jobs = 1,
    ray_address: RayAddress = "auto",
    gpu_share: GpuShare = 1.0,
    device: Device = "auto",
    threads: Threads = None,
    columns: Columns = "main",
    as_json: AsJson = False,
) -> None:
    """Go on with what was interrupted, as the folder says; no option has to be repeated."""
    from benchmarks.studies.collect import described  # noqa: PLC0415  (slow)

    with refusing(ValueError, DataError, StoreError, OSError):
        paths = sorted([*folder.glob("study.json"), *folder.glob("*/study.json")])
        if not paths:
            raise ValueError(f"folder: {folder} holds no study.json; allowed: one with a study")
        studies = {path.parent: s for path in paths if (s := described(path)) is not None}
        models = [s.kind.model(s.options) for s in studies.values()]
        chosen_device = prepare(device, threads, models, jobs)
        at = executor_named(executor, chosen_device, jobs, ray_address, gpu_share)
    found, told = list[Made](), None if as_json else columns
    for part, s in studies.items():
        say(f"{part}: {s.command}")
        name = s.content["experiment"]
        made = make(name, s.options, part, chosen_device, at, s.command, told)
        found.append({"part": part.name, **made})
    if as_json:
        print_json({"study": str(folder), "parts": found})
    divergence.leave_if_nothing_finished(counted(found))


@app.command("list")
def list_studies(as_json: AsJson = False) -> None:
    """List the studies that are written down, with the number of runs that each size has."""
    with refusing(ValueError):
        plans = {name: read(name) for name in names()}
    runs = {
        name: {
            str(size): sum(map(plan.kind.runs, plan.studies(size).values())) for size in plan.sizes
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
    name: Annotated[str, typer.Argument(metavar="STUDY", help="Study as it was given to `run`.")],
    size: StoredSize = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Tell how far a study is: runs that are done, have diverged, and are under way."""
    from benchmarks.experiments.conduct import status as tell  # noqa: PLC0415  (slow)
    from benchmarks.studies.collect import stored_size  # noqa: PLC0415

    with refusing(ValueError, StoreError, OSError):
        plan, found = read(name), []
        size = stored_size(name, size, results)
        folder = study_folder(results, f"{Path(name).stem}-{size}")
        for part, options in plan.studies(size).items():
            told = tell(plan.kind, options, folder / part)
            found.append(
                {
                    "part": part,
                    "done": told.done,
                    "of": plan.kind.runs(options),
                    "diverged": told.diverged,
                    "under way": told.under_way,
                    "of other code": told.of_other_code,
                    "of other options": told.of_other_options,
                }
            )
    if as_json:
        print_json({"study": name, "size": size, "parts": found})
    else:
        header = tuple(found[0])
        print_table((header, [tuple(map(str, part.values())) for part in found]), [])
