"""What a process may use of a machine: affinity, control groups, and the environment."""

import math
import os
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from baselines import machine
from baselines.pso import trainer as pso_trainer
from benchmarks.cli import app, options, studies
from benchmarks.storage.provenance import ROOT

GIGABYTE = 2**30


@pytest.fixture(autouse=True)
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a machine with 64 CPUs and no limit."""
    for name in (machine.THREADS, *machine.ALLOCATED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "PROCESSES", tmp_path / "proc")
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    write(tmp_path / "proc" / "meminfo", "MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\n")


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def group(root: Path, membership: str, **files: str) -> None:
    """Put this process into a group; files are called by their paths, with __ for /."""
    write(root / "proc" / "self" / "cgroup", membership)
    for name, content in files.items():
        path = name.replace("__", "/").replace("_DOT_", ".")
        write(root / "cgroup" / path, content + "\n")


@pytest.mark.parametrize(
    ("affinity", "environment", "jobs", "threads"),
    [
        (64, {}, 1, 63),
        (64, {}, 4, 15),
        (64, {}, 100, 1),
        (1, {}, 1, 1),
        (1, {}, 4, 1),
        (8, {}, 1, 8),
        (8, {}, 4, 2),
        (64, {"OMP_NUM_THREADS": "3"}, 1, 3),
        (64, {"OMP_NUM_THREADS": "3"}, 4, 3),
        (64, {"OMP_NUM_THREADS": "40"}, 4, 15),
        (64, {"OMP_NUM_THREADS": "4,2"}, 1, 4),
        (64, {"OMP_NUM_THREADS": ""}, 1, 63),
        (64, {"OMP_NUM_THREADS": "many"}, 1, 63),
        (64, {"SLURM_CPUS_PER_TASK": "16"}, 1, 16),
        (64, {"SLURM_CPUS_PER_TASK": "16"}, 4, 4),
        (8, {"SLURM_CPUS_PER_TASK": "16"}, 1, 8),
        (64, {"SLURM_CPUS_PER_TASK": "16", "OMP_NUM_THREADS": "2"}, 4, 2),
    ],
)
def test_threads_are_shared_out(
    affinity: int,
    environment: dict[str, str],
    jobs: int,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    options.prepare("cpu", None, ["vgg-like"], jobs)
    options.prepare("cpu", None, ["mlp"], jobs)
    options.prepare("cpu", 5, ["vgg-like"], jobs)
    assert given == [threads, 1, 5]


@pytest.mark.parametrize(
    ("asked", "there", "chosen"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", True, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_the_device_is_the_one_that_is_asked_for(
    asked: str, there: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert options.prepare(asked, 1, ["mlp"]) == torch.device(chosen)


@pytest.mark.parametrize(
    ("membership", "files", "cpus"),
    [
        ("0::/job", {"job__cpu_DOT_max": "200000 100000"}, 2),
        ("0::/job", {"job__cpu_DOT_max": "150000 100000"}, 1),
        ("0::/job", {"job__cpu_DOT_max": "20000 100000"}, 1),
        ("0::/job", {"job__cpu_DOT_max": "max 100000"}, 64),
        ("0::/a/b", {"a__cpu_DOT_max": "300000 100000", "a__b__cpu_DOT_max": "max 100000"}, 3),
        ("0::/elsewhere", {"cpu_DOT_max": "400000 100000"}, 4),
        (
            "4:cpu,cpuacct:/job",
            {
                "cpu,cpuacct__job__cpu_DOT_cfs_quota_us": "500000",
                "cpu,cpuacct__job__cpu_DOT_cfs_period_us": "100000",
            },
            5,
        ),
        (
            "4:cpu:/job",
            {"cpu__cpu_DOT_cfs_quota_us": "-1", "cpu__cpu_DOT_cfs_period_us": "100000"},
            64,
        ),
        ("nonsense", {}, 64),
    ],
)
def test_a_quota_counts(membership: str, files: dict[str, str], cpus: int, tmp_path: Path) -> None:
    group(tmp_path, membership, **files)
    assert machine.usable_cpus() == cpus


@pytest.mark.parametrize(
    ("membership", "files", "free"),
    [
        ("0::/job", {"job__memory_DOT_max": f"{4 * GIGABYTE}", "job__memory_DOT_current": "0"}, 4),
        (
            "0::/job",
            {
                "job__memory_DOT_max": f"{4 * GIGABYTE}",
                "job__memory_DOT_current": f"{3 * GIGABYTE}",
                "job__memory_DOT_stat": f"anon 5\ninactive_file {GIGABYTE}",
            },
            2,
        ),
        ("0::/job", {"job__memory_DOT_max": "max", "job__memory_DOT_current": "0"}, 32),
        (
            "0::/a/b",
            {
                "a__b__memory_DOT_max": "max",
                "a__b__memory_DOT_current": "0",
                "a__memory_DOT_max": f"{GIGABYTE}",
                "a__memory_DOT_current": "0",
            },
            1,
        ),
        (
            "0::/job",
            {"job__memory_DOT_max": f"{999 * GIGABYTE}", "job__memory_DOT_current": "0"},
            32,
        ),
        (
            "7:memory:/docker/abc",  # whose path is another one outside of the container
            {
                "memory__memory_DOT_limit_in_bytes": f"{2 * GIGABYTE}",
                "memory__memory_DOT_usage_in_bytes": f"{GIGABYTE}",
            },
            1,
        ),
        (
            "7:memory:/",
            {
                "memory__memory_DOT_limit_in_bytes": "9223372036854771712",
                "memory__memory_DOT_usage_in_bytes": "1",
            },
            32,
        ),
        (
            "7:memory:/",
            {
                "memory__memory_DOT_limit_in_bytes": "1000",
                "memory__memory_DOT_usage_in_bytes": "2000",
            },
            0,
        ),
    ],
)
def test_the_smaller_limit_of_memory_counts(
    membership: str, files: dict[str, str], free: int, tmp_path: Path
) -> None:
    group(tmp_path, membership, **files)
    assert machine.available_memory() == free * GIGABYTE
    assert pso_trainer.free_bytes(torch.device("cpu")) == free * GIGABYTE


def test_jobs_can_be_as_many_as_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(3)))
    assert options.parse_jobs("auto") == 3
    assert options.parse_jobs("2") == 2
    for text in ("0", "-1", "many", "", "1.0", "1_0", "٣", "9" * 30):
        with pytest.raises(typer.BadParameter, match=r"allowed: whole numbers from 1 to 1000$"):
            options.parse_jobs(text)
    for text in ("1001", "1000000000"):
        with pytest.raises(typer.BadParameter, match="allowed: whole numbers from 1 to 1000"):
            options.parse_jobs(text)


def test_make_compare_uses_all_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[int] = []

    def executor(name: str, device: object, jobs: int, *others: object) -> None:
        given.append(jobs)
        raise ValueError("far enough")

    recipes = [one for one in (ROOT / "Makefile").read_text().splitlines() if one[:1] == "\t"]
    (line,) = (one for one in recipes if one.endswith("compare"))
    assert line.split() == ["LFP_JOBS=auto", "$(BIN)/lfp-bench", "compare"]
    monkeypatch.setattr(studies, "executor_named", executor)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.chdir(tmp_path)
    for environment in ({"LFP_JOBS": "auto"}, {}):
        CliRunner().invoke(app, ["compare"], env={"LFP_JOBS": None, **environment})
    assert given == [2, 1]


def test_another_system_has_no_limits_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc" / "meminfo").unlink()
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.usable_cpus() == 64
    assert machine.available_memory() == machine.memory_limit() == math.inf
    assert pso_trainer.free_bytes(torch.device("cpu")) > 10**15


def test_this_machine_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1 <= machine.usable_cpus() <= (os.cpu_count() or 1)
    assert machine.available_memory() > 10**7
