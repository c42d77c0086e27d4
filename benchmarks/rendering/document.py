"""A report as data, and as one HTML page, Markdown, LaTeX and CSV files of the same tables."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader

from benchmarks.rendering import text
from benchmarks.rendering.text import Lines

#: What is special in LaTeX, or missing from its fonts.
LATEX = str.maketrans(
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
    }
)
#: How a cell with a number begins; a line stands for none.
NUMBER = re.compile(r"-$|- \(|(≈ ?)?[+-]?(∞|\d+(\.\d+)?(e[+-]?\d+)?)(?!\w)")
MEDIA = {"svg": "image/svg+xml", "png": "image/png"}


@dataclass(frozen=True)
class Table:
    """A table as text, and the numbers it was made of.

    Attributes:
        name: of its files, of letters, digits and hyphens.
        caption: one line.
        lines: header and rows as text.
        frame: the numbers, for CSV.
        notes: what a reader has to know.
        heat: for each cell a number in [0, 1] that it is coloured by, or None.
        shown: the columns that a terminal shows at first; None for all.
    """

    name: str
    caption: str
    lines: Lines
    frame: pd.DataFrame
    notes: Sequence[str] = ()
    heat: Sequence[Sequence[float | None]] | None = None
    shown: Sequence[str] | None = None

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers."""
        header, rows = self.lines
        return [
            any(row[i] != "-" for row in rows) and all(NUMBER.match(row[i]) for row in rows)
            for i in range(len(header))
        ]


@dataclass(frozen=True)
class Figure:
    """An image, and what it shows, in words for those who do not see it.

    Attributes:
        caption: what it shows.
        draw: returns the image; called when the image is first asked for.
        media: what kind of image that is.
        name: of its file.
    """

    caption: str
    draw: Callable[[], bytes]
    media: str = "svg"
    name: str = "figure"

    @cached_property
    def image(self) -> bytes:
        """The content of its file."""
        return self.draw()

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return f"data:{MEDIA[self.media]};base64,{b64encode(self.image).decode()}"


@dataclass(frozen=True)
class Section:
    """Text, tables and figures under one heading.

    Attributes:
        title: the heading.
        text: paragraphs.
        tables: each with a name that no other table of the study has.
        figures: below the tables.
        folded: shows the heading alone at first.
        detail: belongs to the page alone; of its tables there are CSV files nevertheless.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    folded: bool = False
    detail: bool = False


@dataclass(frozen=True)
class Chapter:
    """Sections on one part of a study; `name` begins the names of its files."""

    name: str
    title: str
    text: Sequence[str]
    sections: Sequence[Section]


@dataclass(frozen=True)
class Document:
    """A report; `facts` are names and values, above everything else."""

    title: str
    text: Sequence[str]
    facts: Sequence[tuple[str, str]]
    chapters: Sequence[Chapter] = field(default_factory=tuple)

    @property
    def tables(self) -> Iterator[tuple[str, Chapter, Table]]:
        """All tables, each with a name of its own."""
        for chapter in self.chapters:
            for section in chapter.sections:
                for one in section.tables:
                    yield "-".join(filter(None, (chapter.name, one.name))), chapter, one


def html(document: Document) -> str:
    """Return a page that needs nothing but itself."""
    environment = Environment(
        loader=PackageLoader("benchmarks.rendering"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(document=document)


def markdown(document: Document) -> str:
    """Return text and tables; figures are on the page alone."""
    blocks = [
        f"# {document.title}",
        *document.text,
        *(f"- {name}: {value}" for name, value in document.facts),
    ]
    for chapter in document.chapters:
        blocks += [f"## {chapter.title}", *chapter.text]
        for section in chapter.sections:
            if section.text or section.tables:
                blocks += [f"### {section.title}", *section.text]
            for one in section.tables:
                blocks += [f"**{one.caption}**", text.document(one.lines, one.notes).strip()]
    return "\n\n".join(blocks) + "\n"


def latex(document: Document) -> str:
    """Return all tables as floats to `input`, which need the package booktabs."""
    return "\n".join(
        _latex(name, f"{chapter.title}: {one.caption}" if chapter.title else one.caption, one)
        for name, chapter, one in document.tables
    )


def _latex(name: str, caption: str, one: Table) -> str:
    header, *rows = (
        " & ".join(cell.translate(LATEX) for cell in row) + r" \\"
        for row in (one.lines[0], *one.lines[1])
    )
    columns = "".join("r" if numeric else "l" for numeric in one.numeric)
    notes = " ".join(note.translate(LATEX) for note in one.notes)
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{caption.translate(LATEX)}}}",
            rf"\label{{tab:{name}}}",
            r"\centering",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            header,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\par\footnotesize " + notes] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def files(document: Document) -> dict[Path, bytes]:
    """Return the content of all files of the report, by their paths in its folder."""
    return {
        Path("report.html"): html(document).encode(),
        Path("report.md"): markdown(document).encode(),
        Path("report.tex"): latex(document).encode(),
        **{
            Path("tables", f"{name}.csv"): one.frame.to_csv(index=False).encode()
            for name, _, one in document.tables
        },
    }


def without_figures(section: Section) -> Section:
    """Return the section with its text and tables alone."""
    return replace(section, figures=())


def part_files(sections: Sequence[Section], remarks: Sequence[str]) -> dict[Path, bytes]:
    """Return the files of one part of a study: ``table.md``, figures, and tables as CSV.

    The remarks are for all tables, and stand below the first one.
    """
    main = [section for section in sections if not section.detail]
    tables = [one for section in main for one in section.tables]
    blocks = [
        f"# {one.caption}\n\n{text.document(one.lines, [*one.notes, *more])}"
        for one, more in zip(tables, [remarks, *[()] * len(tables)], strict=False)
    ]
    figures = [one for section in main for one in section.figures]
    return {
        Path("table.md"): "\n".join(blocks).encode(),
        **{Path(f"{one.name}.{one.media}"): one.image for one in figures},
        **{
            Path(f"{one.name}.csv"): one.frame.to_csv(index=False).encode()
            for section in sections
            for one in section.tables
        },
    }
