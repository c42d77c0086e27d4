"""The options of methods on the command line, made of what the methods declare."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any

import typer

from baselines import Trainer
from baselines.options import names_of, parts_of
from benchmarks.cli.options import parse_integer, parse_real
from benchmarks.experiments.options import Option, options_of, zero_is_none

#: What parses a value, where typer's own message would not say what was given.
PARSERS: Mapping[type, Callable[..., Any]] = {int: parse_integer, float: parse_real}


def with_options_of(
    methods: Mapping[str, type[Trainer]],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command a parameter for each option of the methods.

    The command has to end with ``**options``, and gets those that are given. An option with the
    name of one of the command's own parameters is left out.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        *own, _ = signature.parameters.values()
        options = {
            name: option
            for name, option in options_of(methods).items()
            if name not in signature.parameters
        }

        @wraps(command)
        def call(**given: Any) -> None:
            command(**{n: v for n, v in given.items() if n not in options or v is not None})

        made = [_parameter(name, option, len(methods)) for name, option in options.items()]
        call.__signature__ = signature.replace(parameters=[*own, *made])  # type: ignore[attr-defined]
        return call

    return decorate


def _parameter(name: str, option: Option, methods: int) -> inspect.Parameter:
    """Return the parameter of an option, which is None where it is not given."""
    parts = list(parts_of(option.field))
    kind = next((part for part in parts if part in (bool, int, float)), str)
    told = typer.Option(
        parser=PARSERS.get(kind),
        help=_help(option, methods),
        show_default=_default(option),
        rich_help_panel="Options of methods",
    )
    annotation: Any = Annotated[kind | None, told]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _help(option: Option, methods: int) -> str:
    """Return what the option is, what it allows, and who has it, if not all methods do."""
    field = option.field
    said = [field.description] if field.description else []
    if names := names_of(field):
        said.append(f"One of: {', '.join(map(str, names))}.")
    if zero_is_none(field):
        said.append("0: none.")
    if len(option.methods) < methods:
        said.append(f"({', '.join(option.methods)})")
    return " ".join(said)


def _default(option: Option) -> str:
    """Return the defaults that methods have, which may differ."""
    told = ("none" if default is None else str(default) for default in option.defaults.values())
    return " or ".join(dict.fromkeys(told))
