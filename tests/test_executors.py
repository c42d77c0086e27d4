"""Runs made in other processes are the same runs; and killing processes loses nothing."""

import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from baselines import METHODS, Settings, Spiking
from baselines.workers import LONGEST, submitted
from benchmarks.experiments.comparison import Comparison
from benchmarks.experiments.comparison import study as study_module
from benchmarks.experiments.comparison.study import Study
from benchmarks.experiments.options import MethodOptions
from benchmarks.performance.gpu_session import HEED
from benchmarks.runs import training
from benchmarks.runs.executors import ExecutorError, Here, Local, RayCluster, Worker
from benchmarks.runs.run import Result, Run
from benchmarks.runs.store import Store, Stored
from tests.mortal import Mortal, Refusing
from tests.processes import descendants, workers
from tests.studies import SHORT as RUN
from tests.studies import carry_out

pytestmark = pytest.mark.slow

RUNS = [replace(RUN, seed=seed, method=method) for seed in (0, 1) for method in ("lfp", "sgd")]


def measured(stored: Stored) -> tuple[Any, ...]:
    result: Result = stored.result
    history = [replace(epoch, seconds=None) for epoch in result.history]
    dead = (result.dead_at_start, result.dead_at_end)
    return history, result.divergence, result.steps, result.inspection, *dead


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path, "cpu", threads=1)


@pytest.fixture(scope="module")
def expected() -> dict[Run, tuple[Any, ...]]:
    worker = Worker(Path("nowhere"), "cpu", threads=1)
    return {stored.run: measured(stored) for stored in Here().results(worker, RUNS)}


@pytest.fixture(scope="module")
def local() -> Local:
    """Two processes, which stay for all tests that end none: each imports torch."""
    return Local(2)


def test_processes_measure_the_same(
    worker: Worker, expected: dict[Run, tuple[Any, ...]], local: Local
) -> None:
    found = {stored.result.run: measured(stored) for stored in local.results(worker, RUNS)}
    assert found == expected


def test_processes_stay_for_the_next_runs(worker: Worker, local: Local) -> None:
    list(local.results(worker, RUNS[:2]))
    first = active_children()
    list(local.results(worker, RUNS[2:]))
    assert {process.pid for process in active_children()} == {process.pid for process in first}


# --- killed workers -------------------------------------------------------------------------------


def test_a_killed_worker_is_survived(tmp_path: Path, expected: dict[Run, tuple[Any, ...]]) -> None:
    mortal = Mortal(tmp_path, "cpu", 1, deaths=(1, 3))
    found = [(s.result.run, measured(s)) for s in Local(1).results(mortal, RUNS)]
    assert dict(found) == expected
    assert len(found) == len(RUNS), "none twice"


def test_workers_that_keep_dying_are_given_up(tmp_path: Path) -> None:
    mortal = Mortal(tmp_path, "cpu", 1, deaths=tuple(range(99)))
    with pytest.raises(ExecutorError, match="jobs: all of 1 died"):
        list(Local(1).results(mortal, RUNS))
    assert len(list(tmp_path.glob("attempt-*"))) == 2


@pytest.mark.thorough  # as test_a_killed_worker_is_survived, with the first run
def test_a_run_is_tried_once_more_when_its_worker_is_killed_at_once(tmp_path: Path) -> None:
    mortal = Mortal(tmp_path, "cpu", 1, deaths=(0,))
    (stored,) = Local(1).results(mortal, RUNS[:1])
    assert stored.result.run == RUNS[0]
    assert len(list(tmp_path.glob("attempt-*"))) == 2


def test_a_run_that_diverges_is_not_tried_again(tmp_path: Path, local: Local) -> None:
    diverging = replace(RUN, method="sgd", settings=Settings(1e30, clip_norm=None))
    (stored,) = local.results(Mortal(tmp_path, "cpu", 1), [diverging])
    assert stored.result.divergence is not None
    assert len(list(tmp_path.glob("attempt-*"))) == 1


def test_an_error_in_a_worker_is_raised_and_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(MemoryError, match="lfp needs too much"):
        list(Local(1).results(Refusing(tmp_path, "cpu", 1), RUNS[:1]))


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if happened():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "if __name__ == '__main__':\n"
        "    from dataclasses import replace\n"
        "    from pathlib import Path\n"
        "    from benchmarks.runs.executors import Local, Worker\n"
        "    from tests.noisy import RUN\n"
        f"    worker = Worker(Path({str(tmp_path)!r}), 'cpu', 1)\n"
        "    run = replace(RUN, dataset='blobs', model='toy-mlp', epochs=10**6)\n"
        "    list(Local(2).results(worker, [run]))\n"
    )
    path = tmp_path / "parent.py"
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen([sys.executable, path], env=environment) as parent:
        assert wait_for(lambda: bool(workers(parent.pid)))
        started = descendants(parent.pid)
        parent.kill()
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


@pytest.mark.parametrize("held_back", [True, False])
def test_ctrl_c_while_a_worker_imports_is_for_the_parent(held_back: bool, tmp_path: Path) -> None:
    """A script that workers import gets Ctrl-C there, where they have not yet said a word."""
    script = (
        "import contextlib, os, signal\n"
        "if __name__ != '__main__':\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "from baselines import workers\n"
        "workers.IMPORTED = ()\n"
        "if __name__ == '__main__':\n"
        f"    if not {held_back}:\n"
        "        workers._without_interrupts = contextlib.nullcontext\n"
        "    pool = workers.pool_of(1)\n"
        "    print([future.result() for future in workers.submitted(pool, abs, [-1])])\n"
    )
    (tmp_path / "parent.py").write_text(f"{HEED}\n{script}")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, tmp_path / "parent.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, "BrokenProcessPool" in done.stderr) == (
        ("[1]\n", False) if held_back else ("", True)
    ), done.stderr


# --- a killed study -------------------------------------------------------------------------------

STUDY = Study(
    dataset="blobs",
    model="toy-mlp",
    methods=("lfp", "sgd"),
    activations=("relu",),
    seeds=6,
    epochs=4,
    batch_size=256,
    settings=MethodOptions().settings_by_method(METHODS),
    spiking=Spiking(),
    rates=(0.1, 0.3),
    fixed_rates={},
    sweep_epochs=2,
    sweep_seeds=2,
    budgets={},
)
KILLS = 50


def whole(folder: Path) -> dict[Run, tuple[Any, ...]]:
    """Carry the study out and return what its runs measured."""
    outcome = carry_out(STUDY, folder)
    return {stored.result.run: measured(stored) for stored in outcome.results}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "COST_REPEATS", 1)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)


@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fifty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """Each process dies at a random instant, in which it may train, write a result, or begin."""
    expected, folder, luck = whole(tmp_path / "whole"), tmp_path / "killed", random.Random(0)
    kills, progress = 0, [0]
    while kills < KILLS:
        pid = os.fork()
        if pid == 0:  # a child that has everything imported, and never returns to pytest
            try:
                whole(folder)
            finally:
                os._exit(0)
        time.sleep(luck.uniform(0.0, 0.12))
        os.kill(pid, signal.SIGKILL)
        kills += os.waitpid(pid, 0)[1] == signal.SIGKILL
        runs = folder / "runs"
        done = len(list(runs.glob("*.json"))) if runs.exists() else 0
        assert done >= progress[-1], "a result is gone"
        progress.append(done)
        if done == len(expected):  # before the kills are up: once more
            for path in list(runs.iterdir()):
                path.unlink()
            progress = [0]
    assert whole(folder) == expected
    names = {path.name for path in (folder / "runs").glob("*.json")}
    assert names == {Store(folder, Comparison().code).path(run).name for run in expected}


# --- Ray ------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_no_cluster_is_told(worker: Worker) -> None:
    """Before the others, as their cluster would be found."""
    pytest.importorskip("ray")
    with pytest.raises(ExecutorError, match="ray_address: 'auto' is no cluster"):
        list(RayCluster("auto").results(worker, RUNS))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two nodes on the loopback."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    yield nodes.address
    nodes.shutdown()


@pytest.mark.ray
def test_a_cluster_measures_the_same(
    cluster: str, worker: Worker, expected: dict[Run, tuple[Any, ...]]
) -> None:
    found = {s.result.run: measured(s) for s in RayCluster(cluster).results(worker, RUNS)}
    assert found == expected


@pytest.mark.ray
def test_a_worker_killed_on_the_cluster_is_survived(
    cluster: str, tmp_path: Path, expected: dict[Run, tuple[Any, ...]]
) -> None:
    mortal = Mortal(tmp_path, "cpu", 1, deaths=(1,))
    found = {s.result.run: measured(s) for s in RayCluster(cluster).results(mortal, RUNS)}
    assert found == expected
    assert len(list(tmp_path.glob("attempt-*"))) > len(RUNS)


@pytest.mark.ray
def test_a_run_that_kills_its_workers_is_given_up(cluster: str, tmp_path: Path) -> None:
    mortal = Mortal(tmp_path, "cpu", 1, deaths=tuple(range(99)))
    with pytest.raises(ExecutorError, match="ray: a run's worker died twice"):
        list(RayCluster(cluster).results(mortal, RUNS[:1]))


def test_without_ray_the_extra_is_named(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExecutorError, match=r"needs the extra: pip install lfp-bench\[ray\]"):
        list(RayCluster("auto").results(worker, RUNS))


@pytest.mark.skipif(sys.platform != "linux", reason="has no fork server")
@pytest.mark.parametrize("length", [LONGEST, LONGEST + 10])
def test_a_folder_whose_name_is_too_long_for_sockets_is_named(length: int) -> None:
    """In a process of its own, as one that has a fork server keeps its folder."""
    code = (
        "from baselines import workers\n"
        "workers.IMPORTED = ()\n"
        "pool = workers.pool_of(1)\n"
        "try: print(*(f.result() for f in workers.submitted(pool, abs, [-3])))\n"
        "except ValueError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short, "x" * (length - len(short) - 1))
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parent.parent),
                "TMPDIR": str(folder),
            },
            capture_output=True,
            text=True,
            check=True,
        )
    told = (
        f"$TMPDIR: '{folder}' is too long for the sockets of several processes ({length} bytes); "
        "allowed: at most 70 bytes, or --jobs 1"
    )
    assert done.stdout.strip() == ("3" if length == LONGEST else told)


def test_another_error_of_beginning_processes_is_told_as_it_is() -> None:
    class Full(ProcessPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    with pytest.raises(BlockingIOError):
        submitted(Full(1), abs, [1])
