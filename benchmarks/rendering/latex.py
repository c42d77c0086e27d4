"""A table in LaTeX: booktabs rules, siunitx columns, and no wider than the text.

What is no number stands in braces, which siunitx leaves as it is. Remarks behind numbers become
letters that a note below the table explains, and a table of many rows becomes several.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from math import ceil

from benchmarks.rendering.text import Lines

#: What the document that inputs the tables has to have in its preamble: siunitx is of version 3.
PREAMBLE = "% \\usepackage{booktabs, siunitx, adjustbox}\n"
#: A deviation of 0.0 is written as well, and each sign and remark stands at its own number.
SETUP = (
    "separate-uncertainty, retain-explicit-plus, retain-zero-uncertainty, group-digits = none, "
    "table-align-uncertainty = false, table-align-text-after = false"
)
#: What is special in LaTeX, or missing from its fonts.
SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "|": "$|$",
        "±": r"$\pm$",
        "∞": r"$\infty$",
        "≈": r"$\approx$",
        "µ": r"$\mu$",
        "✗": r"$\times$",
        "–": "--",
        "“": "``",
        "”": "''",
    }
)
#: A number as siunitx has it, with what may follow: a deviation, a star, a remark in brackets.
NUMBER = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>\d+)(?:\.(?P<part>\d+))?(?:e(?P<power>[+-]?\d+))?"
    r"(?: ± (?P<deviation>\d+(?:\.\d+)?))?(?P<star>\*?)(?: \((?P<remark>[^()]*)\))?"
)
REFUSAL = re.compile(r"- \((?P<remark>[^()]*)\)")
#: A number with a sign, which has a minus in math alone.
SIGNED = re.compile(r"(?<![\w.$-])[+-]\d+(\.\d+)?")
MOST_LINES = 45  # of a float, which does not break between pages
LONGEST = 18  # characters of a cell of words on one line
WIDE = "p{7em}"  # the kind of a column with longer ones
IN_WIDE = 14  # characters on a line of such a column
IN_NOTE = 100  # characters on a line below the table


def table(name: str, caption: str, lines: Lines, notes: Sequence[str]) -> str:
    """Return a table as floats, of which there are several if it has many rows.

    Args:
        name: of the label, which begins with `tab:`.
        caption: one line.
        lines: header and rows.
        notes: below the last rows.
    """
    header, rows = lines
    kinds = [_kind([row[i] for row in rows]) for i in range(len(header))]
    remarks = _Remarks()
    written = [
        " & ".join(_cell(cell, kind, remarks) for cell, kind in zip(row, kinds, strict=True))
        + r" \\"
        for row in rows
    ]
    heads = [_head(title) for title in header]
    below = [*remarks.told, *(note.translate(SPECIAL) for note in notes)]
    firsts = [row[0] for row in rows]
    pieces = _pieces(firsts, written, _heights(rows, kinds), ceil(len(" ".join(notes)) / IN_NOTE))
    return "\n".join(
        _float(
            caption.translate(SPECIAL) + (f" ({n} of {len(pieces)})" if len(pieces) > 1 else ""),
            f"tab:{name}" + (f"-{n}" if n > 1 else ""),
            "".join(kinds),
            [" & ".join(heads) + r" \\", r"\midrule", *piece],
            below if n == len(pieces) else [],
        )
        for n, piece in enumerate(pieces, start=1)
    )


def _float(
    caption: str, label: str, columns: str, body: Sequence[str], notes: Sequence[str]
) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            r"\centering\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            rf"\sisetup{{{SETUP}}}",
            r"\begin{adjustbox}{max width=\linewidth}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{adjustbox}",
            *_below(notes),
            r"\end{table}",
            "",
        ]
    )


def _below(notes: Sequence[str]) -> list[str]:
    """Return the notes as a paragraph below a table."""
    told = " ".join(notes)
    return [rf"\par\smallskip\parbox{{\linewidth}}{{\scriptsize {told}}}"] if notes else []


def _heights(rows: Sequence[Sequence[str]], kinds: Sequence[str]) -> list[int]:
    """Return how many lines each row takes on paper, where long cells of words are broken."""
    wide = [i for i, kind in enumerate(kinds) if kind.endswith(WIDE)]
    return [max([1, *(ceil(len(row[i]) / IN_WIDE) for i in wide)]) for row in rows]


def _pieces(
    firsts: Sequence[str], written: Sequence[str], heights: Sequence[int], notes: int
) -> list[list[str]]:
    """Return the lines of each float, which ends with a group of rows where it can.

    A group has the same first cell. Groups are set apart where one of them has several rows.

    Args:
        firsts: the first cell of each row.
        written: the rows.
        heights: how many lines on paper each of them takes.
        notes: how many lines the notes take, which are below the last rows.
    """
    groups = [list(group) for _, group in groupby(range(len(firsts)), key=firsts.__getitem__)]
    apart = [r"\addlinespace"] if len(groups) < len(written) else []
    found, used = [list[str]()], 0
    for group in groups:
        for part in _parts(group, heights):
            lines = sum(heights[i] for i in part)
            below = notes if part[-1] == len(firsts) - 1 else 0
            if found[-1] and used + lines + below > MOST_LINES:
                found.append([])
                used = 0
            begins = bool(found[-1]) and part[0] == group[0]
            found[-1] += [*(apart if begins else []), *(written[i] for i in part)]
            used += lines
    return found


def _parts(group: Sequence[int], heights: Sequence[int]) -> list[list[int]]:
    """Return the rows of a group, in parts that a float has room for."""
    found, used = [list[int]()], 0
    for i in group:
        if found[-1] and used + heights[i] > MOST_LINES:
            found.append([])
            used = 0
        found[-1].append(i)
        used += heights[i]
    return found


class _Remarks:
    """What is said in brackets behind numbers, each once, by letters."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def letter(self, remark: str) -> str:
        """Return the mark of a remark."""
        letter = self.letters.setdefault(remark, _letter(len(self.letters)))
        return rf"\textsuperscript{{{letter}}}"

    @property
    def told(self) -> list[str]:
        """The remarks with their letters."""
        return [
            rf"\textsuperscript{{{letter}}}{remark.translate(SPECIAL)}."
            for remark, letter in self.letters.items()
        ]


def _letter(number: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    more, last = divmod(number, 26)
    return (_letter(more - 1) if more else "") + chr(ord("a") + last)


def _head(title: str) -> str:
    """Return the name of a column, in lines of a word or two; p is a symbol."""
    words = title.translate(SPECIAL).split()
    told = [rf"${word}$" if word == "p" else word for word in words]
    if len(title) <= len("learning"):
        return f"{{{' '.join(told)}}}"
    if len(told) == 1:
        return f"{{{told[0]}}}"
    under = r" \\ ".join(" ".join(told).replace("/ ", "/~").split(" "))
    return rf"{{\shortstack{{{under}}}}}".replace("/~", "/ ")


def _kind(cells: Sequence[str]) -> str:
    """Return the kind of a column with these cells."""
    numbers = [one for cell in cells if (one := NUMBER.fullmatch(cell))]
    lines = [cell for cell in cells if cell == "-" or REFUSAL.fullmatch(cell)]
    if numbers and len(numbers) + len(lines) == len(cells):
        marks = any(one["remark"] or one["star"] for one in numbers)
        room = r", table-space-text-post = {\textsuperscript{a}}" if marks else ""
        return f"S[table-format={_form(numbers)}{room}]"
    if any(len(cell) > LONGEST for cell in cells):
        return rf">{{\raggedright\arraybackslash}}{WIDE}"
    return "r" if cells and all(re.match(r"[-+≈∞\d]", cell) for cell in cells) else "l"


def _cell(cell: str, kind: str, remarks: _Remarks) -> str:
    """Return a cell of a column of this kind."""
    if not kind.startswith("S"):
        return SIGNED.sub(r"$\g<0>$", cell.translate(SPECIAL))
    number = NUMBER.fullmatch(cell)
    return _number(number, remarks) if number else _line(cell, remarks)


def _form(numbers: Sequence[re.Match[str]]) -> str:
    """Return the room that numbers need, in siunitx's notation: +2.1(1)e-2."""
    sign = next((s for s in "+-" if any(n["sign"] == s for n in numbers)), "")
    whole = max(len(n["whole"]) for n in numbers)
    part = max(len(n["part"] or "") for n in numbers)
    form = f"{sign}{whole}" + (f".{part}" if part else "")
    if deviations := [n["deviation"].replace(".", "") for n in numbers if n["deviation"]]:
        form += f"({max(len(str(int(d))) for d in deviations)})"
    if powers := [str(int(n["power"])) for n in numbers if n["power"]]:
        minus = "-" if any(p.startswith("-") for p in powers) else ""
        form += f"e{minus}{max(len(p.lstrip('-')) for p in powers)}"
    return form


def _number(found: re.Match[str], remarks: _Remarks) -> str:
    told = found["sign"] + found["whole"] + (f".{found['part']}" if found["part"] else "")
    told += rf" \pm {found['deviation']}" if found["deviation"] else ""
    told += f"e{int(found['power'])}" if found["power"] else ""
    told += "{*}" if found["star"] else ""
    return told + (f"{{{remarks.letter(found['remark'])}}}" if found["remark"] else "")


def _line(cell: str, remarks: _Remarks) -> str:
    """Return what stands for no number, with the reason."""
    refusal = REFUSAL.fullmatch(cell)
    return f"{{--{remarks.letter(refusal['remark']) if refusal else ''}}}"
