"""The commands that carry out studies, and go on with those that were interrupted."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baselines.spiking import Spiking
from benchmarks.cli import completion, divergence, names
from benchmarks.cli.app import app, refusing
from benchmarks.cli.method_options import known, with_options_of
from benchmarks.cli.options import (
    Activations,
    AsJson,
    Columns,
    DataSet,
    Device,
    ExecutorName,
    GpuShare,
    Jobs,
    Methods,
    RayAddress,
    Results,
    Show,
    Size,
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
from benchmarks.cli.output import print_json, say
from benchmarks.cli.reports import show_report
from benchmarks.storage.files import StoreError, remove_leftovers
from benchmarks.studies.written import path_of

if TYPE_CHECKING:
    from benchmarks.cli.making import Made


@app.command()
@with_options_of(known)
def compare(
    context: typer.Context,
    dataset: DataSet = "digits",
    model: Annotated[
        str | None,
        typer.Option(
            help=f"One of: {', '.join(names.models())}; by default the data set's.",
            autocompletion=completion.model,
        ),
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
    finalists: Annotated[
        int | None,
        typer.Option(
            parser=parse_whole,
            help="Best trials that are made with as many seeds as are reported, before one is "
            "chosen.",
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
        str,
        typer.Option(
            help="How spiking networks get their input: constant, rate or latency.",
            autocompletion=completion.given("constant", "rate", "latency"),
        ),
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

    The options of each method are chosen on the validation split by a sweep. Every run is stored
    when it is done, so that the same command again makes only those that are missing.
    `lfp-bench report` makes a page of the results, with statistics and figures.
    """
    from benchmarks.cli.making import counted, make, refuse_parts  # noqa: PLC0415  (slow)
    from benchmarks.data import DataError  # noqa: PLC0415
    from benchmarks.experiments.comparison import Comparison, Options  # noqa: PLC0415

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
            finalists=finalists,
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
    with refusing(ValueError, StoreError, OSError):
        refuse_parts(folder)
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
            metavar="STUDY",
            help="A name of `lfp-bench list`, or a YAML file of your own.",
            autocompletion=completion.study,
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Options that replace those of all parts."),
    ] = None,
    size: Size = "cpu",
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Part to make; can be repeated. By default all.", autocompletion=completion.parts
        ),
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

    The same command again goes on where it was interrupted. `lfp-bench report` makes a page of all
    parts.
    """
    with refusing(ValueError):
        path_of(name)  # before what is slow to import
    from benchmarks.cli import making  # noqa: PLC0415
    from benchmarks.data import DataError  # noqa: PLC0415
    from benchmarks.studies.plan import changed, read  # noqa: PLC0415

    with refusing(ValueError, DataError):
        plan, others = read(name), changed(changes or [])
        with refusing(ValueError, of=name):
            studies = plan.studies(size, others, part or [])
        folder = study_folder(results, f"{Path(name).stem}-{size}")
        chosen_device = prepare(device, threads, map(plan.kind.model, studies.values()), jobs)
        at = executor_named(executor, chosen_device, jobs, ray_address, gpu_share)
        for each, options in studies.items():
            with refusing(ValueError, of=f"{name}: {each} ({size})"):
                plan.kind.check(options)
    command, found = shlex.join(["lfp-bench", *context.obj]), list["Made"]()
    told = None if as_json else columns
    with refusing(ValueError, StoreError, OSError):
        making.refuse_another_file(name, folder)
        remove_leftovers(folder)
    for each, options in studies.items():  # so that `resume` knows of those not begun yet
        if not (folder / each / "study.json").exists():
            with refusing(StoreError, OSError):
                making.describe_study(
                    plan.experiment, options, folder / each, chosen_device, command
                )
    for each, options in studies.items():
        say(f"{name}: {each}")
        made = making.make(
            plan.experiment, options, folder / each, chosen_device, at, command, told
        )
        found.append({"part": each, **made})
    if as_json:
        print_json({"study": name, "size": size, "parts": found})
    if show:
        show_report(folder.name, results)
    divergence.leave_if_nothing_finished(making.counted(found))


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
    """Continue a study in its folder; no option has to be given again."""
    with refusing(ValueError, OSError):
        paths = sorted([*folder.glob("study.json"), *folder.glob("*/study.json")])
        if not paths:
            raise ValueError(f"folder: {folder} holds no study.json; allowed: one with a study")
    from benchmarks.cli.making import counted, make  # noqa: PLC0415  (slow, as what follows)
    from benchmarks.data import DataError  # noqa: PLC0415
    from benchmarks.studies.collect import described  # noqa: PLC0415

    with refusing(ValueError, DataError, StoreError, OSError):
        studies = {path.parent: s for path in paths if (s := described(path)) is not None}
        models = [s.kind.model(s.options) for s in studies.values()]
        chosen_device = prepare(device, threads, models, jobs)
        at = executor_named(executor, chosen_device, jobs, ray_address, gpu_share)
        remove_leftovers(folder)
    found, told = list["Made"](), None if as_json else columns
    for part, s in studies.items():
        say(f"{part}: {s.command}")
        name = s.content["experiment"]
        made = make(name, s.options, part, chosen_device, at, s.command, told)
        found.append({"part": part.name, **made})
    if as_json:
        print_json({"study": str(folder), "parts": found})
    divergence.leave_if_nothing_finished(counted(found))
