"""The command line: JSON alone on stdout, one line and exit code 2 for bad input, resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from benchmarks.cli import app
from benchmarks.costs import step
from benchmarks.experiments.comparison import study
from benchmarks.performance.gpu_session import HEED
from benchmarks.runs import training
from benchmarks.runs.store import Store
from benchmarks.runs.training import execute

pytestmark = pytest.mark.slow

QUICK = (
    *("compare", "--dataset", "blobs", "--methods", "lfp,sgd", "--activations", "relu"),
    *("--seeds", "1", "--epochs", "1", "--sweep-epochs", "1", "--sweep-seeds", "1"),
    *("--learning-rates", "0.01,0.1", "--learning-rate", "sgd=0.1"),
)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with few repeats, and keep the number of threads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "COST_REPEATS", 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_compare_reports_and_resumes(tmp_path: Path) -> None:
    first = invoke(*QUICK)
    assert first.exit_code == 0, first.output
    assert "relu" in first.stdout
    told = first.stderr.strip().rpartition(": ")[2].split(", ")
    assert {"figure.png", "results.csv", "runs.csv", "table.md"} <= set(told)
    folder = tmp_path / "results" / "blobs-toy-mlp"
    described = json.loads((folder / "study.json").read_text())
    assert described["command"] == f"lfp-bench {' '.join(QUICK)}"
    assert described["configuration"]["fixed_rates"] == {"sgd": 0.1}
    assert {"commit", "torch", "processor", "threads", "date"} <= set(described["environment"])
    stored = {path: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()}
    assert len(stored) == 2 + 2
    (folder / "notes.md").write_text("mine")
    second = invoke(*QUICK)
    assert second.stdout == first.stdout
    assert second.stderr.strip().rpartition(": ")[2].split(", ") == told, "what it wrote itself"
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()} == stored


def test_json_is_all_that_stdout_holds() -> None:
    result = invoke(*QUICK, "--json", "--study", "other")
    summary = json.loads(result.stdout)
    assert summary["folder"] == "results/other"
    assert [(row["activation"], row["method"]) for row in summary["rows"]] == [
        ("relu", "lfp"),
        ("relu", "sgd"),
    ]
    assert all(0 <= row["test_accuracy_mean"] <= 1 for row in summary["rows"])


def test_ctrl_c_says_how_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made == 3:
            raise KeyboardInterrupt
        return execute(*arguments)

    monkeypatch.setattr(training, "execute", interrupted)
    result = invoke(*QUICK)
    assert result.exit_code == 130
    assert f"the same command resumes: lfp-bench {' '.join(QUICK)}" in result.stderr
    assert len(list((tmp_path / "results" / "blobs-toy-mlp" / "runs").iterdir())) == 2
    assert invoke(*QUICK).exit_code == 0
    assert made == 3 + 2


def test_two_processes_do_not_work_on_one_study(tmp_path: Path) -> None:
    with Store(tmp_path / "results" / "blobs-toy-mlp").locked():
        result = invoke(*QUICK)
    assert result.exit_code == 2
    assert "blobs-toy-mlp: another process is at work on this study" in result.stderr
    assert invoke(*QUICK).exit_code == 0


@pytest.mark.thorough  # as test_processes_measure_the_same, by the command
def test_jobs_change_nothing_but_the_time() -> None:
    one = json.loads(invoke(*QUICK, "--json", "--study", "one").stdout)["rows"]
    two = json.loads(invoke(*QUICK, "--json", "--study", "two", "--jobs", "2").stdout)["rows"]
    fields = ("activation", "method", "test_accuracy_mean", "learning_rate", "feedback_norm_max")
    assert [[r[f] for f in fields] for r in two] == [[r[f] for f in fields] for r in one]


def test_cuda_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = invoke("speed", "--device", "cuda")
    assert result.exit_code == 2
    assert "device: 'cuda' is not available on this machine; allowed: auto, cpu" in result.stderr


def test_speed_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "peer_is_installed", lambda: False)
    arguments = ("--models", "toy-mlp", "--activations", "relu,tanh", "--repeats", "2", "--peer")
    result = invoke("speed", *arguments, "--json")
    assert result.exit_code == 0, result.output
    assert "lfprop is missing" in result.stderr
    found = json.loads(result.stdout)
    assert [(row["activation"], row["method"]) for row in found["rows"]] == [
        (activation, method) for activation in ("relu", "tanh") for method in ("lfp", "sgd", "wsgd")
    ]
    folder = tmp_path / "results" / "speed"
    assert json.loads((folder / "speed.json").read_text()) == found
    assert (folder / "speed.md").read_text().count("| toy-mlp |") == len(found["rows"])


def test_a_missing_peer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object, **options: object) -> None:
        raise ImportError("No module named 'lfprop'")

    monkeypatch.setattr(step, "peer_step", missing)
    assert not step.peer_is_installed()


def test_diagnose_reports_and_stores(tmp_path: Path) -> None:
    arguments = ("--dataset", "blobs", "--model", "toy-mlp", "--activations", "relu,heaviside")
    result = invoke("diagnose", *arguments, "--epochs", "1")
    assert result.exit_code == 0, result.output
    assert "heaviside" in result.stdout
    folder = tmp_path / "results" / "diagnosis-blobs-toy-mlp"
    stored = json.loads((folder / "diagnosis.json").read_text())
    layers = stored["activations"]["heaviside"]["after training"]
    assert [layer["layer"] for layer in layers] == [1, 2]
    assert (folder / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    printed = invoke("diagnose", *arguments, "--epochs", "1", "--json")
    assert json.loads(printed.stdout)["activations"].keys() == {"relu", "heaviside"}


# --- studies that are written down ----------------------------------------------------------------

PLAN = """
title: a study
common: {model: toy-mlp, methods: [lfp, sgd], activations: [relu], learning_rates: [0.1, 0.3]}
parts: {one: {dataset: blobs}, two: {dataset: circles}}
sizes: {smoke: {seeds: 1, epochs: 1, sweep_epochs: 1, sweep_seeds: 1, batch_size: 512}}
"""


@pytest.fixture
def plan(tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(PLAN)
    return str(tmp_path / "mine.yaml")


def test_a_written_study_is_run_part_by_part_and_not_twice(plan: str, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "mine-smoke"
    first = invoke("run", plan, "--size", "smoke", "--json")
    parts = json.loads(first.stdout)["parts"]
    assert [part["part"] for part in parts] == ["one", "two"]
    assert [len(part["rows"]) for part in parts] == [2, 2]
    stored = {path: path.stat().st_mtime_ns for path in folder.glob("*/runs/*")}
    assert len(stored) == 2 * 2 * (2 + 1)
    assert (
        json.loads(invoke("run", plan, "--size", "smoke", "--json").stdout)["parts"][0]["rows"]
        == parts[0]["rows"]
    )
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/runs/*")} == stored
    assert all((folder / part / "table.md").exists() for part in ("one", "two"))


def test_status_counts_what_is_done(plan: str, tmp_path: Path) -> None:
    def counted() -> list[tuple[int, int]]:
        told = json.loads(invoke("status", plan, "--size", "smoke", "--json").stdout)
        return [(part["done"], part["of"]) for part in told["parts"]]

    assert counted() == [(0, 6), (0, 6)]
    invoke("run", plan, "--size", "smoke")
    assert counted() == [(6, 6), (6, 6)]
    runs = (tmp_path / "results" / "mine-smoke" / "two" / "runs").iterdir()
    stored = {path: json.loads(path.read_text())["run"] for path in runs}
    paths = {(run["kind"], run["method"]): path for path, run in stored.items()}
    paths["final", "lfp"].unlink()
    assert counted() == [(6, 6), (5, 6)]
    paths["sweep", "sgd"].unlink()
    assert counted() == [(6, 6), (3, 6)], "without a whole sweep nobody knows what follows it"
    assert "two" in invoke("status", plan, "--size", "smoke").stdout


def test_studies_are_listed_with_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    listed = json.loads(invoke("list", "--json").stdout)["studies"]
    toy = next(study for study in listed if study["study"] == "toy")
    assert toy["runs"]["smoke"] == 3 * 2 * (2 + 1)
    assert toy["title"] in invoke("list").stdout


def test_ctrl_c_during_a_run_leaves_whole_files_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(PLAN.replace("{seeds: 1", "{seeds: 300"))
    command = HEED + "import sys; from benchmarks.cli import app; app(sys.argv[1:])"
    arguments = ("run", "long.yaml", "--size", "smoke", "--threads", "1")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    folder = tmp_path / "results" / "long-smoke"
    with subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("one/runs/*.json"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert f"or: lfp-bench resume {Path('results') / 'long-smoke' / 'one'}" in told
    assert "Traceback" not in told
    assert len(Store(folder / "one").all()) >= 3, "every file can be read"
    assert not list(folder.rglob("*.tmp"))


# --- going on, and what is there ------------------------------------------------------------------


def test_resume_needs_no_options(tmp_path: Path) -> None:
    first = json.loads(invoke(*QUICK, "--json").stdout)
    runs = tmp_path / "results" / "blobs-toy-mlp" / "runs"
    gone = min(runs.iterdir())
    gone.unlink()
    again = invoke("resume", "results/blobs-toy-mlp", "--json")
    assert again.exit_code == 0, again.stderr
    assert gone.exists()
    (part,) = json.loads(again.stdout)["parts"]
    assert (part["command"], part["configuration"]) == (first["command"], first["configuration"])
    fields = ("test_accuracy_mean", "learning_rate")
    assert [[r[f] for f in fields] for r in part["rows"]] == [
        [r[f] for f in fields] for r in first["rows"]
    ]


def test_resume_makes_the_parts_that_were_not_begun(plan: str, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "mine-smoke"
    invoke("run", plan, "--size", "smoke")
    Path(plan).unlink()  # the folder is enough
    for path in list((folder / "two").glob("*/*")):
        path.unlink()
    parts = json.loads(invoke("resume", str(folder), "--json").stdout)["parts"]
    assert [part["part"] for part in parts] == ["one", "two"]
    assert len(list((folder / "two" / "runs").iterdir())) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no study.json"),
        ("{", "study.json: does not say what the study is (JSONDecodeError"),
        ("{}", "study.json: does not say what the study is (schema: 0; allowed: 1"),
        ('{"schema": 1}', "study.json: does not say what the study is (KeyError: 'experiment')"),
        (
            '{"schema": 1, "command": "", "experiment": "comparson", "options": {}}',
            "did you mean 'comparison'?",
        ),
        (
            '{"schema": 1, "command": "", "experiment": "comparison", "options": {"seeds": 0}}',
            "seeds",
        ),
    ],
)
def test_a_folder_that_cannot_be_resumed_is_refused(
    content: str | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    result = invoke("resume", str(tmp_path))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_data_tells_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LFP_DATA", str(tmp_path))
    told = json.loads(invoke("data", "--json").stdout)["data sets"]
    verdicts = {one["name"]: one["verdict"] for one in told}
    assert verdicts["digits"] == "needs no files"
    assert verdicts["cifar10"] == "missing"
    assert all(len(f["sha256"]) == 64 for one in told for f in one["files"])
    (digits,) = json.loads(invoke("data", "digits", "--json").stdout)["data sets"]
    assert digits["examples"] == {"train": 1221, "validation": 216, "test": 360}
    assert "cifar10" in invoke("data").stdout
    assert "did you mean 'mnist'?" in invoke("data", "mnits").stderr


def test_shells_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    script = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="lfp-bench")
    assert "_LFP_BENCH_COMPLETE=complete_bash" in script.stdout
    monkeypatch.setenv("_LFP_BENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "lfp-bench re")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert "resume" in CliRunner().invoke(app, [], prog_name="lfp-bench").stdout.split()


def test_what_diverges_is_what_diagnose_finds(tmp_path: Path) -> None:
    words = ["diagnose", "--dataset", "blobs", "--model", "toy-mlp", "--epochs", "2"]
    words += ["--activations", "relu"]
    found = CliRunner().invoke(app, [*words, "--learning-rate", "1e38"])
    assert found.exit_code == 1, "nothing else was trained"
    stored = json.loads(Path("results/diagnosis-blobs-toy-mlp/diagnosis.json").read_text())
    assert list(stored["activations"]["relu"]) == ["before training"]
    assert stored["diverged"]["relu"]["step"] >= 1
    assert "relu diverged at step" in found.stdout
    fine = CliRunner().invoke(app, [*words, "--learning-rate", "0.01", "--study", "fine"])
    assert fine.exit_code == 0, fine.output
    stored = json.loads(Path("results/fine/diagnosis.json").read_text())
    assert list(stored["activations"]["relu"]) == ["before training", "after training"]
    assert stored["diverged"] == {}


def test_speed_leaves_out_what_does_not_go_together() -> None:
    words = ["speed", "--models", "toy-mlp,vit-tiny", "--activations", "lif", "--methods"]
    found = CliRunner().invoke(app, [*words, "lfp", "--repeats", "1", "--batch-size", "4"])
    assert found.exit_code == 0, found.output
    assert "left out: vit-tiny with lif, as its units must not spike" in found.stderr
    stored = json.loads(Path("results/speed/speed.json").read_text())
    assert [row["model"] for row in stored["rows"]] == ["toy-mlp"]
    nothing = CliRunner().invoke(app, [*words, "sgd"])
    assert nothing.exit_code == 2
    assert "which no method of sgd goes with" in nothing.stderr
