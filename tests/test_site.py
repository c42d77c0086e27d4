"""The documentation: code runs, commands and links are there, and so is every public name."""

import doctest
import importlib
import inspect
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import baselines
import lfp_core
from baselines import METHODS
from benchmarks.models import ACTIVATIONS
from benchmarks.performance import trend
from benchmarks.storage.provenance import ROOT
from benchmarks.studies.plan import Plan
from docs_site import command_line, history, links, methods, notebooks, study_file
from lfp_core import operations, rewards, spiking

DOCS = ROOT / "docs"
#: Pages that are written by hand; the others are made by commands, or have no code.
PAGES = [
    ROOT / "README.md",
    *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "lfp_core/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
BLOCK = re.compile(r"^( *)```(?P<language>\w+)\n(?P<code>.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """Return the code of a language in a page."""
    found = BLOCK.finditer(page.read_text())
    return [inspect.cleandoc(f["code"]) for f in found if f["language"] == language]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# --- code -----------------------------------------------------------------------------------------


@pytest.fixture
def _as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what a page enters into the tables, and what it does to torch's random numbers."""
    tables: list[dict[Any, Any]] = [operations._rules, METHODS.own, ACTIVATIONS.own]
    before, state = [dict(table) for table in tables], torch.get_rng_state()
    monkeypatch.chdir(tmp_path)
    tracing = torch._dynamo.config.trace_autograd_ops
    yield
    torch._dynamo.config.trace_autograd_ops = tracing
    torch.set_rng_state(state)
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=named)
def test_the_code_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("page")  # for all blocks, which go on where the one before ended
    monkeypatch.setitem(sys.modules, "page", module)
    for number, code in enumerate(blocks(page, "python")):
        exec(compile(code, f"{named(page)}, block {number}", "exec"), module.__dict__)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "yaml")], ids=named)
def test_the_study_files_of_a_page_are_right(page: Path) -> None:
    for code in blocks(page, "yaml"):
        content = yaml.safe_load(code)
        if "sizes" in content:  # else it is a part of one
            plan = Plan.model_validate(content)
            for size in plan.sizes:
                assert plan.studies(size)


def test_no_page_has_code_of_a_language_that_nothing_checks() -> None:
    found = {f["language"] for page in PAGES for f in BLOCK.finditer(page.read_text())}
    assert found <= {"python", "yaml", "toml", "bash", "math"}
    assert len([page for page in PAGES if blocks(page, "python")]) > 10


# --- formulas -------------------------------------------------------------------------------------


def in_lines(page: Path) -> list[str]:
    """Return the formulas within lines of a page."""
    return re.findall(r"(?<!\\)\$([^$\n]+)\$", links.CODE.sub("", page.read_text()))


@pytest.fixture
def formulas() -> ModuleType:
    """Return the module that draws them, which needs a package of the extra `docs`."""
    pytest.importorskip("latex2mathml")
    return importlib.import_module("docs_site.formulas")


FORMULAS = {page: [*blocks(page, "math"), *in_lines(page)] for page in PAGES}


@pytest.mark.parametrize("page", [p for p in PAGES if FORMULAS[p]], ids=named)
def test_the_formulas_of_a_page_can_be_drawn(page: Path, formulas: ModuleType) -> None:
    for tex in FORMULAS[page]:
        formulas.mathml(tex)


@pytest.mark.parametrize("page", [p for p in PAGES if FORMULAS[p]], ids=named)
def test_the_formulas_of_a_page_are_read_alike_where_the_repository_is_shown(page: Path) -> None:
    text = links.CODE.sub("", page.read_text())
    assert "$$" not in text, "a block of the language math is never taken for Markdown"
    for tex in in_lines(page):
        assert tex == tex.strip(), f"${tex}$: a space beside the sign makes it a dollar"
        assert not re.search(r"\\[^A-Za-z]", tex), f"${tex}$: Markdown takes the backslash away"
    for tex in FORMULAS[page]:
        assert "operatorname" not in tex, f"{tex}: refused there; \\mathrm does the same"
    for row in re.findall(r"^\|.*", text, re.MULTILINE):
        cells = re.split(r"(?<!\\)\|", row)
        assert not any(cell.count("$") % 2 for cell in cells), f"{row}: a | ends the cell"


def test_what_is_no_formula_is_noticed(formulas: ModuleType) -> None:
    for tex, what in (
        (r"\frak{x}{y}\foo", "is not known"),
        (r"\frac{a", "a part of mfrac is missing"),
        (r"\begin{aligned} a &= b \end{aligned}", "is no XML"),
    ):
        with pytest.raises(ValueError, match=what):
            formulas.mathml(tex)
    drawn = formulas.drawn(r'<p><span class="arithmatex">\(a &lt; b\)</span></p>')
    assert drawn.startswith('<p><span class="arithmatex"><math ')
    assert drawn.endswith("</math></span></p>")
    assert "&#x0003C;" in drawn


# --- commands -------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each `lfp-bench ...` in a page, without what follows `#`, `;` or a quote.

    >>> list(commands("    lfp-bench run toy --size cpu   # hours\\n`lfp-bench data x`"))
    [['lfp-bench', 'run', 'toy', '--size', 'cpu'], ['lfp-bench', 'data', 'x']]
    """
    lines = text.replace("\\\n", " ")
    shown = re.findall(
        r"^(?: {4,}|exec )(?:\S*/)?(lfp-bench .*)$|`(lfp-bench [^`]*)`", lines, re.MULTILINE
    )
    for block, inline in shown:
        words = shlex.split(" ".join((block or inline).split()), comments=True)
        yield words[: words.index(";")] if ";" in words else words


def wrong(words: list[str], known: Mapping[str, set[str]]) -> list[str]:
    """Return what of a command there is not: the command itself, or options of it."""
    name = " ".join(words[:1])
    for word in words[1:]:
        if f"{name} {word}" not in known:
            break
        name = f"{name} {word}"
    rest = words[len(name.split()) :]
    if any(other.startswith(f"{name} ") for other in known) and re.match("[a-z]", " ".join(rest)):
        return rest[:1]
    given = [word.partition("=")[0] for word in rest if re.match(r"--\w", word)]
    everywhere = {*known["lfp-bench"], "--install-completion", "--show-completion"}
    return [option for option in given if option not in known[name] | everywhere]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_commands_of_a_page_are_there(page: Path) -> None:
    known = command_line.commands()
    for words in commands(page.read_text()):
        assert not wrong(words, known), f"{' '.join(words)}: {wrong(words, known)}"


def test_a_command_that_is_not_there_is_noticed() -> None:
    known = command_line.commands()
    assert wrong(["lfp-bench", "campare"], known) == ["campare"]
    assert wrong(["lfp-bench", "perf", "roof"], known) == ["roof"]
    assert wrong(["lfp-bench", "run", "toy", "--sise", "cpu"], known) == ["--sise"]
    assert not wrong(["lfp-bench", "perf", "gate", "v0.1.0"], known)
    assert sum(1 for page in PAGES for _ in commands(page.read_text())) > 40


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in links.links(page.read_text(), named(page)):
        made = {"docs/reports/all-methods.html", "docs/history.md"} | {
            f"docs/reference/{name}.md" for name in ("command-line", "methods", "study-file")
        }
        assert link.path in made or (ROOT / link.path).exists(), link.path
        if link.anchor and link.path.endswith(".md"):
            headings = re.findall(r"^#+ (.*)$", (ROOT / link.path).read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in headings}
            assert link.anchor[1:] in slugs, f"{link.path}{link.anchor}"


def test_the_examples_of_links_are_right() -> None:
    assert doctest.testmod(links) == (0, 3)


def test_links_into_the_repository_are_kept_in_the_site() -> None:
    text = "[a](../../ARCHITECTURE.md#words) `[b](c.md)` ![d](../../benchmarks/stored/e.png)"
    assert links.rewritten(text, "docs/how/a.md") == (
        "[a](../architecture.md#words) `[b](c.md)` ![d](../repository/benchmarks/stored/e.png)"
    )
    with pytest.raises(FileNotFoundError, match=r"docs/a\.md links to examples/none\.py"):
        links.linked({"docs/a.md": "[a](../examples/none.py)"})
    found = links.linked({"docs/a.md": "[a](../examples/cuda_graph.py), [b](https://c.d/e)"})
    assert found == {"examples/cuda_graph.py"}


# --- reference ------------------------------------------------------------------------------------


def public() -> Iterator[tuple[str, Any]]:
    """Yield the public names of the engine and of the methods' protocol, with what they are."""
    for module, names in (
        (lfp_core, [n for n in lfp_core.__all__ if not n.startswith("__")]),
        (rewards, _own(rewards)),
        (spiking, _own(spiking)),
        (baselines, list(baselines.__all__)),
    ):
        for name in names:
            item = getattr(module, name)
            if not isinstance(item, ModuleType):
                yield f"{module.__name__}.{name}", item


def _own(module: ModuleType) -> list[str]:
    """Return the names of the functions and classes that a module makes for others."""
    return [
        name
        for name, item in vars(module).items()
        if not name.startswith("_") and getattr(item, "__module__", "") == module.__name__
        if inspect.isclass(item) or inspect.isfunction(item)
    ]


def test_every_public_name_is_in_the_reference() -> None:
    reference = "\n".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))
    described = {*re.findall(r"^::: (\S+)$", reference, re.MULTILINE)}
    described |= {*re.findall(r"^\| `(\S+)` \|", reference, re.MULTILINE)}
    assert {name for name, _ in public()} <= described


@pytest.mark.parametrize("name", sorted(name for name, _ in public()))
def test_a_public_name_is_documented(name: str) -> None:
    item = dict(public())[name]
    if inspect.isclass(item) or inspect.isfunction(item):
        assert inspect.getdoc(item)
        assert item.__doc__, "and not by what it inherits from"


def test_pages_that_are_made_have_all_of_what_they_are_made_of() -> None:
    page, known = command_line.page(), command_line.commands()
    leaves = [n for n in known if not any(other.startswith(f"{n} ") for other in known)]
    assert len(leaves) > 20
    for name in leaves:
        assert f"\n## {name}\n" in page
    assert str(ROOT) not in page, "the machine that made the page is nobody's concern"
    assert "Raises:" not in page
    ratios = history.page()
    for title in trend.TITLES.values():
        assert f"\n### {title}" in ratios or "Launched" in title, "these need a GPU"
    assert "\n### Time, by network (device cpu, batch 16)\n" in ratios
    assert re.search(r"\| lenet \|( \d\.\d\d \|){8}", ratios)
    days = re.findall(r"\d{4}-\d\d-\d\d", ratios.partition("| lenet |")[0])
    assert days == sorted(days, reverse=True), "the newest first"
    assert len(notebooks.NOTEBOOKS) == 2
    for path in notebooks.NOTEBOOKS.values():
        assert notebooks.page(path).startswith("# ")
        assert "data:image/png;base64," in notebooks.page(path)
    for method in METHODS:
        assert f"\n| `{method}` |" in methods.page()
    keys = study_file.page()
    for key in (*Plan.model_fields, "epsilon", "trials", "particles", "from_scratch"):
        assert f"| `{key}` |" in keys
    assert not re.findall(r"^\|.*\|  \|$", keys, re.MULTILINE), "each says what it is"
    assert ":`" not in keys, "a reader knows no roles"


def test_a_picture_leads_to_its_file_and_one_within_the_page_to_nothing() -> None:
    picture, within = '<img alt="a" src="../b/figure.png" />', '<img src="data:image/png;base64,A">'
    found = links.enlarged(f"<p>{picture}{within}</p>")
    assert found == f'<p><a href="../b/figure.png">{picture}</a>{within}</p>'
