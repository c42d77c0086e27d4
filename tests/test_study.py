"""A study: rates from the validation split alone, nothing made twice, numbers one can redo."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple, cast

import pandas as pd
import pytest
import torch
from matplotlib.image import imread

from baselines import METHODS, Spiking
from benchmarks.analysis.statistics import SIGNIFICANCE, holm
from benchmarks.costs.step import Cost
from benchmarks.costs.workloads import Measurement
from benchmarks.data import DATASETS, Dataset, Split, load
from benchmarks.experiments import conduct
from benchmarks.experiments.comparison import summary as table
from benchmarks.experiments.comparison.study import (
    Cell,
    Outcome,
    Study,
    check,
    measurements,
)
from benchmarks.experiments.options import MethodOptions
from benchmarks.rendering.style import WIDTH
from benchmarks.rendering.text import busy, origins, rows
from benchmarks.runs import training
from benchmarks.runs.run import Result, Run
from benchmarks.runs.store import Store
from benchmarks.runs.training import execute
from tests.studies import carry_out, place, write_report

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_costs")]

STUDY = Study(
    dataset="blobs",
    model="toy-mlp",
    methods=("lfp", "sgd"),
    activations=("relu", "heaviside"),
    seeds=2,
    epochs=2,
    batch_size=256,
    settings=MethodOptions().settings_by_method(METHODS),
    spiking=Spiking(steps=3),
    rates=(0.01, 0.3),
    fixed_rates={},
    sweep_epochs=1,
    sweep_seeds=2,
    budgets={},
)


class Finished(NamedTuple):
    """A study's folder, and what it found."""

    folder: Path
    outcome: Outcome


INFINITE = MethodOptions.model_validate({"clip_norm": math.inf})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, quick_costs: None) -> Finished:
    """The study, carried out and reported, for tests that change nothing of it."""
    folder = tmp_path_factory.mktemp("finished")
    outcome = carry_out(STUDY, folder)
    write_report(folder, outcome)
    return Finished(folder, outcome)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that were made, not loaded."""
    made: list[Run] = []

    def note(run: Run, *rest: Any) -> Result:
        made.append(run)
        return execute(run, *rest)

    monkeypatch.setattr(training, "execute", note)
    return made


def spoil_test(change: Callable[[Split], Split]) -> Callable[..., Dataset]:
    def spoiled(name: str, seed: int, device: str) -> Dataset:
        dataset = load(name, seed=seed).to(device)
        return replace(dataset, test=change(dataset.test))

    return spoiled


def test_the_plan_is_what_is_carried_out(tmp_path: Path, executed: list[Run]) -> None:
    told: list[str] = []
    outcome = carry_out(STUDY, tmp_path, told.append)
    assert len(told) == STUDY.size == 4 * (2 * 2 + 2) + 2
    kinds = [run.kind for run in executed]
    assert kinds == sorted(kinds, reverse=True), "sweeps come first"
    of_cells = [stored.result.run for stored in outcome.results]
    assert set(of_cells) == set(executed)
    cells = [(run.activation, run.method) for run in of_cells]
    assert list(dict.fromkeys(cells)) == STUDY.cells
    assert list(outcome.choices) == STUDY.cells
    assert STUDY.cells[:2] == [Cell("relu", "lfp"), Cell("relu", "sgd")]
    for run in executed:
        if run.kind == "final":
            chosen = outcome.choices[Cell(run.activation, run.method)].learning_rate
            assert (run.settings.learning_rate, run.epochs) == (chosen, 2)
    sweep_seeds = {run.seed for run in executed if run.kind == "sweep"}
    assert sweep_seeds.isdisjoint(run.seed for run in executed if run.kind == "final")


def test_the_test_split_does_not_influence_the_rates(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = finished.outcome
    poison = spoil_test(lambda split: Split(split.inputs, 1 - split.targets))
    monkeypatch.setattr(training, "dataset", poison)
    poisoned = carry_out(STUDY, tmp_path)
    assert poisoned.choices == outcome.choices
    for one, other in zip(poisoned.results, outcome.results, strict=True):
        if one.result.run.kind == "final":
            assert one.result.test == pytest.approx(1 - (other.result.test or 0))
        else:
            assert one.result.test is other.result.test is None


def test_a_fixed_rate_has_no_sweep(tmp_path: Path, executed: list[Run]) -> None:
    fixed = replace(STUDY, fixed_rates={"sgd": 0.05})
    outcome = carry_out(fixed, tmp_path)
    assert {run.method for run in executed if run.kind == "sweep"} == {"lfp"}
    rates = {run.settings.learning_rate for run in executed if run.method == "sgd"}
    assert rates == {0.05}
    assert outcome.choices[Cell("relu", "sgd")].edge is None


def test_an_interrupted_study_resumes_and_tells_the_same(
    tmp_path: Path, executed: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def interrupt(description: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(STUDY, tmp_path, interrupt)
    assert len(executed) == 7
    write_report(tmp_path, carry_out(STUDY, tmp_path))
    assert len(executed) == len(set(executed)) == STUDY.size - 2
    names = ("table.md", "results.csv", "runs.csv", "figure.png")
    files = {name: (tmp_path / name).read_bytes() for name in names}

    executed.clear()
    write_report(tmp_path, carry_out(STUDY, tmp_path))
    assert executed == []
    assert {name: (tmp_path / name).read_bytes() for name in names} == files


def test_the_table_is_what_the_run_files_say(finished: Finished) -> None:
    folder, found = finished
    summary = table.summarise(found)
    records = [json.loads(path.read_text()) for path in (folder / "runs").iterdir()]
    for row, cell in zip(rows(summary), STUDY.cells, strict=True):
        of_cell = [r for r in records if (r["run"]["activation"], r["run"]["method"]) == cell]
        finals = [r for r in of_cell if r["run"]["kind"] == "final"]
        accuracies = [r["history"][-1]["test"] for r in finals]
        assert len(accuracies) == row["seeds"] == 2
        assert row["test_accuracy_mean"] == pytest.approx(mean(accuracies))
        assert row["test_accuracy_std"] == pytest.approx(stdev(accuracies))
        scores: dict[float, list[float]] = {}
        for r in of_cell:
            if r["run"]["kind"] == "sweep":
                rate = r["run"]["settings"]["learning_rate"]
                scores.setdefault(rate, []).append(r["history"][-1]["validation"])
        assert row["learning_rate"] == max(sorted(scores), key=lambda rate: mean(scores[rate]))
        line = f"| {cell.activation} | {cell.method} | {100 * mean(accuracies):.1f} ± "
        assert line in (folder / "table.md").read_text()


def test_the_derived_files_agree(finished: Finished) -> None:
    folder = finished.folder
    csv = pd.read_csv(folder / "runs.csv")
    assert len(csv) == len(list((folder / "runs").iterdir())) == STUDY.size - 2
    assert set(csv["chosen_learning_rate"]) <= set(STUDY.rates)
    assert csv["test_accuracy"].isna().equals(csv["kind"] == "sweep")
    height, width, _ = imread(folder / "figure.png").shape
    assert width == 150 * WIDTH
    assert height > 150
    text = (folder / "table.md").read_text()
    assert "`the command`" in text
    assert "last layer alone" in text


def test_methods_are_compared_with_lfp_seed_by_seed(tmp_path: Path) -> None:
    study = replace(STUDY, seeds=3, rates=STUDY.rates[:1], sweep_seeds=1)
    outcome = carry_out(study, tmp_path)
    found = rows(table.comparisons(outcome))
    assert [(r["activation"], r["method"]) for r in found] == [
        cell for cell in study.trained if cell.method != "lfp"
    ]
    for row in found:
        ours, lfps = (
            {
                stored.result.run.seed: stored.result.test
                for stored in reversed(outcome.results)  # the order makes no difference
                if stored.result.run.kind == "final"
                and stored.result.run.activation == row["activation"]
                and stored.result.run.method == method
            }
            for method in (row["method"], "lfp")
        )
        differences = [cast(float, ours[seed]) - cast(float, lfps[seed]) for seed in range(3)]
        assert row["difference"] == pytest.approx(mean(differences))
        assert row["p"] >= 0.25
        assert row["p_holm"] >= row["p"]
    write_report(tmp_path, outcome)
    text = (tmp_path / "table.md").read_text()
    assert f"| {100 * found[0]['difference']:+.1f} |" in text
    without = replace(study, methods=tuple(m for m in study.methods if m != "lfp"))
    assert table.comparisons(carry_out(without, tmp_path)).empty


@pytest.mark.parametrize(("p", "star"), [(0.05, "*"), (0.051, ""), (math.nan, "")])
def test_only_what_is_significant_has_a_star(p: float, star: str) -> None:
    numbers = dict.fromkeys(("low", "high", "effect", "p"), 0.5)
    row = {"activation": "relu", "method": "sgd", "difference": 0.015, **numbers, "p_holm": p}
    _, (line,) = table.comparison_lines(pd.DataFrame([row]))
    assert line[2] == f"+1.5{star}"


@pytest.mark.parametrize(("seeds", "told"), [(2, True), (3, False)])
def test_too_few_seeds_are_told(seeds: int, told: bool) -> None:
    nothing = pd.DataFrame({"low": [math.nan], "high": [math.nan]})
    note = table.comparison_notes(replace(STUDY, seeds=seeds), nothing)[0]
    assert ("too few for any test" in note) == told


@pytest.mark.parametrize(("rows", "told"), [(6, False), (7, True)])
def test_rows_of_which_none_can_be_significant_are_told(rows: int, told: bool) -> None:
    """Eight seeds have 256 flips of signs, so that p is at least 1/128, and Holm's 7/128 > 0.05."""
    nothing = pd.DataFrame({"low": [math.nan] * rows, "high": [math.nan] * rows})
    note = table.comparison_notes(replace(STUDY, seeds=8), nothing)[0]
    assert ("the correction leaves none below that" in note) == told
    least = [2 ** (1 - 8)] * rows
    assert (min(holm(least)) > SIGNIFICANCE) == told


@pytest.fixture
def diverging(tmp_path: Path) -> Outcome:
    hopeless = replace(
        STUDY,
        methods=("sgd",),
        settings=MethodOptions.model_validate({"clip_norm": 0}).settings_by_method(METHODS),
        seeds=1,
        rates=(1e20, 1e21),
        sweep_seeds=1,
    )
    return carry_out(hopeless, tmp_path)


def test_diverged_runs_are_told(diverging: Outcome) -> None:
    summary = table.summarise(diverging)
    relu = rows(summary)[0]
    assert (relu["diverged"], relu["seeds"]) == (1, 1)
    assert (relu["learning_rate"], relu["learning_rate_edge"]) == (1e20, "lowest")
    assert relu["test_accuracy_std"] is None, "one seed has no deviation"
    _, (line, _) = table.lines(summary)
    assert "±" not in line[2]
    assert line[3] == "1e+20 (edge)"
    assert line[-1] == "1/1"
    tidy = diverging.runs
    assert set(tidy[tidy["diverged"]]["diverged_reason"].str.split().str[0]) <= {"the", "a"}
    assert any("a better one may lie beyond" in note for note in table.notes(diverging, summary))


def test_the_rows_of_spiking_runs_tell_time_steps_and_training_steps_apart(tmp_path: Path) -> None:
    spiking = replace(STUDY, methods=("lfp",), activations=("lif",), fixed_rates={"lfp": 0.1})
    tidy = carry_out(spiking, tmp_path).runs
    assert set(tidy["time_steps"]) == {3}
    assert 3 not in set(tidy["steps"])


def test_a_report_names_every_environment() -> None:
    one = {
        **dict.fromkeys(("processor", "threads", "device", "platform", "python", "torch"), "x"),
        **{"numpy": "x", "commit": "abc", "dirty": False, "date": "today"},
    }
    told = origins([one, {**one, "date": "tomorrow"}, {**one, "commit": "def"}])
    assert [line[-3:] for line in told] == ["abc", "def"]


def test_a_busy_machine_is_told() -> None:
    idle = {"load": 2.1, "cores": 2}
    assert busy([idle, {"cores": 2}, {"load": None, "cores": 2}]) == []
    (told,) = busy([idle, {"load": 3.5, "cores": 2}, {"load": 9, "cores": 8}])
    assert told.startswith("Busy: 1 of 3 results")
    assert "a load of up to 3.5 on 2 cores" in told


def test_every_preset_goes_with_its_data() -> None:
    for name in ("digits", "blobs", "circles", "swirls"):
        check(replace(STUDY, dataset=name, model=DATASETS[name].preset.model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "blob"}, "dataset: unknown name 'blob'; did you mean 'blobs'"),
        ({"methods": ("lpf",)}, "methods: unknown name 'lpf'; did you mean 'lfp'"),
        ({"methods": ()}, "methods: "),
        ({"activations": ("relu", "relu")}, "activations: "),
        ({"epochs": 0}, "epochs: 0 is too small; allowed: 1 and above"),
        ({"rates": ()}, "learning_rates: "),
        ({"rates": (0.1, -1.0)}, "learning_rate must be"),
        ({"fixed_rates": {"wsgd": 0.1}}, "learning_rate: unknown name 'wsgd'"),
        ({"settings": INFINITE.settings_by_method(METHODS)}, "clip_norm: inf"),
        ({"budgets": {"wsgd": 1.0}}, "seconds: unknown name 'wsgd'"),
        ({"budgets": {"lfp": 0.0}}, "seconds: 0.0 for lfp; allowed: finite, above 0"),
        (
            {"methods": ("sgd", "madam"), "activations": ("lif",)},
            "methods: none goes with .*sgd with lif: a spike has no derivative; madam with lif: ",
        ),
    ],
)
def test_wrong_studies_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(STUDY, **change)  # type: ignore[arg-type]


def test_a_model_must_take_the_data() -> None:
    with pytest.raises(ValueError, match="model: 'lenet' does not go with blobs"):
        check(replace(STUDY, model="lenet"))


@pytest.mark.parametrize(("spread", "tries"), [(0.0, 1), (0.2, 1), (0.5, 3)])
def test_costs_that_scatter_are_measured_again_and_told(
    spread: float,
    tries: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spreads = [spread, 0.8 * spread, 0.9 * spread]
    made: list[float] = []

    def measure(measurement: Measurement, device: torch.device) -> list[Cost]:
        made.append(1.0 + spreads[len(made)])
        return [Cost("sgd", 1, 0.1, 1.0, 1.0, made[-1], 1, 1.0, None)]

    monkeypatch.setattr(conduct, "measure", measure)
    (one,) = measurements(replace(STUDY, activations=("relu",)), torch.device("cpu"))
    steady = replace(one, repeats=conduct.FEW)
    found = conduct.measured(steady, Store(tmp_path), place())
    assert len(made) == tries
    assert ("other work disturbs it" in caplog.text) == (tries > 1)
    assert found.costs[0].time_ratio_high == min(made)
    assert conduct.measured(steady, Store(tmp_path), place()) == found
    assert len(made) == tries, "what is stored is not measured again"
