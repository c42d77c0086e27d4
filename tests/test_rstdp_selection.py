"""The choice of R-STDP's cut-off and rates, on small images and few candidates."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.rstdp import DENSE, TUNED, FeatureLayer
from benchmarks.data import Dataset, load
from benchmarks.experiments import rstdp_selection
from benchmarks.experiments.base import Place, Status
from benchmarks.experiments.rstdp_selection import (
    Candidate,
    Features,
    Options,
    RSTDPSelection,
    run,
)
from benchmarks.runs.executors import Here, Worker

pytestmark = pytest.mark.slow

SMALL = replace(TUNED, layers=(FeatureLayer(8, 3, 3.0, pooling=2, winners=2, radius=1, images=90),))
OPTIONS = Options(dataset="digits", epochs=2, cutoffs=[8, 12], rates=[5.0])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rstdp_selection, "NETWORKS", {"tuned": SMALL, "dense": DENSE})


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def test_all_candidates_are_tried_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Here(Worker(tmp_path, "cpu", 1))
    place = Place(torch.device("cpu"), lambda _: None, lambda _: here, "the command")
    first = RSTDPSelection().carry_out(OPTIONS, tmp_path, place)
    table = (tmp_path / "table.md").read_bytes()
    assert len(first.rows) == RSTDPSelection().runs(OPTIONS) == 2 * 2 * 2
    assert RSTDPSelection().status(OPTIONS, tmp_path) == Status(done=8)
    assert all(len(r["validation accuracy by epoch"]) == 2 for r in first.rows)
    assert max(r["validation accuracy by epoch"][-1] for r in first.rows) > 0.5
    monkeypatch.setattr(rstdp_selection, "run", lambda *_: pytest.fail("made again"))
    assert RSTDPSelection().carry_out(OPTIONS, tmp_path, place) == first
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
    after = [run(candidate, OPTIONS, digits, shared) for candidate in (*candidates, candidates[0])]
    alone = [run(candidate, OPTIONS, digits, Features(digits)) for candidate in candidates]
    field = "validation accuracy by epoch"
    assert [r[field] for r in after] == [r[field] for r in (*alone, alone[0])]
    assert alone[0][field] != alone[1][field]


def test_the_test_split_is_not_looked_at(digits: Dataset) -> None:
    poison = replace(digits.test, inputs=torch.full_like(digits.test.inputs, torch.nan))
    candidate, field = Candidate("dense", 8, 5.0, True), "validation accuracy by epoch"
    found = [
        run(candidate, OPTIONS, data, Features(data))[field]
        for data in (digits, replace(digits, test=poison))
    ]
    assert found[0] == found[1]
