"""The report of a study: its numbers are the runs', it is escaped, and a browser shows it."""

import gzip
import json
import re
import shutil
import subprocess
from base64 import b64decode
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes
from typer.testing import CliRunner

from baselines import METHODS, REWARDS, LFPSettings
from benchmarks.cli import app
from benchmarks.data import DATASETS
from benchmarks.experiments.comparison import Comparison, Options, panels
from benchmarks.experiments.comparison import summary as table
from benchmarks.experiments.comparison.choosing import outcome as found_of
from benchmarks.experiments.comparison.published import EXPERIMENTS, published
from benchmarks.experiments.comparison.study import Outcome
from benchmarks.models import ACTIVATIONS, MODELS
from benchmarks.rendering import panels as panels_module
from benchmarks.rendering.document import (
    Chapter,
    Document,
    Figure,
    Section,
    Table,
    html,
    latex,
    markdown,
)
from benchmarks.rendering.inline import inline, of_line
from benchmarks.rendering.latex import PREAMBLE
from benchmarks.runs.store import Store
from benchmarks.storage.files import write_json
from benchmarks.storage.schema import versioned
from benchmarks.studies.collect import find
from benchmarks.studies.page import report, write_page
from tests.markdown import parse
from tests.studies import carry_out

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_costs")]

OPTIONS = Options(
    dataset="blobs",
    model="toy-mlp",
    methods=["lfp", "sgd"],
    activations=["relu", "lif"],
    seeds=3,
    epochs=2,
    batch_size=256,
    clip_norm=0,  # type: ignore[call-arg]
    time_steps=2,
    learning_rates=[0.01, 0.1],
    learning_rate={"sgd": 1e20},  # diverges
    sweep_epochs=1,
    sweep_seeds=1,
)
STUDY = OPTIONS.study()
PLAN = """
title: Blobs <b>& circles</b>
source: here
common: {model: toy-mlp, methods: [lfp, sgd], activations: [relu]}
parts: {blobs: {dataset: blobs}}
grid: {epsilon: [0.01, 0.1], batch_size: [256, 512]}
sizes:
  smoke: {seeds: 2, epochs: 1, learning_rate: {lfp: 0.1, sgd: 0.1}}
"""


def make(options: Options, folder: Path) -> Outcome:
    """Carry out a study, as `compare` does."""
    outcome = carry_out(options.study(), folder)
    describe(options, folder)
    return outcome


def describe(options: Options, folder: Path) -> None:
    """Write what the study is."""
    described = {"experiment": "comparison", "options": options.model_dump(mode="json")}
    write_json(folder / "study.json", versioned({**described, "command": "lfp-bench <compare>"}))


Rows = dict[str, list[list[str]]]  # of every table, the header first


class Tables(HTMLParser):
    """Reads the tables of a page by their names: headers and cells as text."""

    def __init__(self, page: str) -> None:
        """Read the page."""
        super().__init__()
        self.tables: Rows = {}
        self.tags: list[str] = []
        self.cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a table, a row or a cell."""
        self.tags.append(tag)
        if tag == "table":
            self.rows = self.tables.setdefault(str(dict(attrs)["data-name"]), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        self.cell = self.cell and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        """Add to a cell."""
        if self.cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, quick_costs: None) -> Path:
    """A folder with the study `one`, and three of four parts of the study `grid`."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "grid.yaml").write_text(PLAN)
    make(OPTIONS, folder / "one")
    rates = {"lfp": 0.1, "sgd": 0.1}
    shared = {"activations": ["relu"], "seeds": 2, "epochs": 1, "learning_rate": rates}
    for epsilon, batch_size in [(0.01, 256), (0.01, 512), (0.1, 256)]:
        own = {"epsilon": epsilon, "batch_size": batch_size}
        part = Options.model_validate({**OPTIONS.model_dump(), **shared, **own})
        name = f"blobs-epsilon-{epsilon}-batch_size-{batch_size}"
        make(part, folder / "grid-smoke" / name)
    return folder


@pytest.fixture(scope="module")
def outcome(results: Path) -> Outcome:
    return carry_out(STUDY, results / "one")


@pytest.fixture(scope="module")
def document(results: Path) -> Document:
    return report(find("one", None, results))


@pytest.fixture(scope="module")
def tables(document: Document) -> Rows:
    return Tables(html(document)).tables


@pytest.fixture
def mine(results: Path, tmp_path: Path) -> Path:
    """A copy of the study `one` to change."""
    shutil.copytree(results / "one", tmp_path / "one")
    return tmp_path


def test_every_number_of_the_table_is_the_summarys(tables: Rows, outcome: Outcome) -> None:
    header, *lines = tables["results"]
    expected_header, expected = table.lines(table.summarise(outcome))
    assert (header[:3], header[3], header[4:]) == (
        list(expected_header[:3]),
        "published %",
        list(expected_header[3:]),
    )
    assert [[*line[:3], *line[4:]] for line in lines] == [list(row) for row in expected]
    assert [line[3] for line in lines] == ["100 [1]", "100 [1]", "-", "-"]


def test_the_numbers_are_those_of_the_run_files(tables: Rows, results: Path) -> None:
    files = (results / "one" / "runs").glob("*.json")
    records = {path.stem.partition("-")[0]: json.loads(path.read_text()) for path in files}
    of_final = {name: r for name, r in records.items() if r["run"]["kind"] == "final"}
    finals = of_final.values()
    assert len(finals) == 3 * 3, "sgd does not go with lif"
    for line in tables["results"][1:]:
        of_line = [r for r in finals if [r["run"]["activation"], r["run"]["method"]] == line[:2]]
        values = [
            100 * next(e["test"] for e in reversed(r["history"]) if e["test"]) for r in of_line
        ]
        if values:
            assert line[2].startswith(f"{mean(values):.1f} ± {stdev(values):.1f}")
        else:
            assert line[2] == "- (a spike has no derivative)"
    assert {row[5] for row in tables["runs"][1:]} == set(of_final)


def collected(results: Path) -> Outcome:
    """Return what is stored of the study `one`."""
    return found_of(STUDY, find("one", None, results).parts[0].found)


def test_what_is_collected_is_what_was_carried_out(results: Path, outcome: Outcome) -> None:
    found = collected(results)
    assert found.results == outcome.results
    assert (found.choices, found.costs) == (outcome.choices, outcome.costs)


def test_diverged_runs_are_in_the_map_with_their_reasons(tables: Rows) -> None:
    assert tables["divergence"] == [
        ["activation", "lfp", "sgd"],
        ["relu", "0/3", "3/3"],
        ["lif", "0/3", "-"],
    ]
    (line,) = tables["diverged"][1:]
    assert line[:5] == ["relu", "sgd", "final", "1e+20", "3/3"]
    assert "the loss is" in line[-1]


def test_sections_are_all_there_and_figures_have_words(document: Document) -> None:
    (chapter,) = document.chapters
    assert [section.title for section in chapter.sections] == [
        *("Verdict", "Results", "Paired statistics", "Learning curves", "Accuracy and time"),
        *("Decision boundaries", "Sparsity", "Histograms", "Divergence", "Every run"),
    ]
    figures = [figure for section in chapter.sections for figure in section.figures]
    assert len(figures) == 1 + 2 + 1 + 1 + 2
    for figure in figures:
        assert len(figure.caption) > 20
        assert b"<svg" in figure.image or figure.image.startswith(b"\x89PNG")


def test_the_same_runs_give_the_same_figure(outcome: Outcome) -> None:
    final = [s.result for s in outcome.results if s.result.run.kind == "final"]
    assert panels.accuracies(final) == panels.accuracies(final) != panels.losses(final)


def test_a_grid_has_a_matrix_of_its_accuracies(results: Path) -> None:
    collection = find(str(results / "grid.yaml"), "smoke", results)
    document = report(collection)
    assert dict(document.facts)["Parts"] == "3 of 4 with results"
    assert document.chapters[-1].text == ["Not begun."]
    ((header, *lines),) = [t for name, t in Tables(html(document)).tables.items() if name == "grid"]
    assert header == [
        *("part", "activation", "method", "epsilon", "batch_size = 256", "batch_size = 512")
    ]
    assert [line[:4] for line in lines] == [
        ["blobs", "relu", method, epsilon]
        for epsilon in ("0.01", "0.1")
        for method in ("lfp", "sgd")
    ]
    cells = {
        (line[2], line[3], size): cell
        for line in lines
        for size, cell in zip((256, 512), line[4:], strict=True)
    }
    for part in collection.parts[:3]:
        assert part.description is not None
        study = part.description.options.study()  # type: ignore[attr-defined]
        for row in table.summarise(found_of(study, part.found)).to_dict("records"):
            cell = cells[
                row["method"],
                f"{LFPSettings.of(study.settings['lfp']).epsilon:g}",
                study.batch_size,
            ]
            mean_, std = row["test_accuracy_mean"], row["test_accuracy_std"]
            assert cell == f"{100 * mean_:.1f} ± {100 * std:.1f}"
    assert cells["lfp", "0.1", 512] == "-"


def test_what_is_partly_done_says_so(mine: Path) -> None:
    store = Store(mine / "one", Comparison().code)
    of_lif = [s.result.run for s in store.all() if s.result.run.activation == "lif"]
    sgd = [s.result.run for s in store.all() if s.result.run.method == "sgd"]
    for run in (*of_lif, sgd[0]):
        store.path(run).unlink()
    document = report(find("one", None, mine))
    made = STUDY.runs - len(of_lif) - 1
    assert f"Only partly done: {made} of {STUDY.runs} runs" in document.chapters[0].text[0]
    lines = Tables(html(document)).tables["results"][1:]
    assert lines[1][2].endswith("(2 of 3 seeds)")
    assert lines[2][2] == "- (not made yet)"
    header, paired = Tables(html(document)).tables["paired"]
    assert header == ["activation", "method", "difference"]
    assert paired == ["relu", "sgd", paired[2]], "two pairs allow no test, and no interval"


def test_of_several_versions_of_the_code_the_latest_counts_and_it_is_told(mine: Path) -> None:
    store = Store(mine / "one", Comparison().code)
    stored = store.all()[0]
    path = store.path(stored.result.run)
    other = json.loads(path.read_text())
    other["environment"] |= {"code": "another", "date": "2000-01-01T00:00:00+00:00"}
    write_json(path.with_name(f"{stored.result.run.id}-another.json"), other)
    assert report(find("one", None, mine)).chapters[0].text == []
    other["environment"]["date"] = "2999-01-01T00:00:00+00:00"
    write_json(path.with_name(f"{stored.result.run.id}-another.json"), other)
    (text,) = report(find("one", None, mine)).chapters[0].text
    assert "made with 2 versions of the code" in text


def test_runs_from_before_are_reported_without_what_they_lack(mine: Path) -> None:
    for path in (mine / "one" / "runs").glob("*.json"):
        record = json.loads(path.read_text())
        del record["inspection"]
        for epoch in record["history"]:
            del epoch["seconds"]
        write_json(path, record)
    (chapter,) = report(find("one", None, mine)).chapters
    titles = [section.title for section in chapter.sections]
    assert "Sparsity" not in titles
    (time,) = [s for s in chapter.sections if s.title == "Accuracy and time"]
    assert "do not have it" in time.text[0]


def test_published_numbers_are_of_what_there_is() -> None:
    for experiment in EXPERIMENTS:
        assert experiment.dataset in DATASETS
        assert experiment.model in MODELS
        assert experiment.reward in REWARDS
        assert experiment.caveats.endswith(".")
        for (activation, method), accuracy in experiment.accuracies.items():
            assert activation in ACTIVATIONS
            assert method in METHODS
            assert 0 < accuracy <= 1
    accuracy, experiment = published("mnist", "mlp", "softmax")["relu", "lfp"]
    assert (accuracy, experiment.obtained) == (0.91, "digitised")
    assert published("digits", "mlp", "softmax") == {}
    assert published("blobs", "toy-mlp", "misclassification")["relu", "lfp"][0] == 0.978
    assert ("relu", "lfp") not in published("blobs", "toy-mlp", "sigmoid")
    assert ("relu", "sgd") in published("blobs", "toy-mlp", "sigmoid"), "it has no reward"
    cells = [(e.dataset, e.model, e.reward, cell) for e in EXPERIMENTS for cell in e.accuracies]
    assert len(cells) == len(set(cells)), "no number hides another"


# --- the formats ----------------------------------------------------------------------------------

HOSTILE = """<script>alert("1")</script> & 50% of a_b #1 $x$ {y} ~z^2 \\w |w| 'q' ± ∞"""
EVIL = Document(
    HOSTILE,
    [HOSTILE],
    [("Command", HOSTILE)],
    [
        Chapter(
            "evil",
            HOSTILE,
            [HOSTILE],
            [
                Section(
                    HOSTILE,
                    [HOSTILE],
                    [
                        Table(
                            "results",
                            HOSTILE,
                            ((HOSTILE, "n"), [(HOSTILE, "1.5"), ("a", "-")]),
                            pd.DataFrame({"a": [HOSTILE, "a"], "n": [1.5, None]}),
                            [HOSTILE],
                            [[None, 0.5], [None, None]],
                        )
                    ],
                    [Figure(HOSTILE, lambda: b"<svg/>")],
                )
            ],
        )
    ],
)


def test_names_are_text_on_the_page() -> None:
    page = html(EVIL)
    found = Tables(page)
    assert found.tables["results"] == [[HOSTILE, "n"], [HOSTILE, "1.5"], ["a", "-"]]
    assert found.tags.count("script") == 1, "the page's own"
    assert "alert(" not in page.replace("alert(&#34;1&#34;)", "")
    assert not re.search(r'(src|href)="(?!data:|#)', page), "nothing is fetched"


def test_a_figure_is_a_part_of_its_page() -> None:
    """Its names are its own, and a name of a line is text, whatever there is in it."""

    def draw(axis: Axes) -> None:
        axis.fill_between([0, 1], [0, 1], [1, 2]).set_gid(of_line(HOSTILE))
        axis.plot([0, 1], [1, 0], label=HOSTILE)
        axis.plot([0, 1], [0, 1], label="other")

    image = panels_module.image([draw, draw])
    pieces = [inline(image, prefix, HOSTILE) for prefix in ("c1s1f1", "c1s1f2")]
    found = [Parts(piece) for piece in pieces]
    first, second = ({a["id"] for tag in TAGS for a in one.of(tag) if "id" in a} for one in found)
    assert first
    assert not first & second
    for one, ids in zip(found, (first, second), strict=True):
        used = {str(a["xlink:href"])[1:] for a in one.of("use")}
        assert used
        assert used <= ids
        (svg,) = one.of("svg")
        assert (svg["role"], svg["aria-label"]) == ("img", HOSTILE)
        lines = [a["data-line"] for a in one.of("g") if "data-line" in a]
        # In each of the panels: the line, its label, a sample, what joins both; and the area.
        assert (lines.count(HOSTILE), lines.count("other")) == (10, 8)
        assert not one.of("script")
        assert not one.of("style"), "it would be for the whole page"
    assert image.count(b"data-line=") == 18, "no id is there twice in a file by itself"


#: Elements of a figure that can have a name.
TAGS = ("g", "path", "clippath", "use", "svg", "text", "defs", "image", "lineargradient")


def test_markdown_can_be_read_back() -> None:
    (_, lines, remarks), *others = parse(markdown(EVIL))
    assert lines == ((HOSTILE, "n"), [(HOSTILE, "1.5"), ("a", "-")])
    assert remarks == [HOSTILE]
    assert others == []


#: What siunitx takes as the form of a column, and in one: a number and what is braced, or braces.
FORM = re.compile(r"[+-]?\d+(\.\d+)?(\(\d+\))?(e-?\d+)?")
IN_S = re.compile(
    r"[+-]?\d+(\.\d+)?( \\pm \d+(\.\d+)?)?(e-?\d+)?(\{\*\})?(\{\\textsuperscript\{\w+\}\})?|\{.*\}"
)


def structure(text: str) -> list[str]:
    """Return what is wrong with tables in LaTeX."""
    text = re.sub(r"^%.*$", "", text, flags=re.M)
    plain = re.sub(r"\\[\\&%$#_{}]", lambda m: "\n" if m[0] == r"\\" else "", text)
    wrong = []
    if plain.count("{") != plain.count("}") or plain.count("$") % 2:
        wrong.append("braces or dollars")
    begun = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    stack: list[str] = []
    for which, name in begun:
        if which == "begin":
            stack.append(name)
        elif not stack or stack.pop() != name:
            wrong.append(f"end of {name}")
    wrong += stack
    outside = re.sub(r"\$[^$]*\$|\\label\{[^}]*\}|>\{\\raggedright", "", plain)
    wrong += re.findall(r"[%#_^~<>±∞µ]", outside)
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{@\{\}(.*?)@\{\}\}\n(.*?)\\end\{tabular\}", text, re.S
    ):
        cells = re.sub(r"\\&", "", body)
        rows = [row for row in cells.split("\n") if row.endswith(r"\\")]
        kinds = re.sub(r"\[.*?\]|>\{.*?\}|(?<=p)\{.*?\}", "", columns)
        wrong += [f"columns: {row}" for row in rows if row.count("&") != len(kinds) - 1]
        wrong += [f"column: {kind}" for kind in kinds if kind not in "lrpS"]
        forms = re.findall(r"S\[table-format=(.*?)[],]", columns)
        wrong += [f"format: {form}" for form in forms if not FORM.fullmatch(form)]
        for row in rows:
            of_row = zip(kinds, row.removesuffix(r"\\").split("&"), strict=False)
            found = [cell.strip() for kind, cell in of_row if kind == "S"]
            wrong += [f"no number: {cell}" for cell in found if not IN_S.fullmatch(cell)]
    return wrong


def test_latex_is_balanced_and_escaped(document: Document) -> None:
    assert structure(latex(EVIL)) == []
    text = latex(document)
    assert structure(text) == []
    assert text.count(r"\toprule") == text.count(r"\bottomrule") >= 6
    assert r"{\shortstack{test \\ accuracy \\ \%}}" in text
    assert r"\arraybackslash}p{7em}S[table-format=1.1]@{}}" in latex(EVIL)


def test_cells_in_latex_are_what_siunitx_reads() -> None:
    cells = [
        ("96.8 ± 0.4", "1e-05 (edge)", "+0.2*", "-0.5 to +0.1", "0/8", "long words, long words"),
        ("6.0 ± 10.1 (last layer alone)", "0.5", "-10.0", "-", "1/8", "-"),
        ("- (not made yet)", "-", "-", "-", "-", "-"),
    ]
    header = ("test accuracy %", "learning rate", "p", "95% interval", "diverged", "other options")
    one = Table("t", "c", (header, cells), pd.DataFrame())
    text = latex(Document("", [], [], [Chapter("", "", [], [Section("", tables=[one])])]))
    assert structure(text) == []
    forms = re.findall(r"table-format=([^],]*)(.*?)\]", text)
    assert [form for form, _ in forms] == ["2.1(3)", "1.1e-1", "+2.1"]
    assert all("table-space-text-post" in more for _, more in forms), "room for letters and stars"
    lines = [line for line in text.splitlines() if line.endswith(r"\\")][1:]
    assert lines == [
        r"96.8 \pm 0.4 & 1e-5{\textsuperscript{a}} & +0.2{*} & $-0.5$ to $+0.1$ & 0/8 & "
        r"long words, long words \\",
        r"6.0 \pm 10.1{\textsuperscript{b}} & 0.5 & -10.0 & - & 1/8 & - \\",
        r"{--\textsuperscript{c}} & {--} & {--} & - & - & - \\",
    ]
    assert r"\textsuperscript{c}not made yet." in text
    assert "{$p$}" in text


def paper(text: str, folder: Path) -> str:
    """Return what pdflatex says of these tables in an article, whose text is 345 pt wide."""
    used = PREAMBLE.removeprefix("% ")
    source = f"\\documentclass{{article}}\n{used}\\begin{{document}}\n{text}\\end{{document}}\n"
    (folder / "article.tex").write_text(source)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "article"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=120)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said
    return said


def has_latex() -> bool:
    """Return whether pdflatex is installed, with the packages that the tables need."""
    if not shutil.which("pdflatex"):
        return False
    command = ["kpsewhich", "siunitx.sty", "adjustbox.sty", "booktabs.sty"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_latex(), reason="LaTeX with siunitx and adjustbox is not installed")
def test_latex_makes_pages_of_it(document: Document, tmp_path: Path) -> None:
    rows = [
        ("relu", f"method-{n}", "97.2 ± 0.0 (last layer alone)", "1e-05 (edge)", "+0.2*", LONG)
        for n in range(40)
    ]
    header = ("activation", "method", "test accuracy %", "learning rate", "difference", "options")
    long = Table("long", "A long table", (header, rows), pd.DataFrame(), [LONG * 20])
    many = [f"column {n}" for n in range(14)]
    wide = Table("many", "Many columns", (many, [["0.5"] * 14]), pd.DataFrame())
    made = Document("", [], [], [Chapter("", "", [], [Section("", tables=[long, wide])])])
    paper(latex(EVIL), tmp_path)
    for given in (document, made):
        said = paper(latex(given), tmp_path)
        assert not re.findall(r"too wide|too large", said), said


LONG = "epsilon 0.312 (edge), units reverse. "


def test_a_table_in_latex_has_the_columns_that_are_shown_and_fits_on_pages(
    document: Document,
) -> None:
    rows = [(f"g{n // 10}", f"m{n}", "1.5", "2") for n in range(60)]
    one = Table(
        "t", "c", (("activation", "method", "a", "b"), rows), pd.DataFrame(), shown=["method", "a"]
    )
    text = latex(Document("", [], [], [Chapter("", "", [], [Section("", tables=[one])])]))
    assert structure(text) == []
    assert "(1 of 2)" in text
    assert [part.count(r" \\") - 1 for part in text.split(r"\end{table}")[:2]] == [45, 15]
    assert "m59 & 1.5" in text
    assert "max width=" in latex(document)
    assert "spikes / sample" not in latex(document).replace(r"\\ ", "")
    assert "tab:runs" not in latex(document), "a list of every run is no table of a paper"


@pytest.mark.parametrize("slip", ["50%", "a_b", "{", "x & y & z \\\\\n", "\\end{table}", "±"])
def test_slips_in_latex_are_noticed(slip: str) -> None:
    text = latex(EVIL).replace(r"\midrule", rf"\midrule {slip}", 1)
    assert structure(text)


def test_csv_has_the_numbers_at_full_precision(outcome: Outcome, mine: Path) -> None:
    paths = write_page(find("one", None, mine))
    assert {path.name for path in paths} >= {"report.html", "report.md", "report.tex", "equal.csv"}
    found, summary = pd.read_csv(mine / "one" / "tables" / "results.csv"), table.summarise(outcome)
    for field in ("test_accuracy_mean", "test_accuracy_std", "sample_seconds"):
        assert found[field].tolist() == pytest.approx(summary[field].tolist(), nan_ok=True)


# --- the page -------------------------------------------------------------------------------------


class Parts(HTMLParser):
    """Reads what a page consists of: start tags with their attributes."""

    def __init__(self, page: str) -> None:
        """Read the page."""
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag."""
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag, which has to be this one."""
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all tags of a name."""
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_has_what_a_reader_needs(document: Document) -> None:
    page = html(document)
    parts = Parts(page)
    assert parts.open == []
    assert len(parts.of("caption")) == len(parts.of("table")) == len(list(document.tables))
    scopes = {attributes["scope"] for attributes in parts.of("th")}
    assert scopes == {"col", "row"}
    extra = [attributes for attributes in parts.of("th") if "data-extra" in attributes]
    assert len(extra) >= 5, "the columns that are not shown at first"
    ids = [a["id"] for _, a in parts.found if "id" in a]
    assert [one for one in {*ids} if ids.count(one) > 1] == []
    assert page.index("Verdict</h3>") < page.index("<table") < page.index(">How it was made</h2>")
    for needed in (
        "position: sticky",
        "@media print",
        "prefers-color-scheme: dark",
        "--dark: invert(",
    ):
        assert needed in page


def test_the_page_holds_its_downloads_and_leads_to_the_files_of_runs(
    document: Document, results: Path
) -> None:
    links = Parts(html(document)).of("a")
    saved = {a["download"]: str(a["href"]) for a in links if "download" in a}
    assert {"report.md", "report.tex", "results.csv", "runs.csv"} <= set(saved)
    _, _, coded = saved["results.csv"].partition("base64,")
    (one,) = [one for name, _, one in document.tables if name == "results"]
    assert b64decode(coded) == one.frame.to_csv(index=False).encode()
    files = [a["href"] for a in links if str(a["href"]).startswith("runs/")]
    assert len(files) == 9
    assert all((results / "one" / str(file)).exists() for file in files)


def test_a_large_download_is_compressed() -> None:
    ending, uri = Table("t", "c", (("a",), []), pd.DataFrame({"a": range(50_000)})).download
    assert ending == "csv.gz"
    text = gzip.decompress(b64decode(uri.partition("base64,")[2])).decode()
    assert text.splitlines()[-1] == "49999"


def test_columns_that_say_nothing_are_not_on_the_page() -> None:
    lines = (("method", "a", "b"), [("x", "-", "-"), ("y", "-", "1")])
    one = Table("t", "c", lines, pd.DataFrame(), heat=[[None, None, 0.1], [None, None, 0.2]])
    page = html(Document("", [], [], [Chapter("", "", [], [Section("", tables=[one])])]))
    assert Tables(page).tables["t"] == [["method", "b"], ["x", "-"], ["y", "1"]]
    assert "--h:0.200" in page


def test_accuracies_in_figures_are_in_percent(outcome: Outcome) -> None:
    final = [s.result for s in outcome.results if s.result.run.kind == "final"]
    curves = panels.accuracy_curves(final)
    assert max(c.rows.max() for of_panel in curves.values() for c in of_panel.values()) > 1
    assert b"test accuracy (%)" in panels.accuracies(final)


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_the_script_is_one(tmp_path: Path) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", html(EVIL), re.S)
    (tmp_path / "page.js").write_text(script)
    subprocess.run(["node", "--check", tmp_path / "page.js"], check=True)


# --- the command ----------------------------------------------------------------------------------


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_the_command_says_where_the_page_is(mine: Path) -> None:
    result = invoke("report", "one", "--results", str(mine))
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(mine / "one" / "report.html")
    assert (mine / "one" / "report.html").exists()
    found = json.loads(invoke("report", "one", "--results", str(mine), "--json").stdout)
    assert found["files"][0] == str(mine / "one" / "report.html")
    assert all(Path(file).exists() for file in found["files"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toyy", "study: unknown name 'toyy'; did you mean 'toy'"),
        ("toy", "toy-cpu: nothing of this study is stored there"),
        ("begun", "begun: no run of this study is stored there"),
        ("broken", "study.json: does not say what the study is (schema: 0; allowed: 1"),
    ],
)
def test_what_cannot_be_reported_is_refused(name: str, message: str, tmp_path: Path) -> None:
    describe(OPTIONS, tmp_path / "begun")
    write_json(tmp_path / "broken" / "study.json", {"configuration": {"seeds": 1}})
    result = invoke("report", name, "--results", str(tmp_path))
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages have no figures, which take seconds."""
    monkeypatch.setattr(Figure, "element", lambda figure, prefix: "")


@pytest.mark.usefixtures("undrawn")
def test_a_report_finds_the_size_that_is_stored(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "results")
    root, name = tmp_path / "results", str(tmp_path / "results" / "grid.yaml")
    at = ("--results", str(root))
    result = invoke("report", name, *at)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(root / "grid-smoke" / "report.html")
    refused = invoke("report", name, *at, "--size", "cpu")
    assert refused.exit_code == 2
    assert "size: unknown name 'cpu'" in refused.stderr
    shutil.copytree(root / "grid-smoke", root / "grid-paper")
    refused = invoke("report", name, *at)
    assert refused.exit_code == 2
    assert "size: grid is stored in several; allowed: --size smoke or --size paper" in (
        refused.stderr
    )
    status = invoke("status", name, *at)
    assert (status.exit_code, status.stderr) == (2, refused.stderr)


@pytest.mark.usefixtures("undrawn")
def test_a_report_finds_a_study_by_its_folder(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "results")
    root = tmp_path / "results"
    write_json(root / "grid-smoke" / "source.json", versioned({"study": "../grid.yaml"}))
    result = invoke("report", "grid-smoke", "--results", str(root))
    assert result.exit_code == 0, result.output
    assert (root / "grid-smoke" / "report.html").exists()
    write_json(root / "grid-smoke" / "source.json", versioned({"of": 1}))
    refused = invoke("report", "grid-smoke", "--results", str(root))
    assert refused.exit_code == 2
    assert "source.json: not a file that this harness wrote" in refused.stderr


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("named", [True, False])
def test_several_reports_and_a_page_lead_to_each_other(
    named: bool, results: Path, tmp_path: Path
) -> None:
    shutil.copytree(results, tmp_path / "results")
    root = tmp_path / "results"
    shutil.copytree(root / "one", root / "two")
    describe(OPTIONS, root / "begun")
    shutil.rmtree(root / "grid-smoke")
    result = invoke("report", *(["one", "two"] if named else []), "--results", str(root))
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(root / "index.html")
    page = (root / "index.html").read_text()
    assert [row[0] for row in Tables(page).tables["reports"]] == ["study", "one", "two"]
    links = [a["href"] for a in Parts(page).of("a")]
    assert links == ["one/report.html", "two/report.html"]
    for name in ("one", "two"):
        assert '<a href="../index.html">' in (root / name / "report.html").read_text()
    assert invoke("report", "one", "--results", str(root)).exit_code == 0
    assert '<a href="../index.html">' in (root / "one" / "report.html").read_text()
    (root / "index.html").unlink()
    assert invoke("report", "one", "--results", str(root)).exit_code == 0
    assert "index.html" not in (root / "one" / "report.html").read_text()


def test_without_a_study_there_is_nothing_to_report(tmp_path: Path) -> None:
    describe(OPTIONS, tmp_path / "begun")
    result = invoke("report", "--results", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.strip().endswith(f"{tmp_path}: no run of a study is stored there")
    assert not (tmp_path / "index.html").exists()


# --- in a browser ---------------------------------------------------------------------------------

#: Before all other scripts: collects errors. After them: sorts a table, measures, and tells.
COLLECTOR = """<script>
window.problems = [];
addEventListener("error", e => problems.push(e.message || "not loaded: " + e.target.tagName), true);
console.error = (...all) => problems.push(all.join(" "));
</script>"""
PROBE = """<script>
addEventListener("load", () => {
  const table = document.querySelector('table[data-name="runs"]');
  const heads = Array.from(table.tHead.rows[0].cells), at = heads.findIndex(
    h => h.textContent.trim() === "test accuracy %");
  const column = () => Array.from(table.tBodies[0].rows, row => row.cells[at].textContent);
  const before = column(), button = heads[at].querySelector("button");
  button.click();
  const down = column(), told = heads[at].getAttribute("aria-sort");
  button.click();
  const up = column();
  document.querySelectorAll("details").forEach(d => { d.open = true; });
  const images = Array.from(document.images, i => i.naturalWidth > 0 && i.alt.length > 0);
  const seen = one => one.getBoundingClientRect().width > 0;
  const boxes = title => Array.from(document.querySelectorAll(".tools details"))
    .filter(one => one.querySelector("summary").textContent.startsWith(title))
    .map(one => [one.parentElement.parentElement, one.querySelectorAll("input")]);
  const drawings = Array.from(document.querySelectorAll("figure svg"),
    one => seen(one) && one.getAttribute("aria-label").length > 0 &&
      one.getBoundingClientRect().width <= one.parentElement.clientWidth);
  const toggle = () => {
    const [figure, lines] = boxes("Lines")[0];
    const of = Array.from(figure.querySelectorAll("[data-line]"));
    lines[0].click();
    const left = of.filter(part => part.style.display !== "none").map(part => part.dataset.line);
    const named = lines[0].parentElement.textContent.trim();
    lines[0].click();
    const back = of.every(part => part.style.display !== "none");
    const [holder, chosen] = boxes("Columns")[0];
    const shut = Array.from(chosen).findIndex(box => box.checked);
    const visible = () => Array.from(holder.querySelectorAll("tr"),
      row => Array.from(row.cells).filter(seen).length);
    const begun = visible();
    chosen[shut].click();
    const fewer = visible();
    const saves = Array.from(document.querySelectorAll("a[download]"), a => a.download);
    return {named, left, back, begun, fewer, saves, drawings};
  };
  const toggled = boxes("Lines").length ? toggle() : null;
  const wide = Array.from(document.querySelectorAll(".scroll"), s => s.scrollWidth > s.clientWidth);
  const found = {toggled, problems, before, down, told, up, images, wide, width: innerWidth,
    page: document.documentElement.scrollWidth};
  const out = parent.document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  parent.document.body.append(out);
});
</script>"""


def shown(page: str, folder: Path, width: int) -> dict[str, Any]:
    """Return what a browser of this width finds on the page."""
    path = folder / "page.html"
    page = page.replace("<head>", "<head>" + COLLECTOR).replace("</body>", PROBE + "</body>")
    if width < NARROWEST:
        frame = f"width: {width}px; height: 844px; border: 0"
        page = f'<body><iframe style="{frame}" srcdoc="{escape(page)}"></iframe></body>'
    path.write_text(page)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    more = "--disable-background-networking --disable-component-update --dump-dom"
    done = subprocess.run(
        [
            *("chromium", *flags.split(), *more.split(), f"--user-data-dir={folder / 'profile'}"),
            *(f"--window-size={width},844", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    return dict(json.loads(found))


#: The window of a browser without a head is never narrower than this, but a frame in it can be.
NARROWEST = 500

browser = pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")


@browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page(width: int, document: Document, tmp_path: Path) -> None:
    found = shown(html(document), tmp_path, width)
    assert found["problems"] == []
    toggled = found["toggled"]
    assert (found["images"], toggled["drawings"]) == ([True], [True] * 6)
    assert toggled["left"], "other lines are still there"
    assert toggled["named"] not in toggled["left"]
    assert toggled["back"]
    assert toggled["fewer"] == [cells - 1 for cells in toggled["begun"]], "in every row"
    saves = toggled["saves"]
    assert {"report.md", "results.csv", "learning-curves-1.svg"} <= {*saves}
    assert len({*saves}) == len(saves), "no two files have the same name"
    assert found["width"] == width
    assert found["page"] <= width, "the page does not scroll sideways"
    assert any(found["wide"]) or width > 390, "tables do, within themselves"
    numbers = sorted(map(float, found["before"]))
    assert list(map(float, found["up"])) == numbers
    assert list(map(float, found["down"])) == numbers[::-1]
    assert (found["told"], numbers[0] < numbers[-1]) == ("descending", True)


@browser
def test_a_browser_notices_what_is_wrong(document: Document, tmp_path: Path) -> None:
    page = html(document)
    page = page.replace("<main>", '<main><img src="data:image/png;base64,AAAA" alt="broken">')
    page = page.replace("<main>", '<main><div style="width: 2000px">wide</div>')
    page = page.replace('"use strict";', "missing();")
    found = shown(page, tmp_path, 390)
    assert any("missing" in problem for problem in found["problems"])
    assert False in found["images"]
    assert found["page"] > 390
    assert found["down"] == found["before"], "nothing sorts"
