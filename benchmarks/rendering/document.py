"""A report as data, and as one HTML page, Markdown, LaTeX and CSV files of the same tables."""

import gzip
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from benchmarks.rendering import latex as tex
from benchmarks.rendering import text
from benchmarks.rendering.inline import inline
from benchmarks.rendering.text import Lines

#: How a cell with a number begins; a line stands for none.
NUMBER = re.compile(r"-$|- \(|(≈ ?)?[+-]?(∞|\d+(\.\d+)?(e[+-]?\d+)?)(?!\w)")
#: Title of the section that says first what was found; its first paragraph is the shortest form.
VERDICT = "Verdict"
#: Title of what says where the numbers come from.
MADE = "How it was made"
#: Bytes of a CSV file that is not compressed within a page.
PLAIN = 100_000


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

    @property
    def names(self) -> int:
        """How many columns, from the first one on, say what a row is of."""
        return next((i for i, numeric in enumerate(self.numeric) if numeric), len(self.numeric))

    @property
    def said(self) -> "Table":
        """The table without columns that have a line in every row."""
        kept = text.said(self.lines)
        at = [i for i, name in enumerate(self.lines[0]) if name in kept[0]]
        heat = self.heat and [[row[i] for i in at] for row in self.heat]
        return replace(self, lines=kept, heat=heat)

    @property
    def first(self) -> "Table":
        """The table with the columns alone that are shown at first."""
        return replace(self, lines=text.selected(self.lines, self.shown), heat=None)

    @property
    def csv(self) -> bytes:
        """The numbers in full, as a file."""
        return self.frame.to_csv(index=False).encode()

    @property
    def download(self) -> tuple[str, str]:
        """The ending of that file on a page, and the file as a link; a large one is compressed."""
        if len(self.csv) <= PLAIN:
            return "csv", data_uri(self.csv, "text/csv")
        return "csv.gz", data_uri(gzip.compress(self.csv, mtime=0), "application/gzip")


@dataclass(frozen=True)
class Figure:
    """An image, and what it shows, in words for those who do not see it.

    Attributes:
        caption: what it shows.
        draw: returns the image; called when the image is first asked for.
        media: what kind of image that is, svg or png.
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

    def element(self, prefix: str) -> Markup:
        """Return the image as an element of a page; names within it begin with the prefix."""
        if self.media == "svg":
            return inline(self.image, prefix, self.caption)
        uri = data_uri(self.image, "image/png")
        return Markup('<img src="{}" alt="{}">').format(uri, self.caption)


def data_uri(content: bytes, media: str) -> str:
    """Return a file as a link that holds it."""
    return f"data:{media};base64,{b64encode(content).decode()}"


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
        points: a list below the first paragraph: names, and what is said of each.
        folded_text: paragraphs below all others, which a reader has to unfold.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    folded: bool = False
    detail: bool = False
    points: Sequence[tuple[str, str]] = ()
    folded_text: Sequence[str] = ()

    @property
    def verdict(self) -> bool:
        """Whether it says first what was found."""
        return self.title == VERDICT


@dataclass(frozen=True)
class Chapter:
    """Sections on one part of a study.

    Attributes:
        name: begins the names of its files.
        title: the heading.
        text: paragraphs.
        sections: the first may be the verdict.
        links: what cells of tables lead to, by their text: files, relative to the page.
    """

    name: str
    title: str
    text: Sequence[str]
    sections: Sequence[Section]
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The verdict in its shortest form; empty if there is none."""
        return next((s.text[0] for s in self.sections if s.verdict and s.text), "")

    def name_of(self, table: Table) -> str:
        """Return the name of a table's files, which no other one of the report has."""
        return "-".join(filter(None, (self.name, table.name)))


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: the heading.
        text: paragraphs.
        facts: names and values that say how it was made, below everything else.
        chapters: one for each part of the study.
        index: where the page on several reports is, relative to this one; empty if there is none.
    """

    title: str
    text: Sequence[str]
    facts: Sequence[tuple[str, str]]
    chapters: Sequence[Chapter] = field(default_factory=tuple)
    index: str = ""

    @property
    def tables(self) -> Iterator[tuple[str, Chapter, Table]]:
        """All tables, each with a name of its own."""
        for chapter in self.chapters:
            for section in chapter.sections:
                for one in section.tables:
                    yield chapter.name_of(one), chapter, one


def rendered(template: str, **content: Any) -> str:
    """Return a page that needs nothing but itself."""
    environment = Environment(
        loader=PackageLoader("benchmarks.rendering"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)


def html(document: Document) -> str:
    """Return the page, which holds its figures and downloads."""
    downloads = [
        ("report.md", data_uri(text.in_bytes(markdown(document)), "text/markdown")),
        ("report.tex", data_uri(text.in_bytes(latex(document)), "application/x-tex")),
    ]
    return rendered("report.html", document=document, downloads=downloads, made=MADE)


def markdown(document: Document) -> str:
    """Return text and tables; figures are on the page alone."""
    blocks = [f"# {document.title}", *document.text]
    if len(document.chapters) > 1:
        told = [f"- {one.title}: {one.verdict}" for one in document.chapters if one.verdict]
        blocks += ["\n".join(told)] if told else []
    for chapter in document.chapters:
        blocks += [f"## {chapter.title}", *chapter.text]
        for section in chapter.sections:
            if section.text or section.tables:
                points = "\n".join(f"- {name}: {told}" for name, told in section.points)
                told = [*section.text[:1], *filter(None, [points]), *section.text[1:]]
                blocks += [f"### {section.title}", *told, *section.folded_text]
            for one in section.tables:
                lines = text.said(one.lines)
                blocks += [f"**{one.caption}**", text.document(lines, one.notes).strip()]
    if document.facts:
        blocks += [f"## {MADE}", *(f"{name}: {value}" for name, value in document.facts)]
    return "\n\n".join(blocks) + "\n"


def latex(document: Document) -> str:
    """Return tables as floats to `input`, with the columns that are shown at first.

    Tables of folded sections are long lists, and stay where they are.
    """
    short = [
        replace(chapter, sections=[s for s in chapter.sections if not s.folded])
        for chapter in document.chapters
    ]
    found = [
        tex.table(
            name,
            f"{chapter.title}: {one.caption}" if chapter.title else one.caption,
            one.first.said.lines,
            one.notes,
        )
        for name, chapter, one in replace(document, chapters=short).tables
    ]
    return "\n".join([tex.PREAMBLE, *found])


def files(document: Document) -> dict[Path, bytes]:
    """Return the content of all files of the report, by their paths in its folder."""
    return {
        Path("report.html"): text.in_bytes(html(document)),
        Path("report.md"): text.in_bytes(markdown(document)),
        Path("report.tex"): text.in_bytes(latex(document)),
        **{Path("tables", f"{name}.csv"): one.csv for name, _, one in document.tables},
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
        Path("table.md"): text.in_bytes("\n".join(blocks)),
        **{Path(f"{one.name}.{one.media}"): one.image for one in figures},
        **{Path(f"{one.name}.csv"): one.csv for section in sections for one in section.tables},
    }
