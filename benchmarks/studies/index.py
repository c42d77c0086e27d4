"""A page on several reports: which studies there are, and what each of them found."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.rendering.document import Document, Table, rendered
from benchmarks.rendering.text import counted, in_bytes
from benchmarks.storage.files import remove_leftovers, write
from benchmarks.studies.collect import Collection
from benchmarks.studies.page import INDEX, TITLE, link_to, report, write_document

MOST = 3  # parts of a study of which the page has the verdict


def write_pages(collections: Sequence[Collection], results: Path) -> tuple[Path, list[list[Path]]]:
    """Write the reports of studies, and the page on all of them, which lead to each other.

    Args:
        collections: the studies, in folders of `results`.
        results: where the page on all of them is.

    Returns:
        That page, and the paths of each report, its page first.

    Raises:
        StoreError: no run of a study is stored, or a file is not readable.
    """
    documents = {one.folder: report(one) for one in collections}
    index = results / INDEX
    remove_leftovers(results, below=False)
    write(index, in_bytes(page(documents)))
    return index, [write_document(one, folder) for folder, one in documents.items()]


def page(documents: dict[Path, Document]) -> str:
    """Return the page on reports, by the folders of their studies."""
    rows = [
        (
            folder.name,
            one.title.removeprefix(TITLE.format("")),
            dict(one.facts).get("Parts", "-"),
            verdict(one),
        )
        for folder, one in documents.items()
    ]
    header = ("study", "title", "parts", "verdict")
    frame = pd.DataFrame(rows, columns=list(header))
    table = Table("reports", "Studies, each with a report", (header, rows), frame)
    content = {"title": "Reports", "table": table, "links": {f.name: link_to(f) for f in documents}}
    return rendered("index.html", document=content)


def verdict(one: Document) -> str:
    """Return what a study found: the verdicts of its parts, of the first ones if there are many."""
    told = [
        f"{chapter.title}: {chapter.verdict}" if len(one.chapters) > 1 else chapter.verdict
        for chapter in one.chapters
        if chapter.verdict
    ]
    more = [f"And {counted(len(told) - MOST, 'more part')}."] if len(told) > MOST else []
    return " ".join([*told[:MOST], *more]) or "-"
