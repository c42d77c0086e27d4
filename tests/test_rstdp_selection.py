"""The choice of R-STDP's cut-off and rates, on small images and few candidates."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.rstdp import DENSE, TUNED, FeatureLayer
from benchmarks.data import Dataset, load
from benchmarks.experiments import rstdp_selection
from benchmarks.experiments.conduct import Status, carry_out, status
from benchmarks.experiments.rstdp_selection import (
    Candidate,
    Features,
    Options,
    RSTDPSelection,
    features_of,
    learn,
    run_of,
)
from benchmarks.runs.run import Result
from tests.studies import place

pytestmark = pytest.mark.slow

SMALL = replace(TUNED, layers=(FeatureLayer(8, 3, 3.0, pooling=2, winners=2, radius=1, images=90),))
OPTIONS = Options(dataset="digits", epochs=2, cutoffs=[8, 12], rates=[5.0])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rstdp_selection, "NETWORKS", {"tuned": SMALL, "dense": DENSE})


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """Forget features of networks that other tests have replaced."""
    features_of.cache_clear()
    yield
    features_of.cache_clear()


def accuracies(result: Result) -> list[float | None]:
    """Return the validation accuracies after each epoch."""
    return [epoch.validation for epoch in result.history[1:]]


def test_all_candidates_are_tried_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = RSTDPSelection()
    first, *_ = carry_out(kind, OPTIONS, tmp_path, place())
    table = (tmp_path / "table.md").read_bytes()
    assert len(first.runs) == kind.runs(OPTIONS) == 2 * 2 * 2
    assert status(kind, OPTIONS, tmp_path) == Status(done=8)
    results = [stored.result for stored in first.runs.values()]
    assert all(len(accuracies(result)) == 2 for result in results)
    assert all(result.test is None for result in results), "the test split is not looked at"
    assert max(result.validation or 0.0 for result in results) > 0.5
    monkeypatch.setattr(rstdp_selection, "learn", lambda *_: pytest.fail("made again"))
    assert carry_out(kind, OPTIONS, tmp_path, place()).found == first
    assert (tmp_path / "table.md").read_bytes() == table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": ["tunde"]}, "networks: unknown name 'tunde'; did you mean 'tuned'?"),
        ({"cutoffs": [99]}, "cutoff"),
        ({"rates": [-1.0]}, "learning_rate"),
        ({"dataset": "digit"}, "dataset: unknown name 'digit'"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        RSTDPSelection().runs(OPTIONS.model_copy(update=changes))


def test_what_candidates_share_makes_no_difference(digits: Dataset) -> None:
    """A candidate after others has the accuracies that it has alone."""
    shared = Features(digits)
    candidates = [Candidate("tuned", 8, 5.0, fading) for fading in (False, True)]
    runs = [run_of(candidate, OPTIONS) for candidate in candidates]
    after = [accuracies(learn(run, shared)) for run in (*runs, runs[0])]
    alone = [accuracies(learn(run, Features(digits))) for run in runs]
    assert after == [*alone, alone[0]]
    assert alone[0] != alone[1]


def test_the_test_split_is_not_looked_at(digits: Dataset) -> None:
    poison = replace(digits.test, inputs=torch.full_like(digits.test.inputs, torch.nan))
    run = run_of(Candidate("dense", 8, 5.0, True), OPTIONS)
    one, other = (
        accuracies(learn(run, Features(data))) for data in (digits, replace(digits, test=poison))
    )
    assert one == other
