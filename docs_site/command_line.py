"""The page on the command line, made of the commands themselves."""

import os
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from benchmarks.cli import app
from docs_site.links import ROOT

BEGIN = """\
# Command line

`lfp-bench COMMAND --help` says the same. Results go to stdout, with `--json` as one JSON document,
and everything else goes to stderr.

| exit code | meaning |
| --- | --- |
| 0 | the command did what it was to do |
| 1 | a check failed, or all runs that are reported diverged |
| 2 | the input was wrong; one line says what and what is allowed |
| 130 | it was stopped by Ctrl-C |
"""


def page() -> str:
    """Return the page."""
    return "\n".join([BEGIN, *_described("lfp-bench", typer.main.get_command(app))])


def commands() -> dict[str, set[str]]:
    """Return the options of every command, by the words that call it."""
    return dict(_options("lfp-bench", typer.main.get_command(app)))


def _options(name: str, command: Any) -> Iterator[tuple[str, set[str]]]:
    own = {"-h", "--help"}
    for parameter in command.params:
        own |= {*parameter.opts, *parameter.secondary_opts}
    yield name, own
    for word, inner in _inner(command).items():
        yield from _options(f"{name} {word}", inner)


def _inner(command: Any) -> dict[str, Any]:
    """Return the commands of a group, imported; nothing of a command."""
    if not isinstance(command, TyperGroup):
        return {}
    context = typer.Context(command)
    return {word: command.resolve_command(context, [word])[1] for word in command.commands}


def _described(name: str, command: Any) -> Iterator[str]:
    inner = _inner(command)
    if not inner:
        yield from _one(name, command)
    for word, each in inner.items():
        yield from _described(f"{name} {word}", each)


def _one(name: str, command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    yield f"## {name}\n"
    yield f"{_prose(command.help)}\n"
    yield f"    {' '.join(command.get_usage(context).split()[1:])}\n"
    rows = [_row(p, context) for p in command.params if not getattr(p, "hidden", False)]
    if rows:
        yield "| parameter | what it is | default |"
        yield "| --- | --- | --- |"
        yield from rows
        yield ""


def _row(parameter: Any, context: typer.Context) -> str:
    named = parameter.param_type_name == "option"
    word = parameter.metavar or parameter.name.upper()
    names = [*parameter.opts, *parameter.secondary_opts] if named else [word]
    default = parameter.get_default(context, call=False)
    told = str(default).removeprefix(f"{ROOT}{os.sep}")  # a folder as it is called in a clone
    shown = "" if default in (None, False, (), []) or callable(default) else f"`{told}`"
    meaning = " ".join((getattr(parameter, "help", None) or "").split())
    cells = [", ".join(f"`{one}`" for one in names), _escaped(meaning), shown]
    return f"| {' | '.join(cells)} |"


def _prose(text: str | None) -> str:
    return _escaped((text or "").replace("\b", "").strip())


def _escaped(text: str) -> str:
    """Return a help text as Markdown that shows it as it is."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
