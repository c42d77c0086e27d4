"""Tables and numbers as text: for a terminal, and as Markdown that can be read back."""

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import pandas as pd
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

#: Columns of names: rows that differ in one of them but the last are set apart.
GROUPING = ("study", "data set", "part", "check", "model", "activation", "method", "time")
PROSE = ("title", "verdict", "detail")
#: What is between two cells of a row in Markdown; a line in a cell is escaped.
CELL = re.compile(r"(?<!\\) \| ")
Lines = tuple[Sequence[str], Sequence[Sequence[str]]]  # a header, and rows of the same length


def mean_and_deviation(mean: float, deviation: float) -> str:
    """Return both in percent, as text."""
    return f"{number(mean, '.1f', 100)} ± {number(deviation, '.1f', 100)}"


def number(value: float | None, form: str, times: float = 1) -> str:
    """Return the number, times another one, in this form; a line where there is none."""
    return "-" if value is None or pd.isna(value) else format(times * value, form)


def spread(values: Sequence[float], digits: int) -> str:
    """Return mean ± sample standard deviation of at least one value, the latter if it has one."""
    deviation = f"{stdev(values):.{digits}f}" if len(values) > 1 else "-"
    return f"{mean(values):.{digits}f} ± {deviation}"


#: What a reader of rates with :func:`at_edge` has to know.
EDGE = "(edge): the best rate ends the grid, a better one may lie beyond"


def edge_notes(edges: Iterable[object]) -> list[str]:
    """Return :data:`EDGE` if one of the rates in a table ends its grid."""
    return [f"{EDGE}."] if any(edges) else []


def at_edge(edge: str | None) -> str:
    """Return what is written behind a learning rate that ends the grid it was chosen from."""
    return "" if pd.isna(edge) else " (edge)"


def origins(environments: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one line for each different environment; the date makes no difference."""
    described = (
        f"{e['processor']}, {e['threads']} threads on {e['device']}; {e['platform']}; "
        f"Python {e['python']}, torch {e['torch']}, numpy {e['numpy']}; "
        f"commit {e['commit'] or 'unknown'}{' with uncommitted changes' if e['dirty'] else ''}"
        for e in environments
    )
    return list(dict.fromkeys(described))


def markdown(table: Lines) -> str:
    """Return the table in Markdown."""
    header, rows = table
    rule = ["---"] * len(header)
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (header, rule, *rows))
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def document(table: Lines, remarks: Iterable[str]) -> str:
    """Return the table in Markdown with a list of remarks below it."""
    return "\n".join([markdown(table), *(f"- {remark}" for remark in remarks), ""])


def parse(text: str) -> list[tuple[str, Lines, list[str]]]:
    """Return the tables in a text of :func:`document`, with their captions and remarks.

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


def terminal(table: Lines) -> Table:
    """Return the table for a rich console; columns of names are left, numbers right."""
    header, rows = table
    names = [name for name in header if name in GROUPING]
    grouped = header.index(names[-1]) if names else 0
    groups = [row[:grouped] for row in rows]
    rich = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for name in header:
        rich.add_column(name, justify="left" if name in (*names, *PROSE) else "right")
    for row, group, following in zip(rows, groups, [*groups[1:], None], strict=True):
        rich.add_row(*map(escape, row), end_section=following != group)
    return rich
