"""What a shell offers when TAB is pressed; none of it imports torch.

Where nothing is offered, as for the path of a study file, shells offer files.
"""

from collections.abc import Callable, Iterable

import typer

from benchmarks.cli import names
from benchmarks.studies import written

Complete = Callable[[str], list[str]]


def one_of(known: Callable[[], Iterable[str]]) -> Complete:
    """Return what completes one of the names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in known() if name.startswith(incomplete)]

    return complete


def some_of(known: Callable[[], Iterable[str]]) -> Complete:
    """Return what completes the last of several names with commas, or all."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        offered = [name for name in known() if name.startswith(last) and name not in given]
        if not comma and "all".startswith(last):
            offered.insert(0, "all")
        return [f"{before}{comma}{name}" for name in offered]

    return complete


def given(*values: str) -> Complete:
    """Return what completes one of the values."""
    return one_of(lambda: values)


def sizes(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a size of the study that is named."""
    study = _study(context)
    found: Iterable[str] = study.sizes if study else written.SIZES
    return [size for size in found if size.startswith(incomplete)]


def parts(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a part of the study that is named, in its size."""
    study, size = _study(context), context.params.get("size") or "cpu"
    if study is None or size not in study.sizes:
        return []
    return [part for part in study.options(size) if part.startswith(incomplete)]


def _study(context: typer.Context) -> written.Written | None:
    """Return the study that is named so far, if it can be read."""
    # Where the option that is completed has no value yet, the parser stops at it.
    name = context.params.get("name") or next(iter(context.args), None)
    try:
        return None if name is None else written.read_as(written.Written, name)
    except ValueError:
        return None


study = one_of(written.names)
dataset = one_of(names.datasets)
model = one_of(names.models)
models = some_of(names.models)
methods = some_of(names.methods_and_families)
activations = some_of(names.activations)
