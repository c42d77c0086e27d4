"""What the commands say: results on stdout, everything else on stderr."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

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

from benchmarks.cli import logs
from benchmarks.rendering import text

#: Width of text, where neither a terminal nor the user says one, and of a terminal that says none.
WIDE = 170
USUAL = 80
#: Where JSON goes while all else goes to stderr.
_stdout: list[TextIO] = []
ALL = "; --columns all shows them"
WIDER = ", for which the terminal is too narrow; a larger $COLUMNS shows them"


def say(message: str) -> None:
    """Tell the user on stderr; results do not depend on whether that can be written."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def print_table(
    lines: text.Lines, remarks: Iterable[str], shown: Sequence[str] | None = None
) -> None:
    """Print a table and what is to be known of it; numbers are never cut.

    Args:
        lines: header and rows.
        remarks: below it.
        shown: the columns to show, by default all. The last of them are left out, and named, where
            the width of the terminal (or $COLUMNS) is not enough.
    """
    fallback = USUAL if sys.stdout.isatty() else max(WIDE, text.least_width(lines))
    width = shutil.get_terminal_size((fallback, 1)).columns  # where 0 counts as none
    fitting, left_out = text.fitted(text.selected(lines, shown), width)
    # A terminal breaks a line that is too long for it; what is cut here is gone.
    console = Console(width=max(width, text.least_width(fitting)))
    console.print(text.terminal(fitting, console.width))
    hidden = [name for name in lines[0] if name not in fitting[0]]
    more = [f"Not shown: {', '.join(hidden)}{WIDER if left_out else ALL}."] if hidden else []
    for remark in (*more, *remarks):
        console.print(f"- {remark}", style="dim", highlight=False, markup=False)


@contextmanager
def json_alone() -> Iterator[None]:
    """Keep all but what :func:`print_json` prints off stdout, as what other packages print."""
    with aside() as stdout:
        _stdout.append(stdout)
        try:
            yield
        finally:
            _stdout.pop()


@contextmanager
def aside() -> Iterator[TextIO]:
    """Let what is printed go to stderr.

    Compiled libraries and other programs print to the descriptor, whatever `sys.stdout` is.

    Yields:
        What still writes to stdout.
    """
    with _beside(sys.stdout) as stdout, redirect_stdout(sys.stderr):
        yield stdout


@contextmanager
def _beside(stream: TextIO) -> Iterator[TextIO]:
    """Yield what writes where a stream writes, whose own descriptor leads to stderr meanwhile."""
    try:
        own, other = stream.fileno(), sys.stderr.fileno()
    except (OSError, ValueError):  # it is no file of the system
        yield stream
        return
    stream.flush()
    with os.fdopen(os.dup(own), "w", encoding=stream.encoding, errors=stream.errors) as beside:
        os.dup2(other, own)
        try:
            yield beside
        finally:
            os.dup2(beside.fileno(), own)


def print_json(content: Mapping[str, Any]) -> None:
    """Print one strict JSON document."""
    stdout = _stdout[-1] if _stdout else sys.stdout
    print(json.dumps(content, indent=2, allow_nan=False), file=stdout, flush=True)


@contextmanager
def resumable(command: str, folder: Path) -> Iterator[None]:
    """On Ctrl-C, say that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        say(
            f"interrupted; finished runs are in {folder}, the same command resumes: {command}\n"
            f"or: lfp-bench resume {folder}"
        )
        raise typer.Exit(130) from None


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Log what is done, and show a bar on a terminal; yield what moves both on by one."""
    with logs.counted(total) as count, _bar(total) as move:

        def advance(description: str) -> None:
            count(description)
            move(description)

        yield advance


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar on a terminal, and nothing elsewhere; yield what moves it on by one."""
    columns = (
        TextColumn("{task.description:18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("starting", total=total)
        yield lambda description: bar.update(task, advance=1, description=description)
