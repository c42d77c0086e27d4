"""The application that the commands enter themselves in, and how it tells errors."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from benchmarks.cli.output import say


class Refused(typer.TyperException):
    """Bad input, described in one line."""

    exit_code = 2


class OneLineErrors(TyperGroup):
    """A command line that reports every error in one line, instead of a box with a usage text."""

    def main(self, args: Sequence[str] | None = None, *other: Any, **options: Any) -> Any:
        """Run and exit; the arguments become the context's `obj`, to be quoted in reports."""
        arguments = sys.argv[1:] if args is None else list(args)
        options = {**options, "standalone_mode": False, "obj": arguments}
        try:
            code = super().main(arguments, *other, **options)
        except typer.TyperException as error:
            say(f"error: {error.format_message()}")
            code = error.exit_code
        sys.exit(code or 0)


@contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
    """Turn errors that are the user's to solve into one line and exit code 2."""
    try:
        yield
    except errors as error:
        raise Refused(" ".join(str(error).split())) from error


app = typer.Typer(
    cls=OneLineErrors, help="Benchmark Layer-wise Feedback Propagation against its rivals."
)
