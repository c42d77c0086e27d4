"""Reads tables that were written in Markdown."""

import re

from benchmarks.rendering.text import Lines

#: What is between two cells of a row; a line in a cell is escaped.
CELL = re.compile(r"(?<!\\) \| ")


def parse(text: str) -> list[tuple[str, Lines, list[str]]]:
    """Return the tables in a text, with their captions and remarks.

    The caption is the last line before a table that begins with #, or empty.

    >>> parse("# What\\n\\n| a | b |\\n| --- | --- |\\n| 1 | 2 |\\n\\n- a remark\\n")
    [('What', (('a', 'b'), [('1', '2')]), ['a remark'])]

    Raises:
        ValueError: a row has not as many cells as its header.
    """
    found: list[tuple[str, Lines, list[str]]] = []
    caption, before = "", ""
    for line in text.splitlines():
        if line.startswith("#"):
            caption = line.lstrip("# ")
        elif line.startswith("| "):
            row = tuple(cell.replace("\\|", "|") for cell in CELL.split(line.strip()[2:-2]))
            if not before.startswith("| "):
                rows: list[tuple[str, ...]] = []
                found.append((caption, (row, rows), []))
                caption = ""
            elif len(row) != len(found[-1][1][0]):
                raise ValueError(f"a row has {len(row)} cells: {line}")
            elif set(row) != {"---"}:
                rows.append(row)
        elif line.startswith("- ") and found:
            found[-1][2].append(line[2:])
        before = line
    return found
