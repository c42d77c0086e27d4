"""Hosts of one kind are told apart, and a run changes nothing that is stored of them."""

import json
from pathlib import Path

import pytest
import torch
from asv.machine import Machine, MachineCollection

from benchmarks.performance import history, hosts
from benchmarks.performance.hosts import CALIBRATION, MACHINE, agree, calibrate, identify
from benchmarks.storage import provenance
from benchmarks.storage.provenance import ROOT

CPU = torch.device("cpu")
INFO = "model name : AMD EPYC (TM)\ncpu family\t: 25\nmodel\t\t: 1\nstepping\t: 2\n"
NAME = "2-core-amd-epyc-tm-25-1-2"
SECONDS = {"product": 1e-3, "copy": 2e-3, "loop": 3e-3}


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(INFO)
    monkeypatch.setattr(provenance, "CPUS", tmp_path / "cpuinfo")
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def times(factor: float) -> dict[str, float]:
    return {name: factor * seconds for name, seconds in SECONDS.items()}


def test_a_machine_is_called_by_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hosts.machine_name(CPU) == NAME
    monkeypatch.setattr(hosts, "processor", lambda device: "NVIDIA H100 (80 GB)")
    assert hosts.machine_name(torch.device("cuda")) == "nvidia-h100-80-gb"
    provenance.CPUS.write_text("CPU implementer : 0x41\nCPU part : 0xd0c\n")
    monkeypatch.undo()


def test_hosts_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    for factor, host in (
        (1.0, NAME),
        (1.1, NAME),
        (1.3, f"{NAME}-host-2"),
        (1 / 1.2, f"{NAME}-host-3"),
        (0.95, NAME),
        (1.25, f"{NAME}-host-2"),
    ):
        monkeypatch.setattr(hosts, "calibrate", lambda factor=factor: times(factor))
        assert identify(results, CPU) == host
    stored = json.loads((results / NAME / CALIBRATION).read_text())
    assert stored == SECONDS, "the first one stays"


def test_a_folder_that_nobody_knows_the_host_of_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "calibrate", lambda: SECONDS)
    old = tmp_path / NAME / MACHINE
    old.parent.mkdir()
    old.write_text("{}")
    assert identify(tmp_path, CPU) == f"{NAME}-host-2"
    assert [path.name for path in old.parent.iterdir()] == [MACHINE]


def test_asv_leaves_what_is_stored_of_a_host_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "calibrate", lambda: SECONDS)
    host = identify(tmp_path, CPU)
    before = (tmp_path / host / MACHINE).read_bytes()
    for _ in range(2):  # as asv does at the beginning of every run
        history.register(host, tmp_path)
        Machine.load(machine_name=host).save(str(tmp_path))
        assert json.loads((tmp_path / host / MACHINE).read_text()) == json.loads(before)
    text = before.decode() + (tmp_path / host / CALIBRATION).read_text()
    assert all(private not in text for private in (str(Path.home()), "Linux 6"))


def test_the_tracked_file_of_a_host_is_not_edited(tmp_path: Path) -> None:
    for tracked in (ROOT / "benchmarks" / "asv" / "results").glob(f"*/{MACHINE}"):
        copy = tmp_path / tracked.parent.name / MACHINE
        copy.parent.mkdir()
        copy.write_bytes(tracked.read_bytes())
        history.register(tracked.parent.name, tmp_path)
        Machine.load(machine_name=tracked.parent.name).save(str(tmp_path))
        assert copy.read_text().split() == tracked.read_text().split()
    assert Path(MachineCollection.get_machine_file_path()).is_relative_to(tmp_path)


def test_a_calibration_can_be_repeated() -> None:
    seconds = calibrate()
    assert seconds.keys() == SECONDS.keys()
    assert all(0 < value < 1 for value in seconds.values())
    assert agree(seconds, seconds)
    assert not agree(SECONDS, {**SECONDS, "copy": 4e-3})
    assert not agree(SECONDS, {})
