"""The options that commands share, and how their values are read."""

import os
import re
from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from baselines.machine import threads_for, usable_cpus
from baselines.registry import pick
from benchmarks.cli import completion, names
from benchmarks.storage.names import checked_name
from benchmarks.studies.written import SIZES

if TYPE_CHECKING:
    import torch

    from benchmarks.runs.executors import Executor

EXECUTORS = ("local", "ray")
#: Processes or threads: more than a machine is asked for, and fewer than it cannot start.
MOST = 1000
#: Things to be done, or samples: more than anybody has the time or the memory for.
MANY = 1_000_000
#: Numbers as they are given. Python's own readers take digits of other scripts, and 1_000, as well.
WHOLE = re.compile("[0-9]{1,20}")
INTEGER = re.compile("[-+]?[0-9]{1,20}")
REAL = re.compile(
    r"[-+]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|inf|infinity|nan)", re.IGNORECASE | re.ASCII
)


def parse_whole(text: str | int, most: int = MANY) -> int:
    """Parse an option; typer's own message does not say what it was given."""
    if not WHOLE.fullmatch(str(text)) or not 1 <= int(text) <= most:
        raise typer.BadParameter(f"{text!r}; allowed: whole numbers from 1 to {most}")
    return int(text)


def parse_parallel(text: str | int) -> int:
    """Parse a number of processes or threads."""
    return parse_whole(text, MOST)


def parse_jobs(text: str | int) -> int:
    """Parse a number of processes; auto is one for each CPU that can be used."""
    return usable_cpus() if text == "auto" else parse_parallel(text)


def parse_integer(text: str | int) -> int:
    """Parse an option; which numbers make sense is checked where they are used."""
    if not INTEGER.fullmatch(str(text)):
        raise typer.BadParameter(f"{text!r} is not a whole number; allowed: digits, like 12 or -1")
    return int(text)


def parse_real(text: str | float) -> float:
    """Parse an option; which numbers make sense is checked where they are used."""
    if not REAL.fullmatch(str(text)):
        raise typer.BadParameter(f"{text!r} is not a number; allowed: digits, like 0.5 or 1e-3")
    return float(text)


def parse_numbers(text: str | tuple[float, ...]) -> tuple[float, ...]:
    """Parse a list of numbers with commas, which has none if it is empty."""
    if isinstance(text, tuple):
        return text
    words = [word.strip() for word in text.split(",")] if text else []
    return tuple(int(word) if WHOLE.fullmatch(word) else parse_real(word) for word in words)


Device = Annotated[
    str,
    typer.Option(
        help="Device to work on: auto, cpu or cuda.",
        autocompletion=completion.given("auto", "cpu", "cuda"),
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        parser=parse_parallel,
        help="Threads of a job; by default 1 for small models, else its share of the usable CPUs.",
    ),
]


def checked_folder(path: Path) -> Path:
    """Return a path that is a folder, or may become one: what it begins with is no file."""
    try:
        there = next((one for one in (path, *path.parents) if one.exists()), path)
        reason = "" if there.is_dir() or not there.exists() else f", as {there} is a file"
    except OSError as error:  # a name that is too long, or a folder that nobody may look into
        reason = f" ({error.strerror})"
    if reason:
        shown = str(path) if len(str(path)) <= 60 else f"{str(path)[:60]}..."
        raise typer.BadParameter(
            f"{shown!r} is no folder{reason}; allowed: a folder, or a path where one can be made"
        )
    return path


Results = Annotated[Path, typer.Option(help="Folder of all studies.", callback=checked_folder)]
StudyName = Annotated[str | None, typer.Option(help="Folder of this study in that of all.")]
Show = Annotated[bool, typer.Option("--open", help="Open the report, a page, in the browser.")]
StoredSize = Annotated[
    str | None,
    typer.Option(
        "--size",
        help=f"One of: {', '.join(SIZES)}; by default the one that is stored.",
        autocompletion=completion.sizes,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
COLUMNS = ("main", "all")


def parse_columns(text: str) -> str:
    """Parse an option; typer's own message does not say what is allowed."""
    if text not in COLUMNS:
        raise typer.BadParameter(f"{text!r}; allowed: {', '.join(COLUMNS)}")
    return text


Columns = Annotated[
    str,
    typer.Option(
        parser=parse_columns,
        help="Columns of the table to show: main or all.",
        autocompletion=completion.given(*COLUMNS),
    ),
]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        help=f"Where runs are made: {' or '.join(EXECUTORS)}.",
        autocompletion=completion.given(*EXECUTORS),
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        parser=parse_jobs,
        metavar="N|auto",
        envvar="LFP_JOBS",
        show_envvar=False,  # which messages would name beside the option
        help="Runs to make at a time, by default $LFP_JOBS or 1; auto: one for each usable CPU.",
    ),
]
RayAddress = Annotated[
    str, typer.Option(help="Address of a Ray cluster, or auto for the one of this machine.")
]
GpuShare = Annotated[
    float, typer.Option(parser=parse_real, help="Share of a GPU that a run on a Ray cluster has.")
]
Methods = Annotated[
    str,
    typer.Option(
        help=f"'all', or a list like a,b of: {', '.join(names.methods_and_families())}.",
        autocompletion=completion.methods,
    ),
]
Activations = Annotated[
    str,
    typer.Option(
        help=f"'all', or a list like a,b of: {', '.join(names.activations())}.",
        autocompletion=completion.activations,
    ),
]
DataSet = Annotated[
    str,
    typer.Option(help=f"One of: {', '.join(names.datasets())}.", autocompletion=completion.dataset),
]
Size = Annotated[
    str,
    typer.Option(help=f"One of: {', '.join(SIZES)}.", autocompletion=completion.sizes),
]


def split(text: str) -> list[str] | Literal["all"]:
    """Return the names in a comma-separated text; of several, an empty one alone, to be refused."""
    names = [name.strip() for name in text.split(",")]
    if names == ["all"]:
        return "all"
    return names if all(names) else [""]


def parse_number(field: str, text: str) -> float:
    """Return the number that a part of an option is; ValueError names the field."""
    if not REAL.fullmatch(text.strip()):
        raise ValueError(f"{field}: {text!r} is not a number; allowed: above 0")
    return float(text)


def by_method(field: str, unit: str, texts: Iterable[str]) -> dict[str, float]:
    """Return the number that is given for each method or family; each may be given once."""
    numbers: dict[str, float] = {}
    for text in texts:
        name, sign, number = text.partition("=")
        if not sign:
            raise ValueError(f"{field}: {text!r} is not of the form METHOD={unit}")
        if name in numbers:
            raise ValueError(f"{field}: {name!r} is given twice; allowed: each method once")
        numbers[name] = parse_number(field, number)
    return numbers


def study_folder(results: Path, study: str) -> Path:
    """Return the study's folder; its name must not lead elsewhere."""
    return results / checked_name("study", study)


def prepare(
    device: str, threads: int | None, models: Iterable[str], jobs: int = 1
) -> "torch.device":
    """Return the device, after setting the number of threads, of each of as many jobs."""
    import torch  # noqa: PLC0415  (slow, as what follows)

    from benchmarks.models import MODELS  # noqa: PLC0415

    available = ["auto", "cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if device == "cuda" and device not in available:
        raise ValueError("device: 'cuda' is not available on this machine; allowed: auto, cpu")
    pick("device", device, dict.fromkeys(available))
    if threads is None:
        small = all(name in MODELS and MODELS[name].small for name in models)
        threads = 1 if small else threads_for(jobs)
    torch.set_num_threads(threads)
    # Deterministic matrix products on a GPU need this before the first one.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    chosen = ("cuda" if "cuda" in available else "cpu") if device == "auto" else device
    return torch.device(chosen)


def executor_named(
    name: str, device: "torch.device", jobs: int, address: str, share: float
) -> "Executor":
    """Return what makes the runs."""
    from benchmarks.runs.executors import Here, Local, RayCluster  # noqa: PLC0415  (slow)

    pick("executor", name, dict.fromkeys(EXECUTORS))
    if not 0 < share < inf:
        raise ValueError(f"gpu_share: {share}; allowed: above 0, 1 for a whole one")
    if name == "ray":
        return RayCluster(address, share if device.type == "cuda" else 0.0)
    return Local(jobs) if jobs > 1 else Here()
