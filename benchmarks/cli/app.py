"""The application that the commands enter themselves in, and how it tells errors.

A command is imported when it is run, or asked for its own help (:mod:`benchmarks.cli.later`).
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, ClassVar, TextIO

import typer

from baselines.registry import PlugInError
from benchmarks.cli.extras import missing, unloadable
from benchmarks.cli.later import Application, Later, LaterGroup
from benchmarks.cli.logs import shown
from benchmarks.cli.output import say


class Refused(typer.TyperException):
    """Bad input, described in one line."""

    exit_code = 2


class Commands(LaterGroup):
    """A command line that reports every error in one line, instead of a box with a usage text."""

    later: ClassVar = {
        "compare": Later(
            "benchmarks.cli.studies",
            "Train with every method and activation, and show a table of accuracy, time and "
            "memory.",
        ),
        "run": Later(
            "benchmarks.cli.studies",
            "Carry out a study that is written down, part by part; each has a folder and a table.",
        ),
        "resume": Later(
            "benchmarks.cli.studies",
            "Continue a study in its folder; no option has to be given again.",
        ),
        "list": Later(
            "benchmarks.cli.listing", "List the studies that are written down, with their sizes."
        ),
        "status": Later(
            "benchmarks.cli.listing",
            "Show how far a study is: runs that are done, have diverged, and are under way.",
        ),
        "report": Later(
            "benchmarks.cli.reports",
            "Write a page on what is stored of a study, and its tables as Markdown, LaTeX and CSV.",
        ),
        "speed": Later(
            "benchmarks.cli.measurements",
            "Measure time and peak memory of a training step against SGD's, on random inputs.",
        ),
        "diagnose": Later(
            "benchmarks.cli.measurements",
            "Show why LFP learns or does not: secant slopes and feedback norms, before and after.",
        ),
        "verify": Later(
            "benchmarks.cli.checks",
            "Check the engine on this machine against Theorem 1 and an oracle; exit code 1: it "
            "differs.",
        ),
        "coverage": Later(
            "benchmarks.cli.coverage",
            "Run the modules of torch.nn and zoos of models; exit code 1: one fails without a "
            "reason.",
        ),
        "doctor": Later(
            "benchmarks.cli.checks",
            "Say what this machine has and lacks, and how to mend it; exit code 1: an error.",
        ),
        "data": Later(
            "benchmarks.cli.checks",
            "Fetch a data set, or verify it if it is there; without a name, tell which are there.",
        ),
        "migrate": Later(
            "benchmarks.cli.storage",
            "Bring results of an older version to the present form; nothing is deleted.",
        ),
        "clean": Later(
            "benchmarks.cli.storage",
            "Delete what a study no longer needs: results of other code, and states of runs that "
            "are done.",
        ),
        "diff": Later(
            "benchmarks.cli.storage",
            "Compare the results of the runs that two folders have in common.",
        ),
        "pack": Later(
            "benchmarks.cli.storage",
            "Pack the results of a study into one small file for each part.",
        ),
        "perf": Later("benchmarks.cli.perf", "Measure the project's own speed."),
    }

    @staticmethod
    def home() -> typer.Typer:
        """Return the application, which is made of this class."""
        return app

    def main(self, args: Sequence[str] | None = None, *other: Any, **options: Any) -> Any:
        """Run and exit; the arguments become the context's `obj`, to be quoted in reports.

        Without any, the help comes first: it says which commands there are.
        """
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # a table must not fail for a ± that it has not
                stream.reconfigure(errors="replace")
        if not os.environ.get("COLUMNS", "").strip("0"):  # help that is 0 wide would say nothing
            os.environ.pop("COLUMNS", None)
        arguments = sys.argv[1:] if args is None else list(args)
        options = {**options, "standalone_mode": False, "obj": arguments}
        try:
            with shown():
                code = super().main(arguments, *other, **options)
            sys.stdout.flush()  # which is the last that can fail
        except BrokenPipeError:  # who reads has seen enough, as `head` has
            code = 1
        except OSError as error:  # of files and data, the commands refuse them with their names
            ours = error.filename is None and error.errno is not None  # a library has no number
            say(f"error: {f'standard output: {error.strerror}' if ours else error}")
            code = Refused.exit_code
        except typer.TyperException as error:
            context = getattr(error, "ctx", None)
            if context is not None and not arguments:
                with redirect_stdout(sys.stderr):  # where it is printed, by rich
                    print(context.get_help())
            say(f"error: {error.format_message()}")
            code = error.exit_code
        for stream in (sys.stdout, sys.stderr):
            _settle(stream)
        sys.exit(code or 0)

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the arguments; tell that Ctrl-C has ended it."""
        with _interruptible():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; tell that Ctrl-C has ended it, which those that can go on do better."""
        try:
            with _interruptible():
                return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (told := missing(error)) is None:
                raise
            raise Refused(told) from error
        except ImportError as error:
            if (told := unloadable(error)) is None:
                raise
            raise Refused(told) from error
        except PlugInError as error:
            raise Refused(str(error)) from error
        except SystemExit as error:  # no command of ours does that
            if isinstance(error.__context__, BrokenPipeError):  # rich does, with who reads gone
                raise
            raise Refused(f"the code of another package has exited ({error.code!r})") from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Tell that Ctrl-C has ended the command, as typer would end it without a word."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(130) from None


def _settle(stream: TextIO) -> None:
    """Write what is left to a stream, or drop it, as Python would fail with it when it ends."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def refusing(*errors: type[Exception], of: str = "") -> Iterator[None]:
    """Turn errors that are the user's to solve into one line and exit code 2.

    Args:
        errors: their classes.
        of: what they are errors of, where they do not say it themselves.

    Raises:
        Refused: one of them is raised.
    """
    try:
        yield
    except errors as error:
        told = " ".join(str(error).split())
        raise Refused(f"{of}: {told}" if of else told) from error


app = Application(
    cls=Commands,
    help="Benchmark Layer-wise Feedback Propagation against its rivals.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    """Print the version of this code, installed or not, and exit."""
    if wanted:
        found = find_spec("lfp_core")  # which imports nothing, as the engine needs torch
        assert found is not None
        assert found.origin is not None
        print("lfp-bench", Path(found.origin).with_name("VERSION").read_text().strip())
        raise typer.Exit


@app.callback()
def _common(
    told: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Take the options that are no command's."""
