"""Tables and numbers as text: for a terminal, and as Markdown."""

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

#: Columns of names: rows that differ in one of them but the last are set apart.
GROUPING = (
    *("study", "data set", "part", "check", "model", "network", "activation", "method", "arm"),
    "time",
)
PROSE = ("title", "verdict", "detail")
PROSE_AT_LEAST = 20  # characters on a line
Lines = tuple[Sequence[str], Sequence[Sequence[str]]]  # a header, and rows of the same length


def mean_and_deviation(mean: float, deviation: float) -> str:
    """Return both in percent, as text; a mean alone where there is no deviation, as of one seed."""
    return with_deviation(number(mean, ".1f", 100), number(deviation, ".1f", 100))


def with_deviation(mean: str, deviation: str) -> str:
    """Return mean ± deviation, or what there is of them.

    >>> with_deviation("18.9", "0.4"), with_deviation("18.9", "-"), with_deviation("-", "-")
    ('18.9 ± 0.4', '18.9', '-')
    """
    return mean if deviation == "-" else f"{mean} ± {deviation}"


def interval(low: float, high: float, form: str, times: float = 1) -> str:
    """Return both ends in this form; a line where there is no interval."""
    ends = (number(low, form, times), number(high, form, times))
    return "-" if "-" in ends else " to ".join(ends)


def counted(count: int, thing: str) -> str:
    """Return a number and the name of what was counted, in the plural unless it is 1.

    >>> counted(1, "pair"), counted(2, "pair")
    ('1 pair', '2 pairs')
    """
    return f"{count} {thing}{'' if count == 1 else 's'}"


def number(value: float | None, form: str, times: float = 1) -> str:
    """Return the number, times another one, in this form; a line where there is none."""
    import pandas as pd  # noqa: PLC0415  (slow, and most tables of text need none)

    return "-" if value is None or pd.isna(value) else format(times * value, form)


def spread(values: Sequence[float], digits: int) -> str:
    """Return mean ± sample standard deviation of at least one value, the latter if it has one."""
    deviation = f"{stdev(values):.{digits}f}" if len(values) > 1 else "-"
    return with_deviation(f"{mean(values):.{digits}f}", deviation)


def seeds_of(count: int, told: str = "") -> str:
    """Return how many seeds there are, and what is told of more than one, as in a title.

    >>> seeds_of(3, "mean and range"), seeds_of(1, "mean and range")
    ('mean and range over 3 seeds', '1 seed')
    """
    if count == 1:
        return "1 seed"
    return f"{told} over {count} seeds" if told else f"{count} seeds"


#: Load for each core from which on a machine was busy; of one process a core it is about 1.
SHARED = 1.3
#: What a reader of rates with :func:`at_edge` has to know.
EDGE = "(edge): the best rate ends the grid, a better one may lie beyond"


#: What a reader of options has to know that were chosen from a range.
NEAR_EDGE = "(edge): within a tenth of an end of its range, a better value may lie beyond"


def edge_notes(edges: Iterable[object]) -> list[str]:
    """Return :data:`EDGE` if one of the rates in a table ends its grid."""
    return [f"{EDGE}."] if any(edges) else []


def at_edge(edge: str | None) -> str:
    """Return what is written behind a learning rate that ends the grid it was chosen from."""
    import pandas as pd  # noqa: PLC0415  (slow)

    return "" if pd.isna(edge) else " (edge)"


def origins(environments: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one line for each different environment; the date makes no difference."""
    described = (
        f"{e['processor']}, {e['threads']} threads on {e['device']}; {e['platform']}; "
        f"Python {e['python']}, torch {e['torch']}, numpy {e['numpy']}; "
        f"{'LFP with C++ nodes; ' if e.get('nodes') == 'C++' else ''}"
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


def in_bytes(text: str) -> bytes:
    """Return the content of a file: UTF-8, in which a byte of a path that is not is an escape."""
    return text.encode(errors="backslashreplace")


def remarks(environments: Iterable[Mapping[str, Any]], command: str) -> list[str]:
    """Return where numbers were made, whether times can be trusted, and by which command."""
    every = list(environments)
    return [
        *(f"Made on: {place}." for place in origins(every)),
        *busy(every),
        f"Command: `{command}`",
    ]


def busy(environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what to say of results that were made while other work wanted the cores as well.

    Environments that were stored before the load was recorded say nothing.

    Returns:
        One line, or none.
    """
    crowded = [e for e in environments if e.get("load") and e["load"] > SHARED * e["cores"]]
    if not crowded:
        return []
    worst = max(crowded, key=lambda e: float(e["load"] / e["cores"]))
    return [
        f"Busy: {len(crowded)} of {len(environments)} results were made on a machine with other "
        f"work (a load of up to {worst['load']:g} on {worst['cores']} cores); their times are too "
        "long."
    ]


def rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of a frame in plain JSON types, NaN as None."""
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return found


def selected(table: Lines, shown: Sequence[str] | None) -> Lines:
    """Return the columns of these names alone; all if there are none."""
    header, rows = table
    at = [i for i, name in enumerate(header) if shown is None or name in shown]
    return [header[i] for i in at], [[row[i] for i in at] for row in rows]


def said(table: Lines) -> Lines:
    """Return the columns that say something: those that do not have a line in every row."""
    header, rows = table
    empty = {i for i in range(len(header)) if rows and all(row[i] == "-" for row in rows)}
    at = [i for i in range(len(header)) if i not in empty]
    return [header[i] for i in at], [[row[i] for i in at] for row in rows]


def fitted(table: Lines, width: int) -> tuple[Lines, list[str]]:
    """Return the table without its last columns, as far as a width asks for it, and their names.

    Columns of names and of words stay, and so does the first one of numbers.
    """
    kept, left_out = list(table[0]), list[str]()
    numbers = [name for name in kept if name not in (*GROUPING, *PROSE)]
    while least_width(selected(table, kept)) > width and len(numbers) > 1:
        left_out.insert(0, numbers.pop())
        kept.remove(left_out[0])
    return selected(table, kept), left_out


def least_width(table: Lines) -> int:
    """Return how many characters a table takes at the least in a terminal."""
    return _whole_width(_least_widths(table))


def _whole_width(widths: Sequence[int]) -> int:
    """Return the width of a table of columns, with a margin, a gap and a character of padding."""
    return sum(widths) + 2 * len(widths) + 1


def _least_widths(table: Lines) -> list[int]:
    """Return the least width of each column.

    Cells of numbers are one line; headers and names may be broken between words, prose anywhere.
    """
    header, rows = table
    columns = list(zip(header, *rows, strict=True))
    return [
        max(len(part) for cell in column for part in _parts(cell))
        if column[0] not in PROSE
        else PROSE_AT_LEAST
        for column in columns
    ]


def _widths(table: Lines, width: int) -> list[int]:
    """Return the widths of the columns: the widest ones are broken where there is no room."""
    header, rows = table
    least = _least_widths(table)
    found = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    while _whole_width(found) > width and found != least:
        spare = [max(wide - narrow, 0) for wide, narrow in zip(found, least, strict=True)]
        at = max(range(len(found)), key=lambda i: (spare[i] > 0, found[i]))
        if not spare[at]:
            break
        found[at] -= 1
    return found


def _parts(cell: str) -> list[str]:
    """Return what of a cell has to stay on one line."""
    return cell.split() if cell[:1].isalpha() or cell.startswith("- (") else [cell]


def terminal(table: Lines, width: int) -> Table:
    """Return the table for a rich console of a width; columns of names are left, numbers right."""
    header, rows = table
    names = [name for name in header if name in GROUPING]
    grouped = header.index(names[-1]) if names else 0
    groups = [row[:grouped] for row in rows]
    rich = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for name, wide in zip(header, _widths(table, width), strict=True):
        justify: Literal["left", "right"] = "left" if name in (*names, *PROSE) else "right"
        rich.add_column(name, justify=justify, width=wide, overflow="fold")
    for row, group, following in zip(rows, groups, [*groups, None][1:], strict=True):
        rich.add_row(*map(escape, row), end_section=following != group)
    return rich
