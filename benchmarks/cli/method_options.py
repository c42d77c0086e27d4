"""The options of methods on the command line, made of what the methods declare.

To know them, methods are imported, which takes seconds. So a command has them when it is run or
explained, and where a shell completes the name of an option; where it completes a value, the
command's own are enough.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import update_wrapper
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baselines.options import names_of, parts_of
from benchmarks.cli.options import parse_integer, parse_real

if TYPE_CHECKING:
    from baselines import Trainer
    from benchmarks.experiments.options import Option

#: What parses a value, where typer's own message would not say what was given.
PARSERS: Mapping[type, Callable[..., Any]] = {int: parse_integer, float: parse_real}
#: How shells tell the words that are typed: bash, and others.
WORDS = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")

Methods = Mapping[str, "type[Trainer]"]


def with_options_of(
    methods: Methods | Callable[[], Methods],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command a parameter for each option of the methods.

    The command has to end with ``**options``, and gets those that are given. An option with the
    name of one of the command's own parameters is left out.

    Args:
        methods: by name, or what imports them.

    Returns:
        The decorator.
    """
    known = methods if callable(methods) else lambda: methods
    return lambda command: _WithOptions(command, known)


class _WithOptions:
    """A command whose signature is made when it is asked for."""

    def __init__(self, command: Callable[..., None], methods: Callable[[], Methods]) -> None:
        self.command, self.methods = command, methods
        update_wrapper(self, command)
        del self.__dict__["__wrapped__"]  # whose signature is another one

    def __call__(self, **given: Any) -> None:
        """Call the command with its own parameters, and with those options that are given."""
        own = inspect.signature(self.command).parameters
        self.command(**{n: v for n, v in given.items() if n in own or v is not None})

    @property
    def __signature__(self) -> inspect.Signature:
        """The command's own parameters, and the options of methods where they are needed."""
        signature = inspect.signature(self.command)
        *own, _ = signature.parameters.values()
        more = [] if completes_a_value() else self._made(signature.parameters)
        return signature.replace(parameters=[*own, *more])

    def _made(self, own: Mapping[str, Any]) -> list[inspect.Parameter]:
        """Return the parameters of the options of methods."""
        from benchmarks.experiments.options import options_of  # noqa: PLC0415  (slow)

        methods = self.methods()
        found = options_of(methods)
        return [_parameter(n, found[n], len(methods)) for n in found if n not in own]


def completes_a_value() -> bool:
    """Return whether a shell has called, and completes something else than an option's name."""
    typed = next((os.environ[name] for name in WORDS if name in os.environ), None)
    return typed is not None and not typed.split(" ")[-1].startswith("-")


def _parameter(name: str, option: "Option", methods: int) -> inspect.Parameter:
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


def _help(option: "Option", methods: int) -> str:
    """Return what the option is, what it allows, and who has it, if not all methods do."""
    from benchmarks.experiments.options import zero_is_none  # noqa: PLC0415  (slow)

    field = option.field
    said = [field.description] if field.description else []
    if names := names_of(field):
        said.append(f"One of: {', '.join(map(str, names))}.")
    if zero_is_none(field):
        said.append("0: none.")
    if len(option.methods) < methods:
        said.append(f"({', '.join(option.methods)})")
    return " ".join(said)


def _default(option: "Option") -> str:
    """Return the defaults that methods have, which may differ."""
    told = ("none" if default is None else str(default) for default in option.defaults.values())
    return " or ".join(dict.fromkeys(told))
