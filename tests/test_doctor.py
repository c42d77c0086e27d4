"""`lfp-bench doctor`: what is in the way has a line with a verdict and a way out."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import lfp_bench
from baselines import machine
from benchmarks.cli import app
from benchmarks.data import Archive
from benchmarks.storage import git
from lfp_core import native

GIGABYTE = 10**9


def leave(free: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave so many bytes of the disk free, as far as `doctor` can see."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


@pytest.fixture(autouse=True)
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Describe a machine with enough of everything, whatever the one that runs the tests has."""
    leave(100 * GIGABYTE, monkeypatch)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "no-control-groups")
    monkeypatch.setattr(machine, "ALLOCATED", ())
    monkeypatch.setenv("LFP_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("LFP_COMMIT", raising=False)
    monkeypatch.chdir(tmp_path)


def examined(code: int = 0) -> dict[str, tuple[str, str]]:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == code, result.output
    found = json.loads(result.stdout)["found"]
    assert {one["verdict"] for one in found} <= {"ok", "warning", "error"}
    assert ("error" in {one["verdict"] for one in found}) == (code == 1)
    return {one["thing"]: (one["verdict"], one["detail"]) for one in found}


def test_a_machine_without_faults_is_well() -> None:
    found = examined()
    for thing in ("torch", "own packages", "CPU", "data folder", "results folder", "disk"):
        assert found[thing][0] == "ok", found[thing]
    assert found["data: mnist"] == ("warning", "get it with: lfp-bench data mnist")
    assert "pip install 'lfp-bench[ray]'" in found["ray"][1]
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 0
    assert "own packages" in told.stdout


def test_nodes_that_are_not_built_have_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict, detail = examined()["C++ nodes"]
    assert verdict == "ok"
    assert "python -m lfp_core.build_native" in detail
    monkeypatch.setattr(native, "nodes", native)
    assert examined()["C++ nodes"] == ("ok", "built, for this torch and Python")


def test_more_threads_than_cpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 32)
    verdict, detail = examined()["CPU"]
    assert verdict == "warning"
    assert "1 of 64 CPUs can be used" in detail
    assert "torch starts 32 threads; export OMP_NUM_THREADS=1" in detail


def test_limits_of_a_control_group_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {"memory.max": GIGABYTE, "memory.current": GIGABYTE // 2}
    for name, value in groups.items():
        (tmp_path / "cgroup" / "job").mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / "job" / name).write_text(f"{value}\n")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/job\n")
    monkeypatch.setattr(machine, "PROCESSES", tmp_path / "proc")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "cgroup")
    verdict, detail = examined()["memory"]
    assert verdict == "warning"
    assert detail.startswith("0.5 GB are available, of 1.0 GB that the control group allows; use")


def test_a_disk_without_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    leave(1.9 * GIGABYTE, monkeypatch)
    verdict, detail = examined(1)["disk"]
    assert verdict == "error"
    assert detail.startswith("1.9 GB are free, 2 GB may be needed; make room, or choose another")
    leave(2 * GIGABYTE, monkeypatch)
    assert examined()["disk"][0] == "ok"


def test_a_package_that_is_shadowed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lfp_bench, "shadows", lambda: iter([("baselines", tmp_path)]))
    verdict, detail = examined(1)["package baselines"]
    assert verdict == "error"
    assert f"{tmp_path} is found in its place; take what contains it off PYTHONPATH" in detail


@pytest.mark.parametrize(
    ("error", "verdict", "told"),
    [
        (
            subprocess.CalledProcessError(128, "git", stderr="fatal: detected dubious ownership"),
            "warning",
            "git refuses (fatal: detected dubious ownership); if the folder is yours: git config",
        ),
        (subprocess.TimeoutExpired("git", 60), "warning", "git refuses ("),
        (FileNotFoundError("no repository"), "ok", "unknown (no repository); results name"),
    ],
)
def test_a_repository_that_git_refuses_is_told(
    error: Exception, verdict: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str) -> str:
        raise error

    monkeypatch.setattr(git, "asked", refused)
    found = examined()["commit"]
    assert found[0] == verdict
    assert told in found[1]


@pytest.mark.parametrize("folder", ["/proc/lfp", "/dev/null", "~nobody-of-this-name/x"])
def test_a_data_folder_that_cannot_be_written_is_told(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LFP_DATA", folder)
    verdict, detail = examined(1)["data folder"]
    assert verdict == "error"
    assert folder in detail
    assert "set $LFP_DATA to a folder" in detail


def test_a_data_folder_that_has_everything_may_be_read_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LFP_DATA", "/proc/lfp")
    monkeypatch.setattr(Archive, "is_there", lambda self, root: True)
    assert examined()["data folder"] == ("ok", "/proc/lfp can only be read, and has all data sets")


@pytest.mark.parametrize("results", ["/proc/none", "/dev/null/x"])
def test_a_results_folder_that_cannot_be_written_is_told(
    results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(app, ["doctor", "--json", "--results", results])
    assert result.exit_code == 1
    found = {f["thing"]: f for f in json.loads(result.stdout)["found"]}
    assert found["results folder"]["verdict"] == "error"
    assert "choose another with --results" in found["results folder"]["detail"]
    monkeypatch.setenv("COLUMNS", "200")
    told = CliRunner().invoke(app, ["doctor", "--results", results])
    assert told.exit_code == 1
    assert f"{results} cannot be written" in told.stdout
