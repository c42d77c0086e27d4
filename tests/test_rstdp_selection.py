"""The choice of R-STDP's cut-off and rates, on small images and few candidates."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baselines.rstdp import DENSE, TUNED, FeatureLayer
from benchmarks.data import Dataset, load
from benchmarks.experiments import rstdp_selection
from benchmarks.experiments.rstdp_selection import Candidate, Features, Plan, run, select
from benchmarks.storage.records import Records

SMALL = replace(TUNED, layers=(FeatureLayer(8, 3, 3.0, pooling=2, winners=2, radius=1, images=90),))
PLAN = Plan(epochs=2, cutoffs=(8, 12), rates=(5.0,))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rstdp_selection, "NETWORKS", {"tuned": SMALL, "dense": DENSE})


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def test_all_candidates_are_tried_and_none_twice(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    select(tmp_path, digits, PLAN)
    table = (tmp_path / "selection.md").read_bytes()
    runs = Records(tmp_path / "selection.json").runs
    assert len(runs) == 2 * 2 * 2
    assert all(len(r["validation accuracy by epoch"]) == 2 for r in runs)
    assert max(r["validation accuracy by epoch"][-1] for r in runs) > 0.5
    monkeypatch.setattr(rstdp_selection, "run", lambda *_: pytest.fail("made again"))
    select(tmp_path, digits, PLAN)
    assert (tmp_path / "selection.md").read_bytes() == table


def test_what_candidates_share_makes_no_difference(digits: Dataset) -> None:
    """A candidate after others has the accuracies that it has alone."""
    shared = Features(digits)
    candidates = [Candidate("tuned", 8, 5.0, fading) for fading in (False, True)]
    after = [run(candidate, PLAN, digits, shared) for candidate in (*candidates, candidates[0])]
    alone = [run(candidate, PLAN, digits, Features(digits)) for candidate in candidates]
    field = "validation accuracy by epoch"
    assert [r[field] for r in after] == [r[field] for r in (*alone, alone[0])]
    assert alone[0][field] != alone[1][field]


def test_the_test_split_is_not_looked_at(digits: Dataset) -> None:
    poison = replace(digits.test, inputs=torch.full_like(digits.test.inputs, torch.nan))
    candidate, field = Candidate("dense", 8, 5.0, True), "validation accuracy by epoch"
    found = [
        run(candidate, PLAN, data, Features(data))[field]
        for data in (digits, replace(digits, test=poison))
    ]
    assert found[0] == found[1]
