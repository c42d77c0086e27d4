"""The study of the number of examples: which there are, what is chosen, and what is said."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.data import Dataset, Split
from benchmarks.experiments import conduct
from benchmarks.experiments.base import Found
from benchmarks.experiments.samples import Options, Sampled, Samples, learn, sampled, subset
from benchmarks.runs.run import Epoch, Result, Run
from benchmarks.runs.store import Stored
from benchmarks.runs.training import classify
from tests.studies import SHORT, place

CPU = torch.device("cpu")


def numbered(count: int) -> Dataset:
    """Return a data set whose examples are their own numbers."""
    part = Split(torch.arange(count).float()[:, None], torch.arange(count) % 2)
    return Dataset("numbers", part, part, part, classes=2)


def drawn(data: Dataset, samples: int | None, seed: int) -> Counter[int]:
    """Return how often each example is in the training split."""
    train = subset(data, samples, seed).train
    assert torch.equal(train.inputs[:, 0].long() % 2, train.targets), "classes go with examples"
    return Counter(train.inputs[:, 0].long().tolist())


@settings(deadline=None)
@given(st.integers(1, 60), st.data(), st.integers(0, 5))
def test_there_are_so_many_examples_as_often_as_can_be(
    whole: int, data: st.DataObject, seed: int
) -> None:
    samples = data.draw(st.integers(1, whole))
    found = drawn(numbered(whole), samples, seed)
    assert len(found) == samples
    assert sum(found.values()) == whole, "every network sees as many"
    assert max(found.values()) - min(found.values()) <= 1
    fewer = drawn(numbered(whole), data.draw(st.integers(1, samples)), seed)
    assert set(fewer) <= set(found), "smaller sets are parts of larger ones"


def test_seeds_draw_other_examples_and_all_are_all() -> None:
    data = numbered(50)
    assert set(drawn(data, 10, 0)) != set(drawn(data, 10, 1))
    assert drawn(data, 10, 0) == drawn(data, 10, 0)
    assert subset(data, None, 0) is data
    half = subset(data, 25, 0)
    assert half.test is data.test
    assert half.validation is data.validation


def test_on_all_examples_a_run_is_that_of_a_comparison() -> None:
    ours, theirs = learn(sampled(SHORT, None), CPU), classify(SHORT, CPU)
    losses = [(e.train_loss, e.validation, e.test) for e in ours.history]
    assert losses == [(e.train_loss, e.validation, e.test) for e in theirs.history]
    few = learn(sampled(SHORT, 20), CPU)
    assert few.steps == ours.steps
    assert few.history[-1].train_loss != ours.history[-1].train_loss
    assert (few.details, ours.details) == ({"examples": 20}, {"examples": 1000})


TINY: dict[str, Any] = {
    "dataset": "blobs",
    "methods": ["lfp", "sgd", "wsgd"],
    "samples": [8, "all"],
    "seeds": 3,
    "epochs": 1,
    "sweep_epochs": 1,
    "trials": 2,
}


def test_options_are_chosen_at_each_number_of_examples(tmp_path: Path) -> None:
    options, kind = Options(**TINY), Samples()
    done = conduct.carry_out(kind, options, tmp_path, place())
    assert len(done.found.runs) == kind.runs(options) == 2 * 3 * (2 + 3)
    kinds = [run.kind for run in done.found.runs]
    assert kinds == sorted(kinds, reverse=True), "all sweeps come first"
    for samples in (8, None):
        for method in options.methods:
            own = [
                s.result
                for run, s in done.found.runs.items()
                if isinstance(run, Sampled) and (run.samples, run.method) == (samples, method)
            ]
            tried = {r.run.settings: r.validation or 0 for r in own if r.run.kind == "sweep"}
            final = {r.run.settings for r in own if r.run.kind == "final"}
            assert len(tried) == 2
            assert [tried[settings] for settings in final] == [max(tried.values())]
    main, statistics, *_ = done.sections
    _, rows = main.tables[0].lines
    methods = ["lfp", "sgd", "wsgd"]
    assert [row[:2] for row in rows] == [(n, m) for n in ("8", "1000") for m in methods]
    assert main.figures[0].draw().startswith(b"\x89PNG")
    found = statistics.tables[0].frame
    tested = found[found["p"].notna()]
    assert set(tested["methods"]) == {"lfp - sgd"}
    assert tested["quantity"].tolist() == ["8 examples", "1000 examples"]
    assert kind.sections(options, Found()) == []


def test_a_sweep_decides_for_its_number_of_examples_alone() -> None:
    options, kind = Options(**TINY), Samples()
    sweep = [run for run in kind.plan(options, {}) if isinstance(run, Sampled)]
    assert {run.kind for run in sweep} == {"sweep"}
    epoch = (Epoch(validation=0.5),)
    of_eight: dict[Run, Stored] = {
        run: Stored(Result(run, epoch, None, 1, 0.0), {}) for run in sweep if run.samples
    }
    reported = [run for run in kind.plan(options, of_eight) if run.kind == "final"]
    assert {run.samples for run in reported if isinstance(run, Sampled)} == {8}
    assert len(reported) == 3 * 3


def test_with_a_step_function_the_surrogate_is_what_is_tested() -> None:
    assert Options(**TINY).tested == ("lfp", "sgd")
    assert Options(**{**TINY, "activations": ["heaviside"]}).tested == ("lfp", "surrogate")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"samples": [8, 8]}, "samples: '8' is given twice"),
        ({"samples": ["all", "all"]}, "samples: 'all' is given twice"),
        ({"samples": []}, "samples"),
        ({"samples": [0]}, "samples"),
        ({"samples": ["some"]}, "samples"),
        ({"activations": ["relu", "tanh"]}, "activations"),
        ({"methods": ["sdg"]}, "unknown name 'sdg'"),
    ],
)
def test_what_cannot_be_made_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Samples().runs(Options.model_validate({**TINY, **change}))


def test_more_examples_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="samples: 1001; allowed: up to 1000, or all"):
        Samples().check(Options(**{**TINY, "samples": [1001, "all"]}))
