"""YAML as a study file may have it: what YAML 1.1 and 1.2 read alike, and what is meant once.

PyYAML reads YAML 1.1, where ``yes`` and ``on`` are true, ``010`` is 8, ``1:30`` is 90 and
``1_000`` is 1000, and where the last of two equal keys counts. Here such values are refused, with
their path into the file; in quotes each of them is a string. Otherwise the types are those of the
core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), where ``1e-3`` is a number.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.events import CollectionEndEvent, CollectionStartEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.resolver import Resolver

#: How deep values may be nested: more than any study needs, and less than Python's stack.
DEEPEST = 20
TOO_DEEP = f"nested too deeply; allowed: {DEEPEST} levels"
LARGEST = 10**6  # letters of a file
#: Digits of a whole number: more than fits into 64 bits, and fewer than take time.
LONGEST = 20
#: Values of a list, and of a file: more than any study needs, and fewer than take time.
MOST = 1000
MOST_IN_ALL = 10 * MOST

NULL = re.compile(r"null|Null|NULL|~")
TRUE = re.compile(r"true|True|TRUE")
FALSE = re.compile(r"false|False|FALSE")
WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
REAL = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
#: What is a number or a truth value for some reader, besides what PyYAML takes for one.
AMBIGUOUS = re.compile(
    r"[-+]?0[0-9xXoObB_][0-9a-fA-F_]*(\.[0-9]*)?([eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9.][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|y|Y|n|N"
)
#: PyYAML's own opinion, which is YAML 1.1's.
OLDER = Resolver()
STRING = "tag:yaml.org,2002:str"


class StrictYAMLError(ValueError):
    """A value that has more than one meaning, or none; the message begins with its path."""


def load(text: str, key: str = "") -> Any:
    """Return the content of a file, or the value of a key, as plain Python values.

    Args:
        text: of the file, or of the value.
        key: that the value is given to; empty for a file.

    Returns:
        The content; None of an empty file.

    Raises:
        StrictYAMLError: a key has no value, or a value more than one meaning; its path is named,
            from the key on.
        yaml.YAMLError: it is not YAML.
    """
    _check_structure(text, key)
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    path = (key,) if key else ()
    if node is None:  # of an empty file, who reads it says what it has to hold
        return _plain("", path) if key else None
    return _value(node, path)


def _check_structure(text: str, key: str) -> None:
    """Raise for anchors, aliases, tags, depth and number, before anything is made of them.

    PyYAML's time grows with the square of the depth, so what follows is not read then.

    Raises:
        StrictYAMLError: there is one of these; the message begins with the key, or without one with
            the line of the file.
    """
    if len(text) > LARGEST:
        at = key or "the file"
        raise StrictYAMLError(f"{at}: {len(text)} letters; allowed: at most {LARGEST}")
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        at = key or f"line {event.start_mark.line + 1 if event.start_mark else '?'}"
        if anchor := getattr(event, "anchor", None):
            raise StrictYAMLError(f"{at}: the anchor {anchor!r}; allowed: values in full")
        if tag := getattr(event, "tag", None):
            raise StrictYAMLError(f"{at}: the tag {tag!r}; allowed: values without a tag")
        if count > MOST_IN_ALL:
            raise StrictYAMLError(f"{at}: too many values; allowed: {MOST_IN_ALL} with all keys")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            raise StrictYAMLError(f"{at}: {TOO_DEEP}")


def _value(node: Node, path: tuple[str, ...]) -> Any:
    """Return what a node means."""
    match node:
        case MappingNode():
            return dict(_items(node, path))
        case SequenceNode():
            if len(node.value) > MOST:
                raise _refusal(path, f"a list of {len(node.value)} values", f"at most {MOST}")
            return [_value(one, (*path, str(i))) for i, one in enumerate(node.value)]
        case ScalarNode(style=None):
            return _plain(node.value, path)
        case _:
            return node.value


def _items(node: MappingNode, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a mapping with their values; each has to be a name, and given once."""
    seen = set()
    for key_node, value_node in node.value:
        key = key_node.value
        if not isinstance(key_node, ScalarNode):
            raise _refusal(path, "a key that is a list or a mapping", "names")
        if key == "<<" and key_node.style is None:
            raise _refusal(path, "'<<'", "keys and values in full, without a merge")
        if key_node.style is None and not isinstance(_plain(key, path), str):
            raise _refusal(path, f"the key {key!r} is no string", f"names, like {_quoted(key)}")
        if key in seen:
            raise _refusal((*path, key), "the key is given twice", "once")
        seen.add(key)
        yield key, _value(value_node, (*path, key))


def _plain(text: str, path: tuple[str, ...]) -> Any:
    """Return what a scalar without quotes means."""
    if text == "":
        raise _refusal(path, "nothing is given", "a value; null says that there is none")
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text) or FALSE.fullmatch(text):
        return bool(TRUE.fullmatch(text))
    if WHOLE.fullmatch(text):
        if len(text) > LONGEST:
            raise _refusal(path, f"a number of {len(text)} digits", f"at most {LONGEST}")
        return int(text)
    if INFINITE.fullmatch(text) or (REAL.fullmatch(text) and not math.isfinite(float(text))):
        raise _refusal(path, text, "finite numbers")
    if REAL.fullmatch(text):
        number = float(text)
        if number == 0 and re.search("[1-9]", text.lower().partition("e")[0]):
            raise _refusal(path, f"{text} is 0 in 64 bits", "0, or numbers that differ from it")
        return number
    if AMBIGUOUS.fullmatch(text) or OLDER.resolve(ScalarNode, text, (True, False)) != STRING:
        told = f"{text} does not mean the same in all versions of YAML"
        raise _refusal(path, told, f"true, false, 10, 0.5, 1e-3, or {_quoted(text)}")
    return text


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '" as a string'


def _refusal(path: tuple[str, ...], what: str, allowed: str) -> StrictYAMLError:
    return StrictYAMLError(f"{'.'.join(path) or 'the file'}: {what}; allowed: {allowed}")
