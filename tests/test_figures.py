"""Every figure that a study can make: all of it is on the canvas, and no two texts overlap."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from baselines import METHODS, Settings, Spiking
from benchmarks.data import Split
from benchmarks.experiments import conduct, regression, transfer
from benchmarks.experiments.comparison import figure, panels
from benchmarks.experiments.comparison.sections import sections
from benchmarks.experiments.comparison.study import Outcome, Study
from benchmarks.experiments.comparison.summary import summarise
from benchmarks.experiments.regression.report import report as regression_report
from benchmarks.experiments.regression.runs import Choice
from benchmarks.models import ACTIVATIONS
from benchmarks.rendering import curves
from benchmarks.rendering.curves import Curve, Curves, highest_end, left_out, lowest_end, shown
from benchmarks.rendering.labels import spread, width_of, wrapped
from benchmarks.rendering.style import PALETTE, colours, label_of, strokes
from benchmarks.runs.inspection import DECADES, SIDE, WEIGHT_BINS, Decisions, Inspection, Layer
from benchmarks.runs.run import Divergence, Epoch, Result, Run
from benchmarks.runs.store import Stored
from benchmarks.storage.provenance import ROOT
from benchmarks.studies.collect import described

STORED = ROOT / "benchmarks" / "stored"
NARROW, READABLE = 390, 9  # pixels of a telephone, and of a text on it
COUNTS = (1, 3, 7, 14)  # of methods
LONG = "a method of another package with a long name"
UNBROKEN = "AnotherPackagesMethodWithoutAnyBlanks"


# --- what is wrong with a figure ------------------------------------------------------------------


def texts_of(drawn: Figure) -> list[Text]:
    """Return the texts that can be seen; ticks beyond the ends of an axis are not drawn."""
    hidden: set[Text] = set()
    for axes in drawn.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (axes.axison and low <= tick.get_loc() <= high):
                    hidden |= {tick.label1, tick.label2}
    found = drawn.findobj(Text)
    return [t for t in found if isinstance(t, Text) and t not in hidden and seen(t)]


def seen(text: Text) -> bool:
    """Return whether there is something to be seen."""
    return text.get_visible() and bool(text.get_text().strip())


def problems(drawn: Figure) -> list[str]:
    """Return what lies outside of the canvas, and which texts overlap."""
    drawn.draw_without_rendering()
    texts = texts_of(drawn)
    # Of an annotation, the text alone.
    boxes = np.array([Text.get_window_extent(text).extents for text in texts])
    canvas = np.array(drawn.bbox.extents)
    found = []
    for artist in (*drawn.axes, *drawn.findobj(Legend)):
        box = artist.get_tightbbox()
        if box is not None and isinstance(artist, Axes | Legend):
            boxes_of = np.array([box.extents])
            if outside(boxes_of, canvas).any():
                found.append(f"outside: {artist}")
    found += [f"outside: {texts[i].get_text()!r}" for i in np.flatnonzero(outside(boxes, canvas))]
    x0, y0, x1, y1 = boxes.T
    across = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    up = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    overlapping = np.triu((across > 0) & (up > 0), k=1)
    found += [
        f"overlap: {texts[i].get_text()!r} and {texts[j].get_text()!r}"
        for i, j in zip(*np.nonzero(overlapping), strict=True)
    ]
    return found


def outside(boxes: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Return which boxes are not all on the canvas, by more than half a pixel."""
    low, high = canvas[:2] - 0.5, canvas[2:] + 0.5
    return np.asarray(((boxes[:, :2] < low) | (boxes[:, 2:] > high)).any(axis=1))


def unreadable(drawn: Figure) -> list[str]:
    """Return the texts that are too small where the figure is as wide as a telephone."""
    scale = NARROW / (72 * drawn.get_figwidth())
    return [t.get_text() for t in texts_of(drawn) if float(t.get_fontsize()) * scale < READABLE]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved from now on, at the size in which they are; they have no file."""
    found: list[Figure] = []

    def savefig(self: Figure, file: Any, *, dpi: float = 72, **_: Any) -> None:
        self.set_dpi(dpi)
        found.append(self)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return found


def check(figures: Sequence[Figure]) -> None:
    """Check what a reader sees."""
    assert figures
    for one in figures:
        assert problems(one) == []
        assert unreadable(one) == []
        assert one.get_facecolor() == (1, 1, 1, 1), "dark text can be read on a dark page, too"
        for axes in one.axes:
            labels = {str(line.get_label()) for line in axes.get_lines()}
            assert len([label for label in labels if label[0] != "_"]) <= curves.MOST


# --- what is drawn --------------------------------------------------------------------------------


def result(
    method: str, activation: str, seed: int, epochs: int, draw: np.random.Generator
) -> Result:
    """Return what a run could measure; some of two seeds or more diverge, one before any epoch."""
    run = Run(
        *("final", "blobs", "toy-mlp", method, activation, seed, epochs, 256, Settings(0.1)),
        Spiking() if ACTIVATIONS[activation].spiking else None,
    )
    end = draw.choice([0.1, 0.97, 0.9701, draw.uniform(0.1, 1)])
    history = tuple(
        Epoch(
            train_loss=2.3 * 10 ** (-3 * end * e / epochs) if e else None,
            test=0.1 + (end - 0.1) * (1 - 0.5**e),
            seconds=float(0.02 * e * (1 + len(method))),
        )
        for e in range(epochs + 1)
    )
    number = list(METHODS).index(method)
    if seed == 1 and number % 3 == 1:
        return Result(
            run, (*history[: epochs // 2 + 1], Epoch(seconds=1.0)), Divergence(3, "nan"), 3, 1.0
        )
    if activation == "heaviside" and number == 1:
        return Result(run, (Epoch(seconds=0.0), Epoch(seconds=1.0)), Divergence(1, "nan"), 1, 1.0)
    layers = tuple(
        Layer(
            f"{i}.weight",
            WEIGHT_BINS,
            1.0,
            tuple(int(n) for n in draw.integers(0, 1000, WEIGHT_BINS)),
            0.2,
            0.3,
            tuple(int(n) for n in draw.integers(0, 1000, len(DECADES) - 1)) if number % 2 else None,
            0.0,
        )
        for i in (0, 10)
    )
    decisions = Decisions((-1.0, 1.0), (-1.0, 1.0), "01" * (SIDE * SIDE // 2))
    return Result(run, history, None, 9, 1.0, inspection=Inspection(layers, decisions))


def outcome(methods: int, activations: int, seeds: int, *, epochs: int = 6) -> Outcome:
    """Return the outcome of a study with the first methods and activations."""
    names = list(METHODS)[:methods]
    of_study = (
        tuple(ACTIVATIONS) if activations > 1 else ("heaviside",) * (methods != 1) or ("relu",)
    )
    study = Study(
        *("blobs", "toy-mlp", tuple(names), of_study, seeds, epochs, 256),
        settings={name: METHODS[name].Options(learning_rate=0.1) for name in names},
        spiking=Spiking(),
        rates=(0.1,),
        fixed_rates={},
        sweep_epochs=1,
        sweep_seeds=1,
        budgets={},
    )
    draw = np.random.default_rng(0)
    environment = dict.fromkeys(
        ("commit", "processor", "threads", "device", "platform", "python", "torch", "numpy"), "x"
    ) | {"dirty": False}
    results = [
        Stored(result(cell.method, cell.activation, seed, epochs, draw), environment)
        for cell in study.trained
        for seed in range(seeds)
    ]
    return Outcome(study, results, {}, {}, [environment] * len(results))


@pytest.fixture
def long_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods and an activation of other packages, whose names may be long."""
    monkeypatch.setattr(METHODS["sgd"], "label", LONG)
    monkeypatch.setattr(METHODS["wsgd"], "label", UNBROKEN)
    monkeypatch.setattr(METHODS["fa"], "label", "$x$ & <b>")


def points(seed: int) -> Split:
    """Return points of two classes."""
    return Split(torch.linspace(-1, 1, 40).reshape(20, 2), torch.arange(20) % 2)


def synthetic(count: int, length: int, seeds: int) -> dict[str, Curve]:
    """Return curves of so many methods, some of which coincide."""
    draw = np.random.default_rng(1)
    found = {}
    for number, name in enumerate(list(METHODS)[:count]):
        end = 0.5 if number < 4 else draw.random()
        rows = [[end * e / length + 0.01 * s for e in range(length)] for s in range(seeds)]
        found[name] = Curve.of(range(1, length + 1), rows)
    return found


# --- every figure ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("activations", [1, 7])
@pytest.mark.parametrize("methods", COUNTS)
def test_the_grid_of_accuracies(
    methods: int, activations: int, seeds: int, drawn: list[Figure], long_names: None
) -> None:
    found = outcome(methods, activations, seeds)
    summary = summarise(found)
    figure.png(found, summary)
    check(drawn)
    told = {text.get_text() for text in texts_of(drawn[0])}
    for row in summary.to_dict("records"):
        if row["seeds"] and not pd.isna(row["test_accuracy_mean"]):
            assert f"{100 * row['test_accuracy_mean']:.1f}" in told
    title = next(text.replace("\n", " ") for text in told if "toy-mlp" in text)
    assert title.endswith("1 seed" if seeds == 1 else "standard deviation over 3 seeds")
    assert any("±" in text for text in told) == (seeds == 3)
    diverged = int(summary["diverged"].sum())
    assert any(text.startswith("✗") for text in told) == bool(diverged)


def test_a_grid_with_long_names_of_activations(
    drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (figure, panels):
        monkeypatch.setattr(
            module, "called", lambda name: {"relu": LONG, "tanh": UNBROKEN}.get(name, name)
        )
    found = outcome(3, 7, 3)
    figure.png(found, summarise(found))
    panels.accuracies([stored.result for stored in found.results])
    check(drawn)


def test_a_grid_says_what_is_not_made_yet(drawn: list[Figure]) -> None:
    found = outcome(3, 7, 3)
    found.results[:] = found.results[4:]
    figure.png(found, summarise(found))
    check(drawn)
    told = {text.get_text() for text in texts_of(drawn[0])}
    assert {"not", "made", "n = 2"} <= told


@pytest.mark.parametrize(
    ("draw", "activations", "methods"),
    [
        *(
            (draw, 1, n)
            for draw in (panels.accuracies, panels.losses, panels.fronts)
            for n in COUNTS
        ),
        *(pytest.param(panels.accuracies, 7, n, marks=pytest.mark.slow) for n in (1, 14)),
        *(
            pytest.param(draw, 7, 14, marks=pytest.mark.slow)
            for draw in (panels.losses, panels.fronts)
        ),
    ],
)
def test_lines_of_a_comparison(
    draw: Callable[[Sequence[Result]], bytes],
    activations: int,
    methods: int,
    drawn: list[Figure],
    long_names: None,
) -> None:
    found = outcome(methods, activations, 3 if activations == 1 else 1)
    draw([stored.result for stored in found.results])
    check(drawn)


@pytest.mark.parametrize(
    ("methods", "activations"),
    [*((count, 1) for count in COUNTS), pytest.param(14, 7, marks=pytest.mark.slow)],
)
def test_decision_boundaries(
    methods: int, activations: int, drawn: list[Figure], long_names: None
) -> None:
    found = outcome(methods, activations, 1)
    panels.boundaries([s.result for s in found.results if s.result.inspection], points)
    check(drawn)


@pytest.mark.parametrize("methods", COUNTS)
def test_histograms(methods: int, drawn: list[Figure], long_names: None) -> None:
    found = outcome(methods, 1, 3)
    panels.histograms([s.result for s in found.results if s.result.inspection])
    check(drawn)


@pytest.mark.parametrize(("titles", "length", "seeds"), [(1, 1, 1), (1, 5, 3), (4, 20, 1)])
@pytest.mark.parametrize("methods", COUNTS)
def test_curves(
    methods: int, titles: int, length: int, seeds: int, drawn: list[Figure], long_names: None
) -> None:
    of_panels = {f"panel {i}": synthetic(methods, length, seeds) for i in range(titles)}
    curves.png(of_panels, highest_end, across="epoch", up=LONG, title=f"{LONG}, {LONG}")
    check(drawn)
    for axes in drawn[0].axes:
        ticks = [tick for tick in axes.get_xticks() if 1 <= tick <= length]
        assert ticks
        assert all(float(tick).is_integer() for tick in ticks), "there is no half epoch"


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_numbers_of_any_size(scale: float, drawn: list[Figure]) -> None:
    found = {name: Curve(c.x, scale * c.rows) for name, c in synthetic(3, 5, 2).items()}
    curves.png({LONG: found}, lowest_end, across="epoch", up="test MSE", title=LONG)
    check(drawn)


def test_runs_that_measured_nothing_have_no_lines(drawn: list[Figure]) -> None:
    run = outcome(1, 1, 1).results[0].run
    nothing = [Result(run, (Epoch(), Epoch()), Divergence(1, "nan"), 1, 1.0)]
    for draw in (panels.accuracies, panels.losses, panels.fronts):
        draw(nothing)
    check(drawn)
    assert left_out(panels.accuracy_curves(nothing), highest_end) == ""


@pytest.mark.parametrize("seeds", [1, 3])
def test_curves_of_regression(seeds: int, drawn: list[Figure]) -> None:
    options = regression.Options(epochs=4, seeds=seeds)
    runs = [run for method in options.methods for run in options.final(method, 0.1)]
    choices = dict.fromkeys(options.methods, Choice(0.1, 2))
    found = regression_report(options, choices, [measured(run) for run in runs])
    assert [one.image for section in found for one in section.figures] == [b""]
    check(drawn)


@pytest.mark.parametrize("methods", [["lfp"], ["lfp", "sgd", "wsgd", "fa", "eg", "madam"]])
def test_curves_of_transfer(methods: list[str], drawn: list[Figure]) -> None:
    rates = dict.fromkeys(methods, 0.1)
    options = transfer.Options(
        dataset="a-folder", from_scratch=True, methods=methods, epochs=3, learning_rate=rates
    )
    found = transfer.report(options, [measured(run) for run in options.finals()])
    assert [one.image for section in found for one in section.figures] == [b""]
    check(drawn)


def measured(run: Run) -> Result:
    """Return a result of a run, whose metric is between 0 and 1."""
    draw = np.random.default_rng(run.seed)
    history = tuple(Epoch(test=float(value)) for value in draw.random(run.epochs + 1))
    return Result(run, history, None, 1, 1.0)


def test_curves_of_a_stored_study(drawn: list[Figure]) -> None:
    part = STORED / "language-cpu" / "gpt"
    study = described(part / "study.json")
    assert study is not None
    found = study.kind.sections(study.options, conduct.find(study.kind, study.options, part))
    assert [one.image for section in found for one in section.figures] == [b""]
    check(drawn)


def test_a_study_draws_what_is_tested_here() -> None:
    """Whatever figure comes to a comparison has to come to these tests."""
    found = sections(outcome(3, 1, 2))
    functions = {image.draw.func for one in found for image in one.figures}  # type: ignore[attr-defined]
    assert functions == {
        *(figure.png, panels.accuracies, panels.losses, panels.fronts),
        *(panels.boundaries, panels.histograms),
    }


# --- the checks notice ----------------------------------------------------------------------------


@pytest.fixture
def sound() -> Figure:
    one = Figure(figsize=(4, 3), layout="constrained")
    one.subplots().plot([0, 1], label="a line")
    assert problems(one) == []
    return one


def test_a_cut_legend_is_noticed(sound: Figure) -> None:
    sound.axes[0].legend(loc="lower left", bbox_to_anchor=(0.9, 0.5)).set_in_layout(False)
    assert any(found.startswith("outside: Legend") for found in problems(sound))


def test_text_over_text_is_noticed(sound: Figure) -> None:
    sound.axes[0].text(0.5, 0.5, "96.3", fontsize=7)
    sound.axes[0].text(0.51, 0.5, "97.3", fontsize=7)
    assert problems(sound) == ["overlap: '96.3' and '97.3'"]


def test_a_title_that_is_cut_is_noticed(sound: Figure) -> None:
    sound.text(0.5, 0.5, 10 * LONG)
    assert any("outside" in found for found in problems(sound))


def test_small_text_is_noticed(sound: Figure) -> None:
    sound.set_size_inches(5.4, 3)
    sound.axes[0].text(0.5, 0.5, "96.3", fontsize=8)
    assert unreadable(sound) == ["96.3"]


# --- what is drawn of many ------------------------------------------------------------------------


def test_lfp_and_the_best_others_are_drawn_and_the_rest_is_told() -> None:
    ends = {"lfp": 0.1, "sgd": 0.2, **{f"m{i}": 0.3 + i / 100 for i in range(6)}}
    found = {name: Curve.of([0, 1], [[0.0, end]]) for name, end in ends.items()}
    assert shown(found, highest_end) == ["lfp", "m1", "m2", "m3", "m4", "m5"]
    assert shown(found, lowest_end) == ["lfp", "sgd", "m0", "m1", "m2", "m3"]
    assert left_out({"ReLU": found}, highest_end).endswith("Left out are ReLU: SGD; m0.")
    few = dict(list(found.items())[:6])
    assert left_out({"ReLU": few}, highest_end) == ""
    nothing: Curves = {"lfp": Curve.of([0, 1], [[None, None]]), "sgd": found["sgd"]}
    assert shown(nothing, highest_end) == ["sgd"], "there is nothing to draw"


def test_lines_that_coincide_stay_visible() -> None:
    """Each is drawn over a wider one, has a stroke and a colour of its own."""
    found = strokes(curves.MOST)
    assert all(below["linewidth"] > above["linewidth"] for below, above in pairwise(found))
    assert len({str(one["linestyle"]) for one in found}) == curves.MOST
    names = list(METHODS)
    for first in range(len(names) - curves.MOST + 1):
        some = names[first :: len(names) // curves.MOST][: curves.MOST]
        assert len(set(colours(some, names).values())) == len(some)
    assert colours(["b", "lfp"], ["a", "b", "lfp"]) == {"b": PALETTE[1], "lfp": PALETTE[0]}


def test_a_curve_has_what_at_least_one_seed_has() -> None:
    curve = Curve.of([1, 2, 3, 4], [[1.0, None, 3.0], [3.0, None]])
    assert curve.x.tolist() == [1, 3]
    assert curve.mean.tolist() == [2, 3]


# --- labels ---------------------------------------------------------------------------------------

places = st.lists(st.floats(-1, 2), min_size=1, max_size=8)


@given(places, st.floats(0, 0.3), st.data())
def test_labels_make_room_and_stay_near(wanted: list[float], distance: float, data: Any) -> None:
    found = spread(wanted, distance, 0, 1)
    order = np.argsort(wanted, kind="stable")
    assert np.all(np.diff(np.array(found)[order]) >= distance - 1e-9)
    fits = distance * (len(wanted) - 1) <= 1
    assert min(found) >= -1e-9
    assert max(found) <= 1 + 1e-9 or not fits
    if fits:  # no other places are nearer
        slack = 1 - distance * (len(wanted) - 1)
        size = len(wanted)
        free = data.draw(st.lists(st.floats(0, 1), min_size=size, max_size=size))
        other = np.sort(free) * slack + distance * np.arange(size)
        asked = np.array(wanted)[order]
        moved = np.square(np.array(found)[order] - asked).sum()
        assert moved <= np.square(other - asked).sum() + 1e-9


def test_labels_with_room_stay() -> None:
    assert spread([0.9, 0.1, 0.5], 0.3, 0, 1) == pytest.approx([0.9, 0.1, 0.5])
    assert spread([0.5, 0.5], 0.2, 0, 1) == pytest.approx([0.4, 0.6])
    assert spread([], 0.2, 0, 1) == []


@pytest.mark.parametrize("text", [LONG, UNBROKEN, "LFP", "", "a  b\nc"])
@pytest.mark.parametrize("width", [20, 60, 1000])
def test_wrapped_text_fits_and_is_whole(text: str, width: float) -> None:
    lines = wrapped(text, width)
    assert width_of(lines) <= width
    assert "".join(lines.split()) == "".join(text.split())


def test_labels_are_names_where_there_is_no_other() -> None:
    assert label_of("lfp") == "LFP"
    assert label_of(str(Path("x"))) == "x"
