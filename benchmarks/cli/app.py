"""The application that the commands enter themselves in, and how it tells errors."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import lfp_core
from benchmarks.cli.extras import missing
from benchmarks.cli.logs import shown
from benchmarks.cli.output import say


class Refused(typer.TyperException):
    """Bad input, described in one line."""

    exit_code = 2


class OneLineErrors(TyperGroup):
    """A command line that reports every error in one line, instead of a box with a usage text."""

    def main(self, args: Sequence[str] | None = None, *other: Any, **options: Any) -> Any:
        """Run and exit; the arguments become the context's `obj`, to be quoted in reports.

        Without any, the help comes first: it says which commands there are.
        """
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # a table must not fail for a ± that it has not
                stream.reconfigure(errors="replace")
        arguments = sys.argv[1:] if args is None else list(args)
        options = {**options, "standalone_mode": False, "obj": arguments}
        try:
            with shown():
                code = super().main(arguments, *other, **options)
        except typer.TyperException as error:
            context = getattr(error, "ctx", None)
            if context is not None and not arguments:
                with redirect_stdout(sys.stderr):  # where it is printed, by rich
                    print(context.get_help())
            say(f"error: {error.format_message()}")
            code = error.exit_code
        sys.exit(code or 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; tell that Ctrl-C has ended it, which those that can go on do better."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(130) from None
        except ModuleNotFoundError as error:
            if (told := missing(error)) is None:
                raise
            raise Refused(told) from error


@contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors that are the user's to solve into one line and exit code 2."""
    try:
        yield
    except errors as error:
        raise Refused(" ".join(str(error).split())) from error


app = typer.Typer(
    cls=OneLineErrors,
    help="Benchmark Layer-wise Feedback Propagation against its rivals.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    """Print the version of this code, installed or not, and exit."""
    if wanted:
        print("lfp-bench", lfp_core.__version__)
        raise typer.Exit


@app.callback()
def _common(
    told: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Take the options that are no command's."""
