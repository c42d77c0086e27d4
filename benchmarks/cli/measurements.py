"""The commands that measure without a study: what a step costs, and why LFP learns or does not."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from baselines.registry import blaming, pick, plug_ins
from benchmarks.cli import completion, divergence, names
from benchmarks.cli.app import app, refusing
from benchmarks.cli.options import (
    Activations,
    AsJson,
    DataSet,
    Device,
    Methods,
    Results,
    StudyName,
    Threads,
    parse_real,
    parse_whole,
    prepare,
    split,
    study_folder,
)
from benchmarks.cli.output import print_json, print_table, progress, say
from benchmarks.rendering import text
from benchmarks.storage.files import write, write_json

#: The authors' package.
PEER = "lfprop"


@app.command()
def speed(
    context: typer.Context,
    models: Annotated[
        str,
        typer.Option(
            help=f"'all', or a list like a,b of: {', '.join(names.models())}.",
            autocompletion=completion.models,
        ),
    ] = ("lenet,vgg-like"),
    activations: Activations = "all",
    methods: Methods = "lfp,sgd,wsgd",
    batch_size: Annotated[
        int, typer.Option(parser=parse_whole, help="Random samples in a batch.")
    ] = 128,
    repeats: Annotated[
        int, typer.Option(parser=parse_whole, help="Timed rounds of one step each.")
    ] = 10,
    peer: Annotated[bool, typer.Option("--peer", help=f"Also the authors' {PEER}.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    results: Results = Path("results"),
    study: StudyName = None,
    as_json: AsJson = False,
) -> None:
    """Measure time and peak memory of a training step against SGD's, on random inputs."""
    import torch  # noqa: PLC0415  (slow, as what follows)

    from baselines import FAMILIES, METHODS, Spiking  # noqa: PLC0415
    from benchmarks.costs import report, step  # noqa: PLC0415
    from benchmarks.costs.workloads import SETTINGS, Measurement, Workload  # noqa: PLC0415
    from benchmarks.experiments.options import chosen  # noqa: PLC0415
    from benchmarks.models import ACTIVATIONS, CLASSES, MODELS  # noqa: PLC0415
    from benchmarks.storage.provenance import describe, processor  # noqa: PLC0415

    with refusing(ValueError):
        measured = chosen("models", split(models), MODELS)
        kinds = chosen("activations", split(activations), ACTIVATIONS)
        compared = chosen("methods", split(methods), METHODS, FAMILIES)
        going = _going(measured, kinds, compared)
        folder = study_folder(results, "speed" if study is None else study)
        chosen_device = prepare(device, threads, measured)
    if peer and not step.peer_is_installed():
        say(f"{PEER} is missing or does not import here, so it is left out (see `make peer`)")
        peer = False
    found = []
    with refusing(OSError):
        folder.mkdir(parents=True, exist_ok=True)  # or all would be measured for nothing
    with refusing(ValueError, OSError, MemoryError), progress(len(going)) as tick:
        for (name, kind), methods_of in going.items():
            # Of all activations, the authors' package knows only its own step function, and of
            # neurons only its own layers (see `lfp-bench perf spiking`).
            activation, shape = ACTIVATIONS[kind], MODELS[name].input_shape
            rivals = (PEER,) if peer and activation.differentiable else ()
            spiking = Spiking() if activation.spiking else None
            measurement = Measurement(
                workload=Workload(name, kind, shape, CLASSES, batch_size, spiking),
                methods=(*methods_of, *rivals),
                repeats=repeats,
                settings={m: METHODS[m].Options.of(SETTINGS) for m in methods_of},
                processor=processor(chosen_device),
                threads=torch.get_num_threads(),
            )
            with _in_memory(batch_size):
                costs = step.measure(measurement, chosen_device)
            found += [{"model": name, "activation": kind, **asdict(c)} for c in costs]
            tick(f"{name} {kind}")
        environment, command = describe(chosen_device), shlex.join(["lfp-bench", *context.obj])
        description = {"command": command, "environment": environment, "rows": found}
        lines = report.speed_lines(found)
        write_json(folder / "speed.json", description)
        remarks = [
            "Heaviside's ratios are to SGD's step with ReLU: no gradient passes a step function.",
            f"Batches of {batch_size}; median of {repeats} interleaved rounds, with the quartiles.",
            *([report.SAME_POOLING] if report.pools(found) else []),
            *(f"Made on: {origin}." for origin in text.origins([environment])),
            f"Command: `{command}`",
        ]
        write(folder / "speed.md", text.in_bytes(text.document(lines, remarks)))
    if as_json:
        print_json(description)
    else:
        print_table(lines, remarks)
    say(f"Results are in {folder}: speed.md, speed.json")


def _going(
    models: Iterable[str], kinds: Iterable[str], methods: Sequence[str]
) -> dict[tuple[str, str], list[str]]:
    """Return the methods that are measured with each model and activation; tell what is left out.

    Raises:
        ValueError: nothing is left.
    """
    from baselines.methods import refusal  # noqa: PLC0415  (slow, as what follows)
    from benchmarks.models import ACTIVATIONS, MODELS  # noqa: PLC0415

    found: dict[tuple[str, str], list[str]] = {}
    without: list[str] = []
    for name, kind in product(models, kinds):
        activation = ACTIVATIONS[kind]
        going = [m for m in methods if not refusal(m, activation)]
        if activation.spiking and not MODELS[name].spiking:
            without.append(f"{name} with {kind}, as its units must not spike")
        elif going:
            found[name, kind] = going
        else:
            without.append(f"{name} with {kind}, which no method of {', '.join(methods)} goes with")
    if not found:
        raise ValueError(f"activations: nothing is left to measure ({'; '.join(without)})")
    for one in without:
        say(f"left out: {one}")
    return found


@contextmanager
def _in_memory(batch_size: int) -> Iterator[None]:
    """Raise `MemoryError` where torch says in its own way that there is too little memory."""
    try:
        yield
    except RuntimeError as error:
        if "allocate" not in str(error) and "out of memory" not in str(error):
            raise
        told = " ".join(str(error).split())
        raise MemoryError(
            f"batch_size: {batch_size} does not fit into the memory ({told})"
        ) from error


@app.command()
def diagnose(
    context: typer.Context,
    dataset: DataSet = "mnist",
    model: Annotated[
        str,
        typer.Option(help=f"One of: {', '.join(names.models())}.", autocompletion=completion.model),
    ] = "mlp",
    activations: Activations = "all",
    learning_rate: Annotated[
        float, typer.Option(parser=parse_real, help="Learning rate of LFP.")
    ] = 0.01,
    reduction: Annotated[
        str,
        typer.Option(
            help="How a batch's rewards are put together: mean or sum.",
            autocompletion=completion.given("mean", "sum"),
        ),
    ] = "sum",
    epsilon: Annotated[float, typer.Option(parser=parse_real, help="Stabiliser of LFP.")] = 1e-6,
    epochs: Annotated[int, typer.Option(parser=parse_whole, help="Epochs of training.")] = 2,
    results: Results = Path("results"),
    study: StudyName = None,
    as_json: AsJson = False,
) -> None:
    """Show why LFP learns or does not: secant slopes and feedback norms, before and after."""
    from baselines import LFPSettings  # noqa: PLC0415  (slow, as what follows)
    from benchmarks.analysis import diagnosis  # noqa: PLC0415
    from benchmarks.data import DATASETS, DataError, load  # noqa: PLC0415
    from benchmarks.experiments.options import chosen  # noqa: PLC0415
    from benchmarks.models import ACTIVATIONS, MODELS  # noqa: PLC0415
    from benchmarks.storage.provenance import describe  # noqa: PLC0415

    with refusing(ValueError, DataError, OSError):
        # The slope of a spike depends on what came before it.
        without = {name: slope for name, slope in ACTIVATIONS.items() if not slope.spiking}
        asked = split(activations)
        ours = [name for name in without if name in ACTIVATIONS.own]
        kinds = chosen("activations", ours if asked == "all" else asked, without)
        settings = LFPSettings(learning_rate, reduction=reduction, epsilon=epsilon)  # type: ignore[arg-type]
        pick("model", model, MODELS)
        data = load(dataset)
        folder = study_folder(results, f"diagnosis-{dataset}-{model}" if study is None else study)
        device = prepare("cpu", None, [model])
        folder.mkdir(parents=True, exist_ok=True)  # or all would be trained for nothing
        courses = {}
        with progress(len(kinds)) as tick:
            for kind in kinds:
                used = plug_ins((ACTIVATIONS, kind), (MODELS, model), (DATASETS, dataset))
                with blaming(used, passing=(OSError, MemoryError)):
                    courses[kind] = diagnosis.before_and_after(data, model, kind, settings, epochs)
                tick(kind)
    found = {kind: course.layers for kind, course in courses.items()}
    diverged = {k: c.divergence for k, c in courses.items() if c.divergence is not None}
    environment, command = describe(device), shlex.join(["lfp-bench", *context.obj])
    description = {
        "command": command,
        "environment": environment,
        "activations": {
            kind: {time: [layer.plain() for layer in layers] for time, layers in of_kind.items()}
            for kind, of_kind in found.items()
        },
        "dead": {
            kind: {time: asdict(dead) for time, dead in course.dead.items()}
            for kind, course in courses.items()
        },
        "diverged": {kind: asdict(at) for kind, at in diverged.items()},
    }
    lines = diagnosis.diagnosis_lines(found)
    remarks = [
        f"{dataset}, {model}: slopes f(z) / (z + eps s(z)) of the hidden units, eps = {epsilon:g}, "
        f"before and after {epochs} epochs at learning rate {learning_rate:g} ({reduction}). Norms "
        "are of the feedback of the layer's weights, and of their gradient times |w|.",
        *(
            f"{kind} diverged at step {at.step}, as {at.reason}: nothing is after training."
            for kind, at in diverged.items()
        ),
        *diagnosis.dead_notes({kind: course.dead for kind, course in courses.items()}),
        *(f"Made on: {origin}." for origin in text.origins([environment])),
        f"Command: `{command}`",
    ]
    with refusing(OSError):
        write_json(folder / "diagnosis.json", description)
        write(folder / "diagnosis.md", text.in_bytes(text.document(lines, remarks)))
        write(folder / "diagnosis.png", diagnosis.png(found))
    if as_json:
        print_json(description)
    else:
        print_table(lines, remarks)
    say(f"Results are in {folder}: diagnosis.md, diagnosis.png, diagnosis.json")
    divergence.leave_if_nothing_finished(
        divergence.Counted(kind, int(kind in diverged), 1) for kind in courses
    )
