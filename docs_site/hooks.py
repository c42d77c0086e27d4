"""What mkdocs calls while it builds the site: pages made of the code, and of the repository.

The site has, besides the pages in docs: the command line and the study file, as the code has them;
the notebooks; the history of ratios; README, ARCHITECTURE and the like; every file that a page
links to, such as the tables of stored results; and the report of the study that the README quotes.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs_site import command_line, formulas, history, links, methods, notebooks, study_file

REPORTED = "all-methods"
#: A role of docstrings, like :class:`~lfp_core.feedback`, as Markdown leaves it.
ROLE = re.compile(r":(?:class|func|mod|meth|attr|data|exc):<code>~?([^<]+)</code>")
DRAWING = re.compile(r'<img [^>]*src="(?P<name>[\w-]+\.svg)"[^>]*/?>')
#: What gives a drawing its colour where it is shown by itself.
STYLE = re.compile(r"<style>.*?</style>", re.DOTALL)
_command = "build"


def on_startup(command: str, dirty: bool) -> None:
    """Note what mkdocs is to do: a site that is only served while it is written has no report."""
    global _command  # noqa: PLW0603  (mkdocs has no other place for it)
    _command = command


def on_files(files: Files, config: Any) -> Files:
    """Add what is not in docs."""
    made = {
        "reference/command-line.md": command_line.page(),
        "reference/study-file.md": study_file.page(),
        "reference/methods.md": methods.page(),
        "history.md": history.page(),
        **{name: notebooks.page(path) for name, path in notebooks.NOTEBOOKS.items()},
    }
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    sources = {
        f"docs/{file.src_uri}": file.content_string
        for file in files
        if file.is_documentation_page()
    }
    pages = {name: (links.ROOT / name).read_text() for name in links.PAGES}
    for path in {*pages, *links.linked({**sources, **pages})}:
        name, file = links.place(path), str(links.ROOT / path)
        files.append(File.generated(config, name, abs_src_path=file))
    if _command == "build":
        files.append(File.generated(config, f"reports/{REPORTED}.html", content=report()))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Let links into the repository lead to what the site has of it."""
    return links.rewritten(markdown, source_of(page.file.src_uri))


def on_page_content(html: str, page: Page, config: Any, files: Files) -> str:
    """Draw formulas, make links of roles in docstrings and of pictures, and end no line in `::`."""
    named = r'<autoref identifier="\1" optional><code>\1</code></autoref>'
    html = ROLE.sub(named, html).replace("::</p>", ":</p>")
    html = formulas.drawn(links.enlarged(html))
    return DRAWING.sub(lambda found: drawing(found["name"], page.file.src_uri), html)


def drawing(name: str, page: str) -> str:
    """Return a drawing as a part of its page, whose colour of text it has, in the dark too."""
    text = (links.ROOT / links.DOCS / page).with_name(name).read_text()
    return STYLE.sub("", text)


def source_of(page: str) -> str:
    """Return the path in the repository of what a page is made of."""
    roots = {there: path for path, there in links.PAGES.items()}
    if page in roots:
        return roots[page]
    before = f"{links.ELSEWHERE}/"
    return page.removeprefix(before) if page.startswith(before) else f"docs/{page}"


def report() -> str:
    """Return the report of the study that the README quotes, made of what is stored."""
    study = f"{REPORTED}-cpu"
    with TemporaryDirectory() as folder:
        shutil.copytree(links.ROOT / "benchmarks" / "stored" / study, Path(folder, study))
        command = [sys.executable, "-m", "lfp_bench", "report", REPORTED, "--size", "cpu"]
        subprocess.run([*command, "--results", folder], check=True, cwd=links.ROOT)
        return Path(folder, study, "report.html").read_text()
