"""A table in LaTeX: booktabs rules, siunitx columns, and no wider than the text.

What is no number stands in braces, which siunitx leaves as it is. Remarks behind numbers become
letters that a note below the table explains, and a table of many rows becomes several.
"""

import re
from collections.abc import Sequence

from benchmarks.rendering.text import Lines

#: What the document that inputs the tables has to have in its preamble.
PREAMBLE = "% \\usepackage{booktabs, siunitx, adjustbox}\n"
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
MOST_ROWS = 45  # of a float, which does not break between pages
LONGEST = 18  # characters of a cell of words on one line
WIDE = "7em"  # of a column with longer ones


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
    pieces = _pieces(rows, written) or [[]]
    below = [*remarks.told, *(note.translate(SPECIAL) for note in notes)]
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
            r"\sisetup{separate-uncertainty = true, retain-explicit-plus = true}",
            r"\begin{adjustbox}{max width=\linewidth}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{adjustbox}",
            *([r"\par\smallskip " + " ".join(notes)] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def _pieces(rows: Sequence[Sequence[str]], written: Sequence[str]) -> list[list[str]]:
    """Return the rows of each float, which ends with a group of rows where it can.

    A group has the same first cell. Groups are set apart where one of them has several rows.
    """
    firsts = [row[0] for row in rows]
    groups = [list[str]()]
    for i, line in enumerate(written):
        if i and firsts[i] != firsts[i - 1]:
            groups.append([])
        groups[-1].append(line)
    apart = [r"\addlinespace"] if len(groups) < len(written) else []
    found = list[list[str]]()
    for group in groups:
        for start in range(0, len(group), MOST_ROWS):
            part = group[start : start + MOST_ROWS]
            if found and len(found[-1]) + len(part) <= MOST_ROWS:
                found[-1] += [*apart, *part]
            elif part:
                found.append(part)
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
        return f"S[table-format={_form(numbers)}]"
    if any(len(cell) > LONGEST for cell in cells):
        return rf">{{\raggedright\arraybackslash}}p{{{WIDE}}}"
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
