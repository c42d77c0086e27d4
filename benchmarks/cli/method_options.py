"""The options of methods on the command line, made of what the methods declare.

To know them, methods are imported, which takes seconds. So what a command shows of them is kept
(:mod:`benchmarks.cli.remembered`), and made anew when a method has changed.
"""

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import update_wrapper
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from pydantic import TypeAdapter, ValidationError

from baselines.options import is_list, names_of, parts_of
from baselines.registry import Registry
from benchmarks.cli import completion, remembered
from benchmarks.cli.options import parse_integer, parse_numbers, parse_real
from benchmarks.cli.output import aside

if TYPE_CHECKING:
    from baselines import Trainer
    from benchmarks.experiments.options import Option

#: The types that a value may have on the command line, by the kind of the option.
KINDS: Mapping[str, type] = {"bool": bool, "int": int, "float": float, "str": str, "list": str}
#: What parses a value, where typer's own message would not say what was given.
PARSERS: Mapping[str, Callable[..., Any]] = {
    "int": parse_integer,
    "float": parse_real,
    "list": parse_numbers,
}
#: How shells tell the words that are typed: bash, and others.
WORDS = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")


class Described(NamedTuple):
    """What the command line shows of an option.

    Attributes:
        name: of the option.
        kind: of its value, one of :data:`KINDS`.
        told: what it is, what it allows, and who has it, if not all methods do.
        default: in words.
        names: the values that it allows, if they are names.
    """

    name: str
    kind: Literal["bool", "int", "float", "str", "list"]
    told: str
    default: str
    names: list[str]


#: What is kept of them.
FORM = TypeAdapter(list[Described])


@aside()  # as it comes before it is known whether JSON is wanted
def known() -> list[Described]:
    """Return the options of all methods, as they were remembered or by importing the methods.

    Where a shell completes a value they are not worth the wait: the command's own are enough.
    """
    if "torch" in sys.modules:  # whoever has it may have registered methods of their own
        return described(methods())
    if (kept := _recalled()) is not None:
        return kept
    if _completes_a_value():
        return []
    found = described(methods())
    if is_whole(methods()):
        remembered.keep("options", found)
    return found


def is_whole(table: "Mapping[str, type[Trainer]]") -> bool:
    """Return whether there is all that packages announce of the methods and of their options.

    What cannot be imported today can be tomorrow, without a file having changed that we know of.
    """
    from benchmarks.experiments.options import options_of  # noqa: PLC0415  (slow)

    fields = (option.field for option in options_of(table).values())
    tables = [getattr(part, "table", None) for field in fields for part in parts_of(field)]
    registries = [one for one in (table, *tables) if isinstance(one, Registry)]
    return all(set(registry.announced()) == set(registry) for registry in registries)


def described(table: "Mapping[str, type[Trainer]]") -> list[Described]:
    """Return the options that the methods declare, those of the first method first."""
    from benchmarks.experiments.options import options_of  # noqa: PLC0415  (slow)

    return [_described(name, one, len(table)) for name, one in options_of(table).items()]


def with_options_of(
    find: Callable[[], Iterable[Described]],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command a parameter for each option of methods.

    The command has to end with ``**options``, and gets those that are given. An option with the
    name of one of the command's own parameters is left out.

    Args:
        find: returns the options, when the parameters are asked for.

    Returns:
        The decorator.
    """
    return lambda command: _WithOptions(command, find)


class _WithOptions:
    """A command whose signature is made when it is asked for."""

    def __init__(
        self, command: Callable[..., None], find: Callable[[], Iterable[Described]]
    ) -> None:
        self.command, self.find = command, find
        update_wrapper(self, command)
        del self.__dict__["__wrapped__"]  # whose signature is another one

    def __call__(self, **given: Any) -> None:
        """Call the command with its own parameters, and with those options that are given."""
        own = inspect.signature(self.command).parameters
        self.command(**{n: v for n, v in given.items() if n in own or v is not None})

    @property
    def __signature__(self) -> inspect.Signature:
        """The command's own parameters, and the options of methods."""
        signature = inspect.signature(self.command)
        own = signature.parameters
        *first, _ = own.values()
        more = [_parameter(option) for option in self.find() if option.name not in own]
        return signature.replace(parameters=[*first, *more])


def methods() -> "Mapping[str, type[Trainer]]":
    """Return all methods, which imports them."""
    from baselines import METHODS  # noqa: PLC0415  (slow)

    return METHODS


def _recalled() -> list[Described] | None:
    """Return the options as they were remembered, if what is kept has the form of them."""
    try:
        return FORM.validate_python(remembered.recall("options"), strict=True)
    except ValidationError:
        return None


def _completes_a_value() -> bool:
    """Return whether a shell has called, and completes something else than an option's name."""
    typed = next((os.environ[name] for name in WORDS if name in os.environ), None)
    return typed is not None and not typed.split(" ")[-1].startswith("-")


def _described(name: str, option: "Option", methods: int) -> Described:
    """Return what is shown of an option; there are so many methods in all."""
    parts = list(parts_of(option.field))
    kind: Any = next((part for part in parts if part in (bool, int, float)), str)
    kind = "list" if is_list(option.field) else kind.__name__
    names = [str(value) for value in names_of(option.field)]
    return Described(name, kind, _help(option, names, methods), _default(option), names)


def _parameter(option: Described) -> inspect.Parameter:
    """Return the parameter of an option, which is None where it is not given."""
    shown = typer.Option(
        parser=PARSERS.get(option.kind),
        help=option.told,
        show_default=option.default,
        rich_help_panel="Options of methods",
        autocompletion=completion.given(*option.names) if option.names else None,
    )
    annotation: Any = Annotated[KINDS[option.kind] | None, shown]
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _help(option: "Option", names: list[str], methods: int) -> str:
    """Return what the option is, what it allows, and who has it, if not all methods do."""
    from benchmarks.experiments.options import zero_is_none  # noqa: PLC0415  (slow)

    field = option.field
    said = [field.description] if field.description else []
    if names:
        said.append(f"One of: {', '.join(names)}.")
    if is_list(field):
        said.append("A list like 1,2.")
    if zero_is_none(field):
        said.append("0: none.")
    if len(option.methods) < methods:
        said.append(f"({', '.join(option.methods)})")
    return " ".join(said)


def _default(option: "Option") -> str:
    """Return the defaults that methods have, which may differ."""
    return " or ".join(dict.fromkeys(map(_written, option.defaults.values())))


def _written(value: Any) -> str:
    """Return a value as the command line has it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)
