"""Links of a page into the repository, which the site has files of its own for."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = PurePosixPath("docs")
#: Files of the repository that are pages of the site, and what they are there.
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
#: Where the site has all other files that a page links to.
ELSEWHERE = PurePosixPath("repository")
#: A link, or a picture with the mark before it: its text and its target.
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
#: A picture in a file, which may be too small to be read on a telephone.
PICTURE = re.compile(r'<img [^>]*src="(?P<file>[^":]+\.png)"[^>]*>')
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


class Link(NamedTuple):
    """A link into the repository: its place in the text, its target's path, and what follows it."""

    found: re.Match[str]
    path: str
    anchor: str


def links(text: str, source: str) -> Iterator[Link]:
    """Yield the links of a page that lead to other files, outside of code.

    Args:
        text: the page.
        source: its path in the repository.

    Yields:
        Each link, in order.
    """
    code = [found.span() for found in CODE.finditer(text)]
    for found in LINK.finditer(text):
        target, sign, anchor = found["target"].partition("#")
        inside = any(begin <= found.start() < end for begin, end in code)
        if not target or inside or re.match(r"[a-z]+:", target):
            continue
        path = os.path.normpath(PurePosixPath(source).parent / target)
        yield Link(found, PurePosixPath(path).as_posix(), sign + anchor)


def place(path: str) -> str:
    """Return where the site has a file of the repository.

    >>> place("docs/rules.md"), place("ARCHITECTURE.md"), place("benchmarks/stored/a/table.md")
    ('rules.md', 'architecture.md', 'repository/benchmarks/stored/a/table.md')
    """
    inside = PurePosixPath(path)
    if inside.is_relative_to(DOCS):
        return inside.relative_to(DOCS).as_posix()
    return PAGES.get(path) or (ELSEWHERE / inside).as_posix()


def rewritten(text: str, source: str) -> str:
    """Return a page as the site has it: a link to a folder, which no site shows, is its text.

    >>> rewritten("[b](../examples/b.py) [c](../examples)", "docs/a.md")
    '[b](repository/examples/b.py) c'
    """
    here = PurePosixPath(place(source)).parent
    done, at = [], 0
    for link in links(text, source):
        found = link.found
        done.append(text[at : found.start()])
        target = os.path.relpath(place(link.path), here) + link.anchor
        if (ROOT / link.path).is_dir():
            done.append(found["text"])
        else:
            done.append(f"{found['picture']}[{found['text']}]({target})")
        at = found.end()
    return "".join([*done, text[at:]])


def enlarged(html: str) -> str:
    """Return a page in which each picture leads to its file.

    >>> enlarged('<img src="a.png" alt="a" /> <img src="data:image/png;base64,A">')
    '<a href="a.png"><img src="a.png" alt="a" /></a> <img src="data:image/png;base64,A">'
    """
    return PICTURE.sub(r'<a href="\g<file>">\g<0></a>', html)


def linked(pages: Mapping[str, str]) -> set[str]:
    """Return the paths of the files outside of docs that pages link to, or that those link to.

    Args:
        pages: texts, by their paths in the repository.

    Returns:
        The paths, in the repository.

    Raises:
        FileNotFoundError: a page links to what there is not.
    """
    wanted, todo = set(), dict(pages)
    while todo:
        source, text = todo.popitem()
        for link in links(text, source):
            path = ROOT / link.path
            if link.path in PAGES or PurePosixPath(link.path).is_relative_to(DOCS):
                continue  # mkdocs itself looks whether it has them
            if not path.exists():
                raise FileNotFoundError(f"{source} links to {link.path}, which there is not")
            if path.is_dir() or link.path in wanted:
                continue
            wanted.add(link.path)
            if path.suffix == ".md":
                todo[link.path] = path.read_text()
    return wanted
