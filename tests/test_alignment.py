"""The study of how far LFP's update is one that a gradient would make."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes

from baselines import SGD, LFPSettings, Settings
from baselines.wsgd import WeightScaledSGD
from benchmarks.data import Split
from benchmarks.experiments.alignment import (
    GRADIENT,
    SCALED,
    Alignment,
    AlignmentRun,
    Options,
    Watch,
    agreement,
    tidy,
    untrained,
    updates,
    watch,
)
from benchmarks.experiments.base import Found
from benchmarks.runs.run import Epoch, Result, Run
from benchmarks.runs.store import Stored

CPU = torch.device("cpu")
RUN = AlignmentRun(
    kind="final",
    dataset="digits",
    model="chain",
    method="lfp",
    activation="relu",
    seed=0,
    epochs=1,
    batch_size=64,
    settings=LFPSettings(0.1, epsilon=0.0),
    depth=3,
    width=8,
    batches=(16, 32),
    slope=1.0,
)


def looked(run: AlignmentRun) -> list[dict[str, object]]:
    """Return what is measured of an untrained network in double precision."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 5, generator=generator).double()
    split = Split(inputs, torch.arange(40) % 3)
    metric = Watch(run, split, split)
    metric(untrained(run, (5,), 3).double(), split)
    return metric.measured[0]


def test_two_numbers_tell_how_alike_updates_are() -> None:
    ours = torch.tensor([1.0, 2.0, 0.0, 0.0])
    assert agreement(ours, ours) == {"cosine": pytest.approx(1), "signs": 1.0}
    assert agreement(ours, -ours) == {"cosine": pytest.approx(-1), "signs": 0.0}
    other = torch.tensor([1.0, -2.0, 3.0, 0.0])
    assert agreement(ours, other) == {
        "cosine": pytest.approx(-3 / (5 * 14) ** 0.5),
        "signs": 0.5,  # of the two weights that both move
    }
    assert agreement(ours, torch.zeros(4)) == {"cosine": None, "signs": None}


def test_relu_without_epsilon_is_theorem_1_in_every_layer() -> None:
    found = looked(RUN)
    assert [(one["batch"], one["reference"]) for one in found] == [
        *((16, SCALED), (16, GRADIENT), (32, SCALED), (32, GRADIENT))
    ]
    for one in found:
        layers = one["layers"]
        assert isinstance(layers, list)
        assert len(layers) == RUN.depth + 1
        assert {layer["signs"] for layer in layers} == {1.0}
        cosines = [layer["cosine"] for layer in layers]
        if one["reference"] == SCALED:
            assert cosines == pytest.approx([1] * 4, abs=1e-12)
        else:
            assert max(cosines) < 0.999


def test_other_activations_are_not() -> None:
    layers = looked(replace(RUN, activation="sigmoid"))[0]["layers"]
    assert isinstance(layers, list)
    assert layers[0]["cosine"] < 0.99
    names = [one["reference"] for one in looked(replace(RUN, activation="heaviside"))]
    assert all(str(name).endswith(", surrogate") for name in names)


def test_updates_are_those_of_the_weight_matrices() -> None:
    model = untrained(RUN, (5,), 3)
    batch = torch.randn(7, 5), torch.arange(7) % 3
    plain, scaled = (
        updates(method(model, Settings(1.0)), *batch) for method in (SGD, WeightScaledSGD)
    )
    weights = [p.detach().double().flatten() for p in model.parameters() if p.dim() > 1]
    for gradient, times_weight, weight in zip(plain, scaled, weights, strict=True):
        torch.testing.assert_close(times_weight, gradient * weight.abs())


def test_a_run_is_measured_before_training_and_after_every_epoch() -> None:
    result = watch(RUN, CPU)
    assert len(result.details["measured"]) == len(result.history) == 2
    assert result.test is not None
    again = watch(RUN, CPU)
    assert again.details == result.details
    assert tidy([result])["cosine"].notna().all()


def test_the_report_has_a_line_for_each_network_and_reference() -> None:
    options = Options(activations=["relu", "heaviside"], depths=[1], epochs=1, seeds=1)
    runs = Alignment().plan(options, {})
    found: dict[Run, Stored] = {
        run: Stored(_watched(run), {}) for run in runs if isinstance(run, AlignmentRun)
    }
    (section,) = Alignment().sections(options, Found(found))
    ((_, rows), figure) = section.tables[0].lines, section.figures[0]
    assert [row[0] for row in rows] == ["relu"] * 2 + ["heaviside"] * 2
    assert figure.draw().startswith(b"\x89PNG")
    assert Alignment().sections(options, Found()) == []


@pytest.mark.parametrize("undefined", [0, 1, 3])
def test_an_epoch_without_a_cosine_is_told_and_drawn(
    undefined: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three seeds, some have an update of 0 in the first layer: at every epoch."""
    options = Options(activations=["relu"], depths=[1, 2], epochs=1, seeds=3)
    runs = [run for run in Alignment().plan(options, {}) if isinstance(run, AlignmentRun)]
    found = Found({run: Stored(_made_up(run, run.seed < undefined), {}) for run in runs})
    lines: list[tuple[list[float], list[float]]] = []
    plot = Axes.plot

    def seen(axis: Axes, x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
        lines.append((list(x), list(y))) if args == ("x",) else None
        return plot(axis, x, y, *args, **kwargs)

    monkeypatch.setattr(Axes, "plot", seen)
    (section,) = Alignment().sections(options, found)
    table, figure = section.tables[0], section.figures[0]
    assert figure.draw().startswith(b"\x89PNG")
    assert table.frame["undefined_at_last"].tolist() == [undefined] * 4
    expected = "-" if undefined == 3 else "0.50"
    assert {row[5] for row in table.lines[1]} == {expected}
    assert any("has no cosine" in note for note in table.notes) == (undefined > 0)
    across = [0, 1] if undefined == 3 else []
    assert [x for x, _ in lines] == [across] * 2
    assert all(y < 0 for _, of_line in lines for y in of_line)


def _made_up(run: AlignmentRun, undefined: bool) -> Result:
    """Return a result in whose first layer cosines are a half, or undefined."""
    first = None if undefined else 0.5
    layers = [{"cosine": first, "signs": first}, *[{"cosine": 1.0, "signs": 1.0}] * run.depth]
    look = [{"batch": 64, "reference": name, "layers": layers} for name in (SCALED, GRADIENT)]
    history = (Epoch(validation=0.5, test=0.5),) * 2
    return Result(run, history, None, 1, 1.0, details={"measured": [look, look]})


def _watched(run: AlignmentRun) -> Result:
    return watch(replace(run, width=8), CPU)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"activations": ["lif"]}, "activations: 'lif'"),
        ({"activations": ["relu", "relu"]}, "activations: 'relu' is given twice"),
        ({"dataset": "nothing"}, "dataset: unknown name 'nothing'"),
    ],
)
def test_what_cannot_be_made_is_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Alignment().runs(Options.model_validate({"activations": ["relu"], **change}))


def test_more_samples_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="batches: 100000; allowed: up to "):
        Alignment().check(Options(activations=["relu"], batches=[100_000]))
