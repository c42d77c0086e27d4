"""What can go wrong on a Ray cluster is told in one line, and nothing waits for ever.

Ray itself is an extra; here a stub stands for it (`tox -e ray` starts a cluster).
"""

import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.runs.executors import ExecutorError, RayCluster, Worker
from benchmarks.storage.files import StoreError
from benchmarks.storage.provenance import ROOT
from benchmarks.studies.plan import read
from tests.studies import SHORT as RUN


class RayError(Exception):
    """As Ray has it."""


class RayTaskError(RayError):
    """As Ray has it, with what the task raised."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(f"ray::task()\n  File nowhere\n{cause!r}")


class WorkerCrashedError(RayError):
    """As Ray has it."""


class OutOfMemoryError(RayError):
    """As Ray has it."""


class NodeDiedError(RayError):
    """As Ray has it."""


EXCEPTIONS = SimpleNamespace(
    RayError=RayError,
    RayTaskError=RayTaskError,
    WorkerCrashedError=WorkerCrashedError,
    OutOfMemoryError=OutOfMemoryError,
)


class Ray:
    """A cluster of these nodes, that raises this error or makes runs."""

    exceptions = EXCEPTIONS

    def __init__(
        self,
        nodes: Sequence[dict[str, Any]] = ({"CPU": 8.0},),
        error: Exception | None = None,
        refusal: Exception | None = None,
    ) -> None:
        self.resources, self.error, self.refusal = nodes, error, refusal
        self.made: list[Any] = []

    def init(self, address: str, **options: Any) -> None:
        """Connect."""
        if self.refusal:
            raise self.refusal

    def nodes(self) -> list[dict[str, Any]]:
        """Return what nodes there are."""
        return [{"Alive": True, "Resources": node} for node in self.resources]

    def remote(self, **options: Any) -> Any:
        """Return what makes a task of a function."""

        def decorate(function: Any) -> Any:
            def begin(*arguments: Any) -> Any:
                self.made.append(arguments)
                return arguments

            return SimpleNamespace(remote=begin)

        return decorate

    def wait(self, pending: list[Any]) -> tuple[list[Any], list[Any]]:
        """Finish one task."""
        return pending[:1], pending[1:]

    def get(self, done: list[Any]) -> list[Any]:
        """Return results."""
        if self.error:
            raise self.error
        return [("made", run.seed) for _, run in done]

    def shutdown(self) -> None:
        """Leave the cluster."""


def results(
    ray: Ray,
    monkeypatch: pytest.MonkeyPatch,
    threads: int = 2,
    gpus: float = 0,
    address: str = "here",
) -> Any:
    monkeypatch.setitem(sys.modules, "ray", ray)
    worker = Worker(Path("nowhere"), "cpu", threads)
    return list(RayCluster(address, gpus).results(worker, [RUN, replace(RUN, seed=1)]))


def test_runs_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert results(Ray(), monkeypatch) == [("made", 0), ("made", 1)]


@pytest.mark.parametrize(
    ("nodes", "threads", "gpus", "message"),
    [
        ([{"CPU": 4.0}, {"CPU": 2.0}], 8, 0, "threads: 8 for a run, where no node has more than 4"),
        ([{"CPU": 4.0}], 2, 0.5, "gpu_share: 0.5 for a run, where no node has more than 0 GPUs"),
        ([{"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}], 4, 1, "which no node has together"),
        ([{}], 1, 0, "threads: 1 for a run, where no node has more than 0 CPUs"),
        ([], 1, 0, "the cluster has no node that is alive"),
    ],
)
def test_what_no_node_has_is_refused(
    nodes: list[dict[str, Any]],
    threads: int,
    gpus: float,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = Ray(nodes)
    with pytest.raises(ExecutorError, match=re.escape(message)):
        results(ray, monkeypatch, threads, gpus)
    assert not ray.made


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (WorkerCrashedError("killed"), ExecutorError, "a run's worker died twice; killed"),
        (OutOfMemoryError("Task was\nkilled"), ExecutorError, "short of memory, twice"),
        (NodeDiedError("node"), ExecutorError, "ray: NodeDiedError: node"),
        (RayTaskError(StoreError("a file")), StoreError, "^a file$"),
        (RayTaskError(MemoryError("swarm")), MemoryError, "^swarm$"),
        (RayTaskError(ModuleNotFoundError("No module x")), ExecutorError, "No module x.*same"),
        (KeyError("not Ray's"), KeyError, "not Ray's"),
    ],
)
def test_what_happens_to_a_run_is_told(
    error: Exception, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(kind, match=message) as raised:
        results(Ray(error=error), monkeypatch)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (RuntimeError("Version mismatch:\n Ray: 2.50 Python: 3.12"), "is of other versions than"),
        (ConnectionError("nobody answers"), "is no cluster; nobody answers"),
        (TimeoutError("late"), "is no cluster; late"),
        (RayError("gone"), "is no cluster; gone"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_told(
    refusal: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExecutorError, match=f"ray_address: 'here' {message}") as raised:
        results(Ray(refusal=refusal), monkeypatch)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:{free}", "Connection refused"),
        ("[::1]:{free}", "[Errno"),  # refused, or no such family of addresses
        ("127.0.0.1:99999", "port: 99999; allowed: 1 to 65535"),
        ("127.0.0.1:0", "port: 0; allowed: 1 to 65535"),
        ("no-such-host.invalid:6379", "[Errno"),
    ],
)
def test_a_head_that_does_not_answer_is_told_at_once(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        free = closed.getsockname()[1]
    address = address.format(free=free)
    with pytest.raises(ExecutorError, match=f"ray_address: '{re.escape(address)}' is no") as raised:
        results(Ray(), monkeypatch, address=address)
    assert message in str(raised.value)


def test_a_head_that_answers_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        assert results(Ray(), monkeypatch, address=address) == [("made", 0), ("made", 1)]


# --- SLURM ----------------------------------------------------------------------------------------

#: Programs that write down how they are called. `ray start --block` runs until it is stopped, and
#: `ray status` fails until the head has been there for a while.
STUBS = {
    "scontrol": 'printf "node1\\nnode2\\nnode3\\n" | head -n "$SLURM_JOB_NUM_NODES"',
    "srun": 'while [ "${1#-}" != "$1" ]; do case "$1" in -w) shift;; esac; shift; done; exec "$@"',
    "ray": """case "$*" in
  *"start --head"*) sleep 0.3; touch "$STUBS/head"; exec sleep 60;;
  *start*) [ -e "$STUBS/head" ] || echo too-early >> "$STUBS/calls"; exec sleep 60;;
  *status*) [ -e "$STUBS/head" ];;
esac""",
    "lfp-bench": "exit 7",
}


CLUSTER = ROOT / "docs" / "cluster.md"
#: The scripts of the page on clusters: a Ray cluster, and an array job.
RAY, ARRAY = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", CLUSTER.read_text(), re.DOTALL)


def submitted(folder: Path, script: str, **given: str) -> tuple[int, list[str]]:
    """Run a script as SLURM would, with stubs; return its exit code and the calls."""
    stubs = folder / "stubs"
    stubs.mkdir()
    for name, body in STUBS.items():
        path = stubs / name
        path.write_text(
            f'#!/bin/bash\necho "{name} $* [$SRUN_CPUS_PER_TASK]" >> "$STUBS/calls"\n{body}\n'
        )
        path.chmod(0o755)
    environment = folder / "environment" / "bin" / "activate"
    environment.parent.mkdir(parents=True)
    environment.write_text('echo activated >> "$STUBS/calls"\n')
    (folder / "job.sh").write_text(script)
    variables = {
        "PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}",
        "STUBS": str(stubs),
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_JOB_ID": "12345",
        "ENVIRONMENT": "BATCH",  # as SLURM has it in every job
        "SHARED": str(folder / "shared"),
        "VENV": str(folder / "environment"),
        **given,
    }
    with subprocess.Popen(
        ["bash", "job.sh"],
        cwd=folder,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as job:
        code = job.wait(60)
        time.sleep(0.5)  # in which what was begun in the background writes its line
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGTERM)  # as SLURM ends the steps of a job
    calls = stubs / "calls"
    return code, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.skipif(shutil.which("bash") is None, reason="is written for bash")
@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_the_slurm_script_starts_a_cluster_on_any_number_of_nodes(
    nodes: int, tmp_path: Path
) -> None:
    code, calls = submitted(tmp_path, RAY, SLURM_JOB_NUM_NODES=str(nodes))
    assert code == 7, "the command's own exit code"
    assert calls[0] == "activated"
    assert "too-early" not in calls
    heads = [call for call in calls if call.startswith("srun") and "--head" in call]
    workers = [c for c in calls if c.startswith("srun") and "start --address=node1:" in c]
    assert len(heads) == 1
    assert "-w node1" in heads[0]
    assert len(workers) == (nodes > 1)
    assert all(f"--nodes={nodes - 1} --ntasks={nodes - 1}" in call for call in workers)
    assert all("--exclude=node1" in call for call in workers)
    assert all("[16]" in call for call in (*heads, *workers)), "srun has no CPUs of its own"
    (command,) = [call for call in calls if call.startswith("lfp-bench")]
    assert "--executor ray --ray-address node1:" in command


@pytest.mark.skipif(shutil.which("bash") is None, reason="is written for bash")
@pytest.mark.parametrize("part", ["blobs", "circles", "swirls"])
def test_each_task_of_an_array_job_makes_a_part(part: str, tmp_path: Path) -> None:
    task = list(read("toy").parts).index(part)
    code, calls = submitted(tmp_path, ARRAY, SLURM_ARRAY_TASK_ID=str(task))
    assert code == 7, "the command's own exit code"
    assert calls[0] == "activated"
    (command,) = [call for call in calls if call.startswith("lfp-bench")]
    assert f"run toy --size paper --part {part} --results {tmp_path}/shared/results" in command
    assert f"--array=0-{len(read('toy').parts) - 1} " in ARRAY


@pytest.mark.parametrize("script", [RAY, ARRAY])
def test_a_slurm_script_ends_where_something_is_missing(script: str, tmp_path: Path) -> None:
    given = {"SLURM_JOB_NUM_NODES": "1", "SLURM_ARRAY_TASK_ID": "0"}
    for number, missing in enumerate(({"VENV": "/nowhere"}, {"SHARED": ""})):
        (folder := tmp_path / str(number)).mkdir()
        code, calls = submitted(folder, script, **{**given, **missing})
        assert code not in (0, 7)
        assert not [call for call in calls if call.startswith("lfp-bench")]


def test_the_slurm_script_waits_for_nothing_by_the_clock() -> None:
    assert not re.search(r"^sleep", RAY, re.MULTILINE)
    checked = subprocess.run(["bash", "-n"], input=RAY, text=True, check=False)
    assert checked.returncode == 0


# --- tox ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "LFP_DATA", "OMP_NUM_THREADS"])
def test_the_tests_of_a_gpu_get_what_chooses_it(name: str) -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    patterns = tox["testenv:gpu"]["pass_env"].split()
    assert any(re.fullmatch(pattern.replace("*", ".*"), name) for pattern in patterns)
