"""A figure as a part of a page, whose script can hide the lines of it."""

import re

from markupsafe import Markup, escape

#: How the id begins that a figure's artist gets for the line that it belongs to.
OF_LINE = "line:"
#: Such an id in a file: several artists have it, so it becomes an attribute that may be repeated.
MARKED = re.compile(rf'<g id="{OF_LINE}([^"]*)"')
#: What a page has once for all figures, or needs of none.
OUTSIDE = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>", re.DOTALL)
NAME = re.compile(r' id="(?P<name>[^"]*)"')
USE = re.compile(r'(?P<before>href="#|url\(#)(?P<name>[^")]+)')


def of_line(label: str) -> str:
    """Return the id of an artist that belongs to the line with this label."""
    return OF_LINE + label


def marked(svg: bytes) -> bytes:
    """Return the file with the line that a group belongs to as its attribute `data-line`."""
    return MARKED.sub(r'<g data-line="\1"', svg.decode()).encode()


def inline(svg: bytes, prefix: str, told: str) -> Markup:
    """Return a figure as an element of a page.

    Args:
        svg: the file.
        prefix: begins the names within it, which other figures of the page may have as well.
        told: what the figure shows, for those who do not see it.

    Returns:
        The element.
    """
    text = OUTSIDE.sub("", svg.decode())
    used = {found["name"] for found in USE.finditer(text)}
    text = USE.sub(rf"\g<before>{prefix}-\g<name>", text)
    text = NAME.sub(lambda m: f' id="{prefix}-{m["name"]}"' if m["name"] in used else "", text)
    attributes = f'<svg role="img" aria-label="{escape(told)}"'
    return Markup(text.replace("<svg", attributes, 1).strip())
