"""Exponents, roofs and what an operation computes and moves."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.performance import scaling
from benchmarks.performance.roofline import measurement, steps
from benchmarks.performance.roofline import report as roofline
from benchmarks.performance.roofline.ledger import Ledger
from benchmarks.performance.roofline.machine import COPIED, Ceilings
from benchmarks.performance.roofline.steps import Workload
from benchmarks.performance.scaling import Law, exponent
from benchmarks.storage.records import Records


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found_whatever_its_factor(k: float) -> None:
    sizes = np.array([3.0, 7.0, 20.0, 90.0])
    assert exponent(sizes.tolist(), (17 * sizes**k).tolist()) == pytest.approx((k, 0), abs=1e-7)


def test_a_fixed_cost_lowers_the_exponent() -> None:
    """So it is fitted to the upper half as well."""
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    seconds = [10 + size for size in sizes]
    assert exponent(sizes, seconds)[0] < exponent(sizes[3:], seconds[3:])[0] < 1


def test_one_size_has_no_exponent() -> None:
    with pytest.raises(ValueError, match="at least two"):
        exponent([2, 2], [1, 1])


def test_what_is_measured_is_kept_and_fitted(tmp_path: Path) -> None:
    calls = []

    def seconds(method: str, size: int) -> float:
        calls.append((method, size))
        return (2 if method == "lfp" else 1) * size**1.5

    laws = (Law("width", (1, 4, 16, 64), ("lfp", "sgd"), seconds, 2),)
    for _ in range(2):
        scaling.write_report(tmp_path, laws, "the command")
    assert len(calls) == len(set(calls)) == 8
    text = (tmp_path / "scaling.md").read_text()
    assert text.count("1.50 ± 0.00 | 1.50 ± 0.00 | 2 |") == 2
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("law", scaling.LAWS, ids=lambda law: law.axis)
def test_every_law_is_of_steps_that_can_be_made(law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def once(step: Callable[[], object], device: torch.device) -> float:
        taken.append(step())
        return 1.0

    monkeypatch.setattr(scaling, "seconds_of", once)
    for method in law.methods:
        law.seconds(method, law.sizes[0])
    assert len(taken) == len(law.methods)


def test_the_least_time_is_that_of_the_scarcer() -> None:
    machine = Ceilings(flops=100.0, bandwidths=(10.0,) * len(COPIED))
    assert machine.seconds(flops=500, size=10) == 5
    assert machine.seconds(flops=500, size=100) == pytest.approx(10)


def test_what_fits_the_cache_moves_as_fast_as_there() -> None:
    machine = Ceilings(flops=1.0, bandwidths=tuple(np.linspace(100, 10, len(COPIED))))
    assert machine.seconds(0, COPIED[0]) == pytest.approx(COPIED[0] / 100)
    assert machine.seconds(0, 100 * COPIED[-1]) == pytest.approx(100 * COPIED[-1] / 10)


def test_the_ledger_has_the_work_of_a_product_and_of_a_sum_and_none_of_a_view() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    with Ledger() as ledger:
        (a @ b).T.add(1.0)
    product, added = ledger.entries
    assert product == (2 * 3 * 4 * 5, 4 * (3 * 4 + 4 * 5 + 3 * 5))
    assert added == (15, 4 * (15 + 15))


def test_the_products_of_lfp_are_those_of_sgd_and_weights_are_multiplied_besides() -> None:
    flops = {}
    for method in ("lfp", "sgd"):
        with Ledger() as ledger:
            for part in steps.parts_of(Workload("toy-mlp", 8), method).values():
                part()
        flops[method] = [flops for flops, _ in ledger.entries]
    parameters = 2 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10
    assert sum(flops["lfp"]) - sum(flops["sgd"]) >= 2 * parameters  # |w|, and its product
    products = 2 * 8 * (2 * (2 * 32) + 3 * (32 * 16 + 16 * 10))
    assert products < sum(flops["sgd"]) < sum(flops["lfp"]) < 3 * products


def test_the_report_has_every_part_and_the_parts_make_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Ceilings(flops=1e11, bandwidths=(1e10,) * len(COPIED))
    monkeypatch.setattr(roofline, "ceilings", lambda: machine)
    monkeypatch.setattr(measurement, "ROUNDS", 2)
    workloads = (Workload("toy-mlp", 8), Workload("mlp-1000", 2, ("lfp", "surrogate"), steps=2))
    roofline.write_report(tmp_path, workloads, "the command")
    stored = json.loads((tmp_path / "roofline.json").read_text())["runs"]
    assert [run["name"] for run in stored] == ["machine", "toy-mlp", "mlp-1000, T = 2"]
    found = roofline.rows(Records(tmp_path / "roofline.json"))
    assert len(found) == 2 * 2 * 4
    for start in range(0, len(found), 4):
        *parts, step = found[start : start + 4]
        assert [row.part for row in (*parts, step)] == ["forward", "backward", "update", "step"]
        assert step.seconds == pytest.approx(sum(row.seconds for row in parts))
        assert all(row.calls > 0 and row.least > 0 for row in parts)
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "roofline.md").read_text().count("\n| ") == 2 + 2 * 2 * 4 - 1
