"""The page on what a study file may say, made of the models that read one."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from baselines import METHODS
from baselines.options import allowed
from benchmarks.experiments.kinds import EXPERIMENTS
from benchmarks.experiments.options import options_of
from benchmarks.studies.plan import Plan

ATTRIBUTE = re.compile(r"    (?P<names>\w+(, \w+)*): (?P<text>.*)")
#: A role of docstrings: the last part of the name is what a reader needs.
ROLE = re.compile(r":\w+:`~?[\w.]*?(\w+)`")
BEGIN = """\
# Study file

A study that is written down is a YAML file, and `lfp-bench run FILE.yaml --size SIZE` makes it
([an example](../tutorials/comparison.md#as-a-file)). This page has the keys of the file, then the
keys of a part for each kind of experiment, then the options of methods, which stand beside the keys
of a part. An unknown key, a value of another type, and a value that YAML 1.1 and 1.2 read
differently are refused, with the path of the key.
"""
OPTIONS = """\
## Options of methods

Where a kind of experiment has the key `options`, its parts may have options of the methods as well.
As a key of the part, an option is for all chosen methods that have it. Under `options`, in the form
`options: {METHOD: {...}}`, it is for one method, and replaces the former. Methods of other packages
have their own options.
"""


def page() -> str:
    """Return the page."""
    lines = [BEGIN, *_table("## The file", Plan)]
    for name, kind in EXPERIMENTS.items():
        prose = ROLE.sub(r"`\1`", (kind.schema.__doc__ or "").split("\n")[0])
        lines += [*_table(f"## A part of the kind `{name}`", kind.schema, prose)]
    header = "| option | must | of the methods | what it is |"
    lines += [OPTIONS, header, "| --- | --- | --- | --- |"]
    for name, option in options_of(METHODS).items():
        having = "all" if len(option.methods) == len(METHODS) else ", ".join(option.methods)
        told = [f"`{name}`", allowed(option.field), having]
        lines.append(_row([*told, option.field.description or ""]))
    return "\n".join([*lines, ""])


def _table(title: str, model: type[BaseModel], prose: str = "") -> Iterator[str]:
    """Yield what a model takes, from its JSON schema."""
    schema = model.model_json_schema()
    yield f"{title}\n"
    if prose:
        yield f"{prose}\n"
    yield "| key | type | default | what it is |"
    yield "| --- | --- | --- | --- |"
    told = _attributes(model)
    for name, field in schema.get("properties", {}).items():
        default = f"`{json.dumps(field.get('default'))}`"
        default = "required" if name in schema.get("required", ()) else default
        yield _row([f"`{name}`", _type(field, schema), default, told.get(name, "")])
    yield ""


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """Return what the docstrings of a model and of those before it say of its keys.

    Several keys may share a line of the section.
    """
    found: dict[str, str] = {}
    for each in model.__mro__:
        _, _, section = inspect.cleandoc(each.__doc__ or "").partition("Attributes:\n")
        names: list[str] = []
        for line in section.splitlines():
            if (head := ATTRIBUTE.match(line)) is not None:
                names = [name for name in head["names"].split(", ") if name not in found]
                found |= dict.fromkeys(names, head["text"])
            elif line.startswith("        "):
                found |= {name: f"{found[name]} {line.strip()}" for name in names}
            elif line.strip():
                break
    return {name: ROLE.sub("`\\1`", text) for name, text in found.items()}


def _type(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return what a part of a JSON schema allows, in words."""
    if "$ref" in field:
        return _type(schema["$defs"][field["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(one, schema) for one in field["anyOf"]))
    if "const" in field or "enum" in field:
        return " or ".join(f"`{one}`" for one in field.get("enum", [field.get("const")]))
    kind = field.get("type", "anything")
    if kind == "array":
        return f"a list of: {_type(field.get('items', {}), schema)}"
    if kind == "object":
        inner = field.get("additionalProperties", {})
        return f"a mapping to: {_type(inner, schema)}" if isinstance(inner, dict) else "a mapping"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    found = [f"{sign} {field[key]:g}" for key, sign in bounds.items() if key in field]
    words = {"integer": "a whole number", "number": "a number", "string": "a text"}
    words |= {"boolean": "true or false", "null": "null"}
    return " ".join([words.get(kind, kind), ", ".join(found)]).strip()


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
