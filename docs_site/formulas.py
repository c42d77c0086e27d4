"""Formulas of a page as MathML, which a browser draws itself: no program, and no font of others."""

import html
import re
from xml.etree import ElementTree

from latex2mathml.converter import convert

#: What pymdownx.arithmatex makes of `$...$` and of a block of the language `math`.
FORMULA = re.compile(
    r'(?P<begin><(?P<tag>span|div) class="arithmatex">)'
    r"\\[(\[](?P<tex>.*?)\\[)\]](?P<end></(?P=tag)>)",
    re.DOTALL,
)
#: How many parts an element has to have.
PARTS = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}


def drawn(page: str) -> str:
    """Return a page as HTML whose formulas are MathML."""

    def one(found: re.Match[str]) -> str:
        display = "block" if found["tag"] == "div" else "inline"
        return found["begin"] + mathml(html.unescape(found["tex"]), display) + found["end"]

    return FORMULA.sub(one, page)


def mathml(tex: str, display: str = "inline") -> str:
    """Return a formula of LaTeX as MathML.

    Args:
        tex: the formula, without signs of dollars.
        display: "inline" within a line, or "block" for a line of its own.

    Returns:
        An element `math`.

    Raises:
        ValueError: the converter does not know a command of the formula, or a part is missing; it
            leaves such things as they are.
    """
    found = convert(tex.strip(), display=display)
    try:
        elements = [*ElementTree.fromstring(found).iter()]
    except ElementTree.ParseError:
        raise ValueError(f"no MathML for {tex!r}: what is made of it is no XML") from None
    for element in elements:
        name = element.tag.rpartition("}")[2]
        if "\\" in (element.text or ""):
            raise ValueError(f"no MathML for {tex!r}: {element.text} is not known")
        if len(element) != PARTS.get(name, len(element)):
            raise ValueError(f"no MathML for {tex!r}: a part of {name} is missing")
    return found
