"""The asv suite: every benchmark can be run, and says n/a where it cannot."""

import json
from importlib import import_module
from inspect import getmembers, isclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

import lfp_core as lfp
from baselines import METHODS
from benchmarks.asv import common
from benchmarks.performance import history
from benchmarks.performance.hosts import CALIBRATION
from benchmarks.storage.files import read_json
from benchmarks.storage.provenance import ROOT

pytestmark = pytest.mark.slow

MODULES = ("launches", "steps", "ratios", "scaling", "spiking", "throughput")
MARKS = ("time_", "track_")


def suites() -> list[Any]:
    modules = [import_module(f"benchmarks.asv.{name}") for name in MODULES]
    return [
        suite
        for module in modules
        for _, suite in getmembers(module, isclass)
        if suite.__module__ == module.__name__ and hasattr(suite, "params")
    ]


def points(suite: Any) -> list[tuple[Any, ...]]:
    several = isinstance(suite.params[0], tuple)
    return list(product(*suite.params)) if several else [(value,) for value in suite.params]


def cheapest(suite: Any) -> tuple[Any, ...]:
    """Return the first point, which is on the CPU and the smallest."""
    return points(suite)[0]


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "FEWEST", 1)
    monkeypatch.setattr(common, "MOST", 1)


@pytest.mark.parametrize("suite", suites(), ids=lambda suite: f"{suite.__module__[15:]}")
def test_every_benchmark_runs_at_its_smallest_size(suite: Any) -> None:
    point = cheapest(suite)
    assert len(suite.param_names) == len(point)
    for name in [name for name in dir(suite) if name.startswith(MARKS)]:
        benchmark = suite()
        benchmark.setup(*point)
        found = getattr(benchmark, name)(*point)
        if name.startswith("track_"):
            assert found > 0
            assert getattr(benchmark, name).unit
        else:
            assert found is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("suite", suites(), ids=lambda suite: f"{suite.__module__[15:]}")
def test_without_a_gpu_its_numbers_are_not_available(suite: Any) -> None:
    for point in [point for point in points(suite) if "cuda" in point][:1]:
        with pytest.raises(NotImplementedError, match="no CUDA device"):
            suite().setup(*point)


@pytest.mark.parametrize(
    "error", [ImportError("spiking"), KeyError("pso"), ValueError("no model"), None]
)
def test_what_a_commit_does_not_have_is_not_available(error: Exception | None) -> None:
    with pytest.raises(NotImplementedError, match="not in this commit"), common.applicable():
        raise error or lfp.UnsupportedOperation("no rule")
    with pytest.raises(ZeroDivisionError), common.applicable():
        _ = 1 / 0  # a defect stays one


def test_a_name_is_taken_from_the_first_module_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where old commits have it; a package that is missing is not taken for an old commit."""
    assert common.named("METHODS", "benchmarks.nowhere", "benchmarks", "baselines") is METHODS
    with pytest.raises(ImportError, match="METHODS is in none of benchmarks"):
        common.named("METHODS", "benchmarks")
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_missing"):
        common.named("METHODS", "needs_more", "baselines")


def test_a_ratio_is_the_one_of_two_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine that is slower in every other round, which both steps notice."""
    monkeypatch.setattr(common, "MOST", 8)
    monkeypatch.setattr(common, "FEWEST", 8)
    now = [0.0]

    def step(seconds: float, calls: list[int]) -> common.Step:
        def run() -> None:
            calls.append(0)
            now[0] += seconds * (1 + 4 * (len(calls) % 2))

        return run

    monkeypatch.setattr(common, "clock_of", lambda device: lambda: now[0])
    ratio = common.ratio_of_times(step(3.0, []), step(2.0, []), torch.device("cpu"))
    assert ratio == pytest.approx(1.5)


def test_the_configuration_names_what_is_there() -> None:
    found = read_json(ROOT / "asv.conf.json")
    assert found is not None
    assert (ROOT / found["benchmark_dir"] / "common.py").exists()
    for plugin in found["plugins"]:
        import_module(plugin.lstrip("."))


def test_a_commit_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'no-such-branch' is none of this repository"):
        history.resolved("no-such-branch")


def test_stored_results_tell_neither_paths_nor_hosts() -> None:
    results = ROOT / "benchmarks" / "asv" / "results"
    for path in results.glob("*/*.json"):
        found = json.loads(path.read_text())
        assert found is not None
        if path.name == CALIBRATION:
            assert found.keys() == {"product", "copy", "loop"}
            continue
        machine = found.get("params", found)["machine"]
        assert machine == path.parent.name
        strings = [found.get("env_name", ""), *map(str, found.get("params", {}).values())]
        assert not any("/" in text for text in strings)
