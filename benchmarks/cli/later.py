"""Commands that are known by name before their modules are imported, which takes seconds.

So help, a mistyped command, and what a shell completes come at once.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info, get_command_name, get_group_from_info
from typer.models import CommandFunctionType

from benchmarks.cli.output import json_alone


class Later(NamedTuple):
    """A command that is imported when it is needed.

    Attributes:
        module: enters it in the application.
        help: first paragraph of its help, which the list of commands shows.
    """

    module: str
    help: str


class Strict(TyperCommand):
    """A command that refuses what would be lost, or mean something else than it says.

    That is an option that has one value and is given twice, of which the last would count, and a
    path without a letter, which would mean the current folder.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments as every command does, and look at them as they were given."""
        if ctx.resilient_parsing:  # a shell completes them
            return super().parse_args(ctx, args)
        given, _, order = self.make_parser(ctx).parse_args(list(args))
        parameter: Any
        for parameter, times in Counter(order).items():
            if times > 1 and not parameter.multiple:
                raise typer.BadParameter("is given twice; allowed: once", ctx, parameter)
        rest = super().parse_args(ctx, args)
        for parameter in self.get_params(ctx):
            if isinstance(ctx.params.get(parameter.name), Path) and given.get(parameter.name) == "":
                raise typer.BadParameter("''; allowed: a path", ctx, parameter)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; with --json it prints that document alone."""
        with json_alone() if ctx.params.get("as_json") else nullcontext():
            return super().invoke(ctx)


class Application(typer.Typer):
    """An application all of whose commands are :class:`Strict`."""

    def command(
        self, name: str | None = None, **options: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Return what enters a function as a command."""
        return super().command(name, **{"cls": Strict, **options})

    def add_typer(self, typer_instance: typer.Typer, **options: Any) -> None:
        """Enter the commands of another application, which another package may have made."""
        for command in typer_instance.registered_commands:
            command.cls = Strict
        super().add_typer(typer_instance, **options)


class Named(TyperCommand):
    """A command of which no more is known than its name and what it is."""

    def __init__(self, name: str, told: str, load: Callable[[], Any]) -> None:
        super().__init__(name, help=told)
        self.load = load


class LaterGroup(TyperGroup):
    """Commands that are imported when they are run, or asked for their own help or parameters."""

    #: The commands in the order in which they are listed; others may be added.
    later: ClassVar[Mapping[str, Later]]

    def __init__(self, *, commands: Any = None, **options: Any) -> None:
        there = dict(commands or {})
        listed = {
            name: there.pop(name, None) or Named(name, one.help, self._loader(name, one.module))
            for name, one in self.later.items()
        }
        super().__init__(commands={**listed, **there}, **options)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that is called, imported, with its name and what follows it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Named) else command, rest

    @staticmethod
    @abstractmethod
    def home() -> typer.Typer:
        """Return the application that the modules enter them in."""

    def _loader(self, name: str, module: str) -> Callable[[], Any]:
        def load() -> Any:
            import_module(module)
            return entered(self.home(), name)

        return load


def entered(application: typer.Typer, name: str) -> Any:
    """Return one of the commands of an application; the others are not made.

    Raises:
        KeyError: there is none of this name.
    """
    shown: dict[str, Any] = {
        "pretty_exceptions_short": application.pretty_exceptions_short,
        "rich_markup_mode": application.rich_markup_mode,
    }
    for command in application.registered_commands:
        assert command.callback is not None
        if name == (command.name or get_command_name(command.callback.__name__)):
            return get_command_from_info(command, **shown)
    for group in application.registered_groups:
        if name == group.name:
            return get_group_from_info(group, suggest_commands=True, **shown)
    raise KeyError(name)
