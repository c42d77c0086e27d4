"""The commands that measure the project's own speed, or tell what was measured of it.

What measures is imported by the command that needs it, as most of it brings packages that take
seconds to import.
"""

import shlex
from collections.abc import Mapping
from math import inf
from pathlib import Path
from subprocess import CalledProcessError
from typing import Annotated, Any

import typer

from benchmarks.cli import completion, names
from benchmarks.cli.app import app, refusing
from benchmarks.cli.extras import needs_repository
from benchmarks.cli.later import Application
from benchmarks.cli.options import (
    Device,
    Results,
    Threads,
    parse_parallel,
    parse_real,
    parse_whole,
    prepare,
    split,
)
from benchmarks.cli.output import print_table, say
from benchmarks.performance import gpu_session
from benchmarks.storage.files import write, write_json
from benchmarks.storage.git import ROOT

#: Where the repository keeps what its documents quote; what is installed has no such folder.
KEPT = ROOT / "benchmarks" / "stored"
STORED = KEPT if KEPT.exists() else Path("results")


perf = Application(help="Measure the project's own speed.")
app.add_typer(perf, name="perf")
perf.add_typer(gpu_session.app, name="gpu", no_args_is_help=False)

Rounds = Annotated[
    int,
    typer.Option(parser=parse_whole, help="Rounds, in each of which everything is timed in turn."),
]


# --- against what is possible, and by size --------------------------------------------------------


@perf.command()
def roofline(context: typer.Context, results: Results = STORED) -> None:
    """Measure the parts of steps against what the machine can do (a roofline)."""
    from benchmarks.performance.roofline.report import write_report  # noqa: PLC0415
    from benchmarks.performance.roofline.steps import WORKLOADS  # noqa: PLC0415

    folder = _made(results / "roofline")
    with refusing(ValueError, OSError):
        print_table(*write_report(folder, WORKLOADS, _command(context)))
    say(f"Results are in {folder}: roofline.json, roofline.md, roofline.png")


@perf.command()
def scaling(context: typer.Context, results: Results = STORED) -> None:
    """Measure how the cost of a step grows with depth, width, batch, T and particles."""
    from benchmarks.performance.scaling import LAWS, write_report  # noqa: PLC0415

    folder = _made(results / "scaling-laws")
    with refusing(ValueError, OSError):
        print_table(*write_report(folder, LAWS, _command(context)))
    say(f"Results are in {folder}: scaling.json, scaling.md, scaling.png")


@perf.command()
def weak_scaling(
    context: typer.Context,
    steps: Annotated[int, typer.Option(parser=parse_whole, help="Steps of training.")] = 20,
    batch_size: Annotated[
        int, typer.Option(parser=parse_whole, help="Samples in a process's batch.")
    ] = 64,
    processes: Annotated[
        list[int] | None,
        typer.Option(
            parser=parse_parallel, help="Number of processes; can be repeated. By default 1 and 2."
        ),
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Measure training on several processes, each with batches of its own."""
    from benchmarks.performance.weak_scaling import write_report  # noqa: PLC0415

    folder = _made(results / "weak-scaling")
    with refusing(RuntimeError, OSError):
        command = _command(context)
        print_table(*write_report(folder, steps, batch_size, processes or [1, 2], command))
    say(f"Results are in {folder}: scaling.json, scaling.md")


# --- against other ways of doing the same ---------------------------------------------------------


@perf.command()
def swarms(
    particles: Annotated[int, typer.Option(parser=parse_whole, help="Size of a swarm.")] = 1000,
    batch_size: Annotated[
        int, typer.Option(parser=parse_whole, help="Random samples in a batch.")
    ] = 1000,
    rounds: Rounds = 3,
    results: Results = Path("results"),
) -> None:
    """Measure particle swarms next to loops, vmap and pyswarms: six minutes and 9 GB."""
    from benchmarks.performance.swarms import measure  # noqa: PLC0415

    _store(_made(results) / "speed-pso.json", measure(particles, batch_size, rounds))


@perf.command()
def rstdp(rounds: Rounds = 15, results: Results = Path("results")) -> None:
    """Measure R-STDP next to a simulation of every time step, on MNIST."""
    from benchmarks.data import DataError, load  # noqa: PLC0415
    from benchmarks.performance.rstdp import measure  # noqa: PLC0415

    with refusing(DataError, OSError):
        images = load("mnist").train
    _store(_made(results) / "speed-rstdp.json", measure(images, rounds))


@perf.command()
def spiking(
    rounds: Rounds = 15, device: Device = "cpu", results: Results = Path("results")
) -> None:
    """Measure a step of a spiking network by LFP, surrogate gradients and the authors' code."""
    from benchmarks.performance.spiking import measure  # noqa: PLC0415

    with refusing(ValueError):
        place = prepare(device, 1, [])
    _store(_made(results) / "speed-spiking.json", measure(rounds, place))


@perf.command()
def steps(
    models: Annotated[
        str,
        typer.Option(
            help=f"'all', or a list like a,b of: {', '.join(names.NETWORKS)}.",
            autocompletion=completion.some_of(lambda: names.NETWORKS),
        ),
    ] = "mlp,lenet,vgg-like",
    rounds: Rounds = 50,
    device: Device = "auto",
    threads: Threads = None,
    results: Results = Path("results"),
) -> None:
    """Measure steps without a compiler, compiled, and in bfloat16."""
    from benchmarks.experiments.options import chosen  # noqa: PLC0415
    from benchmarks.performance.steps import VARIANTS, measure_missing  # noqa: PLC0415

    path = results / "speed-compiled.json"
    with refusing(ValueError, OSError):
        measured = chosen("models", split(models), dict.fromkeys(names.NETWORKS))
        _made(results)
        measure_missing(path, measured, prepare(device, threads, measured), rounds, VARIANTS)
    say(f"The results are in {path}")


# --- over time ------------------------------------------------------------------------------------


@perf.command()
def history(
    commits: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMIT]...", help="Commits to measure; by default HEAD."),
    ] = None,
    bench: Annotated[
        list[str] | None, typer.Option(metavar="REGEX", help="Benchmarks to run; by default all.")
    ] = None,
) -> None:
    """Measure commits with the asv suite, into benchmarks/asv/results."""
    from benchmarks.performance.history import measure  # noqa: PLC0415

    with refusing(ValueError):
        needs_repository("the performance history")
        code = measure(commits or ["HEAD"], bench or [])
    raise typer.Exit(code)


@perf.command()
def gate(
    base: Annotated[str, typer.Argument(help="A commit or tag, like that of the last release.")],
    head: Annotated[str, typer.Argument(help="The commit that must not be slower.")] = "HEAD",
    threshold: Annotated[
        float, typer.Option(parser=parse_real, help="Largest relative growth that passes.")
    ] = 0.1,
    results: Annotated[
        Path | None,
        typer.Option(help="Compare what asv's folder has, host by host; by default, measure both."),
    ] = None,
    bench: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="Benchmarks to compare; by default all ratios."),
    ] = None,
) -> None:
    """Compare the ratios to SGD of two commits; exit code 1: one grew by more than allowed.

    Both are measured, one after the other on this host, as numbers of another host or another day
    can differ by more than what is allowed. That takes minutes; the machine should be idle.
    """  # noqa: DOC501  (help texts name no exceptions)
    from benchmarks.performance.gate import compare, lines, measured  # noqa: PLC0415
    from benchmarks.performance.history import resolved  # noqa: PLC0415

    with refusing(ValueError, OSError):
        if not 0 <= threshold < inf:
            raise ValueError(f"threshold: {threshold}; allowed: finite, 0 and above")
        needs_repository("the gate")
        commits = resolved(base), resolved(head)
        found = compare(results, *commits) if results else measured(*commits, bench or [])
    worse = sum(c.regressed(threshold) for c in found)
    told = f"{worse} of {len(found)} ratios grew by more than {threshold:.0%} or are gone"
    print_table(lines(found, threshold), [told])
    raise typer.Exit(int(worse > 0))


@perf.command()
def dashboard() -> None:
    """Make a site of the performance history that opens without the network.

    Its first page has the ratios of LFP to SGD, and leads to all that asv has.
    """  # noqa: DOC501  (a command says nothing of exceptions)
    from benchmarks.performance import dashboard as site  # noqa: PLC0415

    with refusing(ValueError):
        needs_repository("the dashboard")
    if code := site.publish():
        raise typer.Exit(code)
    with refusing(ValueError):
        site.lead(site.HTML, site.RESULTS)
    site.without_blanks(site.HTML)
    try:
        site.localise(site.HTML)
    except (OSError, CalledProcessError) as error:
        say(f"the site loads its scripts from elsewhere, as npm has none ({error})")
    say(f"The site is {site.HTML / site.FRONT}; `asv preview` shows its other pages as well")


@perf.command()
def gpu_page(
    results: Results = STORED,
    document: Annotated[Path, typer.Option(help="Page to write.")] = Path("docs/gpu.md"),
) -> None:
    """Write the page on what was measured on a GPU, from `gpu-h100` in the results."""
    from benchmarks.performance.gpu_page import page  # noqa: PLC0415

    with refusing(ValueError, OSError):
        write(document, page(results / "gpu-h100").encode())
    say(f"{document} is written from what is stored in {results / 'gpu-h100'}")


def _made(folder: Path) -> Path:
    """Return a folder, which is there then; or all would be measured for nothing."""
    with refusing(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _command(context: typer.Context) -> str:
    return shlex.join(["lfp-bench", *context.obj])


def _store(path: Path, content: Mapping[str, Any]) -> None:
    with refusing(OSError):
        write_json(path, content)
    say(f"The results are in {path}")
