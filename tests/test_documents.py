"""Numbers in the tables of README and docs are those of the stored files that stand beside them."""

import re
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.storage.provenance import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCE = re.compile(r"\]\((?:\.\./)*(benchmarks/stored/[^)#]+\.(?:md|csv))\)")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?: ± (?:\d+(?:\.\d+)?|-))?")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


class Quoted(NamedTuple):
    """A table of a document, and the stored files that are named in its section."""

    document: str
    line: int
    cells: list[str]
    sources: list[Path]


def quoted(path: Path) -> list[Quoted]:
    """Return the tables of a document whose sections name stored files."""
    found = []
    lines = path.read_text().splitlines()
    for at, line in enumerate(lines):
        begins = line.startswith("| ") and not lines[at - 1].startswith("| ")
        if not begins:
            continue
        rows = list(takewhile(lambda row: row.startswith("|"), lines[at:]))
        first = max((i for i in range(at) if lines[i].startswith("#")), default=0)
        after = takewhile(lambda text: not text.startswith("#"), lines[at + len(rows) :])
        section = "\n".join([*lines[first : at + len(rows)], *after])
        sources = [ROOT / name for name in dict.fromkeys(SOURCE.findall(section))]
        cells = [cell for row in rows[2:] for cell in row.strip("| ").split(" | ")[1:]]
        if sources:
            found.append(Quoted(path.name, at + 1, cells, sources))
    return found


TABLES = [table for path in DOCUMENTS for table in quoted(path)]


def numbers(text: str) -> set[str]:
    """Return the numbers in a text, with their deviations, and without."""
    found = set(NUMBER.findall(text))
    return found | {number.partition(" ± ")[0] for number in found}


@pytest.mark.parametrize("table", TABLES, ids=lambda t: f"{t.document}:{t.line}")
def test_a_number_is_one_of_the_stored_files_beside_it(table: Quoted) -> None:
    stored = {number for source in table.sources for number in numbers(source.read_text())}
    for cell in table.cells:
        for number in NUMBER.findall(LINK.sub(r"\1", cell)):
            assert number in stored, f"{number} in {cell!r} is in none of {table.sources}"


def test_a_number_that_is_not_stored_is_noticed() -> None:
    stored = numbers((ROOT / "benchmarks/stored/authors-epsilon-cpu/digits/table.md").read_text())
    assert "96.3 ± 0.3" in stored
    assert "96.3 ± 0.4" not in stored
    assert len(TABLES) >= 4
