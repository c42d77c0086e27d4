"""Bad input of every kind: one line with field, value and what is allowed, and nothing is lost."""

import errno
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner, Result

from benchmarks import data
from benchmarks.analysis import diagnosis
from benchmarks.cli import app, logs
from benchmarks.costs import step
from benchmarks.data import DATASETS, Dataset, Split
from benchmarks.experiments.comparison import study as study_module
from benchmarks.runs.store import Store
from benchmarks.studies import written

QUICK = (
    *("compare", "--dataset", "blobs", "--methods", "lfp", "--activations", "relu"),
    *("--seeds", "1", "--epochs", "1", "--learning-rate", "lfp=0.1"),
)
FOLDER = Path("results") / "blobs-toy-mlp"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder that has no data, with few repeats."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LFP_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(study_module, "COST_REPEATS", 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


def refused(*arguments: str) -> str:
    """Give a command that must be refused; return its one line of error."""
    result: Result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().endswith(lines[0]), "the error comes last, in one line"
    return lines[0]


# --- options --------------------------------------------------------------------------------------

CASES: list[tuple[tuple[str, ...], str]] = [
    ((), "Missing command."),
    (("compar",), "No such command 'compar'. Did you mean 'compare'?"),
    (("compare", "--epoch", "1"), "--epoch"),
    (("compare", "--seeds", "1", "--seeds=2"), "'--seeds': is given twice; allowed: once"),
    (("compare", "--momentum", "0", "--momentum", "0"), "'--momentum': is given twice"),
    (("compare", "--json", "--json"), "'--json': is given twice"),
    (("verify", "--model", "a:b", "--model", "a:b"), "'--model': is given twice"),
    (("perf", "roofline", "--results", "a", "--results", "a"), "'--results': is given twice"),
    *(((command, ""), "'folder': ''; allowed: a path") for command in ("clean", "pack", "migrate")),
    (("resume", ""), "'folder': ''; allowed: a path"),
    (("diff", "a-file", ""), "'other': ''; allowed: a path"),
    (("status", "toy", "--results="), "'--results': ''; allowed: a path"),
    (("status", ""), "study: unknown name ''"),
    (("report", "--size", "smoke"), "size: 'smoke'; allowed: with the name of a study"),
    (("compare", "--epsilon", "1e39"), "epsilon must be finite and >= 0, and within 3.40282e+38"),
    (
        ("compare", "--learning-rate", "lfp=1e39"),
        "learning_rate must be finite and > 0, and within",
    ),
    (("diagnose", "--epsilon", "1e39"), "epsilon must be finite and >= 0, and within 3.40282e+38"),
    (
        ("speed", "--batch-size", "1000001"),
        "'--batch-size': '1000001'; allowed: whole numbers from",
    ),
    (("speed", "--repeats", "9" * 20), "allowed: whole numbers from 1 to 1000000"),
    (("speed", "--models", "vit-tiny", "--activations", "lif"), "activations: nothing is left to"),
    (("run", "toy", "reward=[softmax]"), "toy: blobs (cpu): reward: unknown name ['softmax']"),
    (("run", "toy", "optimizer={}"), "optimizer: unknown name {}. Allowed: sgd, adam"),
    (
        ("run", "toy", "dataset=digits"),
        "toy: blobs (cpu): model: 'toy-mlp' does not go with digits",
    ),
    (("compare", "--epochs", "many"), "'--epochs': 'many'; allowed: whole numbers from 1"),
    (("compare", "--seeds", "0"), "'--seeds': '0'; allowed: whole numbers from 1"),
    (("compare", "--threads", "-1"), "'--threads': '-1'; allowed: whole numbers from 1"),
    (("compare", "--momentum", "high"), "'--momentum': 'high' is not a number"),
    (("compare", "--momentum", "nan"), "momentum must lie in [0, 1), not nan"),
    (("compare", "--clip-norm", "-1"), "clip_norm must be > 0 or None, not -1.0"),
    (("compare", "--epsilon", "-1"), "epsilon must be finite and >= 0, not -1.0"),
    (("compare", "--reduction", "max"), "reduction must be 'mean' or 'sum', not 'max'"),
    (("compare", "--dataset", "mnits"), "dataset: unknown name 'mnits'; did you mean 'mnist'?"),
    (("compare", "--model", "lennet"), "model: unknown name 'lennet'; did you mean 'lenet'?"),
    (("compare", "--model", "lenet"), "model: 'lenet' does not go with digits"),
    (("compare", "--methods", "sdg"), "methods: unknown name 'sdg'; did you mean 'sgd'?"),
    *(
        (("compare", f"--{field}", names), f"{field}: unknown name ''. Allowed: ")
        for field in ("methods", "activations")
        for names in ("", ",", "sgd,,lfp", "lfp, ", "all,")
    ),
    *(
        (
            ("compare", option, f"{before}{number}"),
            f"{number!r} is not a number; allowed: {'above 0' if 'rate' in option else 'digits'}",
        )
        for option, before in (
            *(("--epsilon", ""), ("--beta", ""), ("--gpu-share", "")),
            *(("--learning-rate", "lfp="), ("--learning-rates", "")),
        )
        for number in ("\uff11", "\u0663", "1_000", "", "0x1", "1e1_0", "1e", "1 0")
    ),
    (("compare", "--learning-rates", "1,,2"), "learning_rates: '' is not a number; allowed: above"),
    (("compare", "--activations", "relu,rely"), "activations: unknown name 'rely'"),
    (("compare", "--learning-rates", "1,x"), "learning_rates: 'x' is not a number"),
    (("compare", "--learning-rates", "1,1"), "learning_rates: "),
    (("compare", "--learning-rates", "0"), "learning_rate must be finite and > 0, not 0.0"),
    (("compare", "--learning-rate", "0.1"), "learning_rate: '0.1' is not of the form"),
    (("compare", "--learning-rate", "lpf=1"), "learning_rate: unknown name 'lpf'"),
    (("compare", "--device", "gpu"), "device: unknown name 'gpu'"),
    (("compare", "--study", "../x"), "study: '../x' is no name for a folder"),
    *(
        ((*command, "--results", "a-file"), "'--results': 'a-file' is no folder, as a-file is a")
        for command in (("compare",), ("run", "toy"), ("status", "toy"), ("report",), ("speed",))
    ),
    (("compare", "--results", "a-file/x/y"), "'a-file/x/y' is no folder, as a-file is a file; all"),
    (("report", "toy", "--results", "/dev/null"), "'/dev/null' is no folder, as /dev/null is a"),
    (("run", "toy", "--results", "x" * 300), "xxx...' is no folder (File name too long); allowed"),
    (("speed", "--models", "resnet"), "models: unknown name 'resnet'"),
    (("speed", "--repeats", "0"), "'--repeats': '0'; allowed: whole numbers from 1"),
    (("speed", "--batch-size", "0"), "'--batch-size': '0'; allowed"),
    (("compare", "--learning-rates", "nan"), "learning_rate must be finite and > 0, not nan"),
    (("compare", "--learning-rate", "lfp=-1"), "learning_rate must be finite and > 0, not -1.0"),
    (("compare", "--learning-rate", "lfp=fast"), "learning_rate: 'fast' is not a number"),
    (("compare", "--seconds", "lfp=0"), "seconds: 0.0 for lfp; allowed: finite, above 0"),
    (("compare", "--seconds", "lfp=nan"), "seconds: nan for lfp; allowed: finite, above 0"),
    (("compare", "--seconds", "lpf=1"), "seconds: unknown name 'lpf'; did you mean 'lfp'?"),
    (("compare", "--clip-norm", "nan"), "clip_norm must be > 0 or None, not nan"),
    (("compare", "--clip-norm", "inf"), "clip_norm: inf; allowed: above 0, or 0"),
    (("compare", "--epsilon", "nan"), "epsilon must be finite and >= 0, not nan"),
    (("compare", "--adaptive-clip", "-1"), "adaptive_clip must be finite and > 0"),
    (("compare", "--schedule", "cosine"), "schedule must be 'constant' or 'one-cycle'"),
    (("compare", "--optimizer", "adma"), "optimizer: unknown name 'adma'; did you mean 'adam'?"),
    (("compare", "--normaliser", "new"), "normaliser must be 'current' or 'earlier', not 'new'"),
    (("compare", "--reward", "sofmax"), "reward: unknown name 'sofmax'; did you mean 'softmax'?"),
    (("compare", "--units", "mirrored"), "units must be 'identity' or 'reverse' or 'shifted'"),
    (
        ("compare", "--methods", "sgd,wsgd", "--epsilon", "0.1"),
        "epsilon: not an option of sgd, wsgd; allowed with: lfp",
    ),
    (("compare", "--beta", "2"), "beta"),
    (("compare", "--beta", "nan"), "beta"),
    (("compare", "--encoding", "morse"), "encoding"),
    (("compare", "--time-steps", "0"), "'--time-steps': '0'; allowed: whole numbers from 1"),
    (("compare", "--batch-size", "1.5"), "'--batch-size': '1.5'; allowed: whole numbers from 1"),
    (("compare", "--sweep-seeds", "0"), "'--sweep-seeds': '0'; allowed: whole numbers from 1"),
    (("compare", "--methods", "rstdp", "--activations", "relu"), "methods: none goes with the"),
    (("compare", "--executor", "slurm"), "executor: unknown name 'slurm'"),
    (("compare", "--executor", "ray", "--gpu-share", "0"), "gpu_share: 0.0; allowed: above 0"),
    (("compare", "--executor", "ray", "--gpu-share", "nan"), "gpu_share: nan; allowed: above 0"),
    (("compare", "--jobs", "0"), "'--jobs': '0'; allowed: whole numbers from 1"),
    (("compare", "--results", "/proc/none"), "/proc/none"),
    (("diagnose", "--dataset", "mnits"), "dataset: unknown name 'mnits'"),
    (("diagnose", "--dataset", "blobs", "--model", "lennet"), "model: unknown name 'lennet'"),
    (("diagnose", "--activations", "lif"), "activations: unknown name 'lif'"),
    (("diagnose", "--learning-rate", "0"), "learning_rate must be finite and > 0, not 0.0"),
    (("diagnose", "--epsilon", "-1"), "epsilon must be finite and >= 0, not -1.0"),
    (("diagnose", "--reduction", "max"), "reduction must be 'mean' or 'sum', not 'max'"),
    (("diagnose", "--dataset", "blobs", "--model", "toy-mlp", "--study", "../x"), "study: '../x'"),
    (("run", "toys"), "study: unknown name 'toys'; did you mean 'toy'?"),
    (("run", "toy", "--size", "tiny"), "size: unknown name 'tiny'"),
    (("run", "missing.yaml"), "missing.yaml: there is no such file"),
    (("run",), "Missing argument 'STUDY'"),
    (("status", "toys"), "study: unknown name 'toys'"),
    (("resume", "nowhere"), "folder: nowhere holds no study.json"),
    (("resume", "x" * 300), "x" * 300),
    (("data", "cifar"), "name: unknown name 'cifar'; did you mean 'cifar10'?"),
    (("verify", "--dtype", "int8"), "dtype: unknown name 'int8'"),
    (("verify", "--model", "nonsense", "--input", "3"), "model: 'nonsense' is no package:callable"),
    (("verify", "--model", "os:nothing", "--input", "3"), "model: 'os:nothing' is no package"),
    (("verify", "--model", "torch.nn:Module", "--input", "3,x"), "input: 'x'; allowed: whole"),
]


@pytest.mark.parametrize(("arguments", "message"), CASES)
def test_an_option(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    assert message in refused(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"], "nothing was begun"


# --- study files ----------------------------------------------------------------------------------

GOOD = """title: a study
common: {model: toy-mlp, methods: [lfp], activations: [relu], dataset: blobs}
parts: {one: {epochs: 1}}
sizes: {smoke: {seeds: 1}}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: a study", "title: [", "not YAML"),
        (GOOD, "", "the file: Input should be"),
        (GOOD, "- a\n- list", "the file: Input should be"),
        ("title", "titel", "titel: unknown key; did you mean 'title'?"),
        ("a study", "3", "title: Input should be a valid string, not 3"),
        ("epochs: 1", "epoch: 1", "one (smoke): epoch: unknown key; did you mean 'epochs'?"),
        ("epochs: 1", "epochs: many", "one (smoke): epochs: Input should be a valid integer"),
        ("epochs: 1", "epochs: 0", "one (smoke): epochs: Input should be greater than or equal"),
        ("epochs: 1", "epsilon: .nan", "parts.one.epsilon: .nan; allowed: finite"),
        ("epochs: 1", "options: {lpf: {epsilon: 1}}", "options: unknown name 'lpf'; did you mean"),
        ("epochs: 1", "options: {sgd: {momentum: 0}}", "options: unknown name 'sgd'"),
        (
            "epochs: 1",
            "options: {lfp: {epsilom: 1}}",
            "options.lfp: unknown name 'epsilom'; did you mean 'epsilon'?",
        ),
        ("epochs: 1", "options: {lfp: {epsilon: -1}}", "epsilon must be finite and >= 0, not -1"),
        ("epochs: 1", "options: {lfp: {learning_rate: 1}}", "options.lfp: unknown name 'learning"),
        ("[lfp]", "[sgd], epsilon: 1", "epsilon: not an option of sgd; allowed with: lfp"),
        ("epochs: 1", "clip_norm: -1", "clip_norm must be > 0 or None, not -1"),
        ("epochs: 1", "reward: max", "reward: unknown name 'max'"),
        ("epochs: 1", "dataset: blob", "dataset: unknown name 'blob'; did you mean 'blobs'?"),
        ("[lfp]", "[]", "methods: List should have at least 1 item"),
        ("[lfp]", "[lpf]", "methods: unknown name 'lpf'; did you mean 'lfp'?"),
        ("[relu]", "[relou]", "activations: unknown name 'relou'; did you mean 'relu'?"),
        ("parts: {one: {epochs: 1}}", "grid: {epsilon: []}", "grid.epsilon: List should have"),
        ("parts: {one: {epochs: 1}}", "", "parts: there is none, and no grid"),
        ("smoke", "huge", "sizes.huge"),
        ("{seeds: 1}", "{parts: [two]}", "parts: unknown name 'two'"),
        ("sizes: {smoke: {seeds: 1}}", "sizes: {}", "sizes: Dictionary should have at least 1"),
        (
            "sizes: {smoke: {seeds: 1}}",
            "grid: {beta: [0.3, 0.6]}\nsizes: {smoke: {seeds: 1}, cpu: {seeds: 1, beta: 0.9}}",
            "sizes.cpu.beta: the grid has this key; allowed: keys that are not in the grid",
        ),
        ("title: a study", "title: a\nexperiment: prunning", "experiment: unknown name 'prunning'"),
    ],
)
def test_a_study_file(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in GOOD
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new))
    line = refused("run", str(path), "--size", "smoke")
    assert message in line
    assert "mine.yaml" in line
    assert [other.name for other in tmp_path.iterdir()] == ["mine.yaml"]


# --- data -----------------------------------------------------------------------------------------


def test_a_change_leaves_parts_the_values_that_they_are_named_after(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("sizes", "grid: {clip_norm: [1, 3]}\nsizes"))
    line = refused("run", str(path), "clip_norm=2", "--size", "smoke")
    assert "mine.yaml: clip_norm: the grid has this key" in line
    assert [other.name for other in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_truncated_file_of_data_is_named_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "data" / "CIFAR10" / "raw" / "test_lables.json"
    path.parent.mkdir(parents=True)
    path.write_text("[3, 8")
    for command in (("data", "cifar10"), ("compare", "--dataset", "cifar10")):
        line = refused(*command)
        assert "test_lables.json: sha256 is" in line
        assert "delete the file to have it fetched again" in line
    assert path.read_text() == "[3, 8"
    assert not Path("results").exists()


def test_data_that_cannot_be_fetched_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    line = refused("data", "cifar10")
    assert "CIFAR10 could not be fetched" in line
    assert "npm is not installed" in line


def spoiled(part: Split, *, inputs: float | None = None, target: int | None = None) -> Split:
    """Return the split with the first input or target replaced."""
    x, targets = part.inputs.clone(), part.targets.clone()
    if inputs is not None:
        x[0] = inputs
    if target is not None:
        targets[0] = target
    return Split(x, targets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 2}, "mine: targets of train lie in [0, 2]; allowed: [0, 1]"),
        ({"target": -1}, "mine: targets of train lie in [-1, 1]; allowed: [0, 1]"),
        ({"inputs": float("nan")}, "mine: inputs of train are not all finite"),
        ({"inputs": float("inf")}, "mine: inputs of train are not all finite"),
    ],
)
def test_a_data_set_that_is_wrong(
    change: dict[str, float], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, seed: int, root: Path) -> Dataset:
        good = data.load("blobs", seed=seed)
        return replace(good, name=name, train=spoiled(good.train, **change))  # type: ignore[arg-type]

    monkeypatch.setitem(DATASETS.own, "mine", load)
    line = refused("compare", "--dataset", "mine", "--methods", "sgd", "--activations", "relu")
    assert message in line
    assert not Path("results").exists()


# --- the disk, and others at work -----------------------------------------------------------------


def test_a_corrupt_result_is_named_and_kept() -> None:
    assert CliRunner().invoke(app, QUICK).exit_code == 0
    (path,) = (FOLDER / "runs").iterdir()
    path.write_text("{")
    assert path.name in refused(*QUICK)
    assert path.read_text() == "{"
    path.unlink()
    assert CliRunner().invoke(app, QUICK).exit_code == 0


def test_a_full_disk_is_told_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(app, QUICK).exit_code == 0
    before = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left on device" in refused(*QUICK, "--beta", "0.5")
    assert {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()} == before
    assert CliRunner().invoke(app, QUICK).exit_code == 0


def test_a_loop_of_links_in_place_of_the_results_is_told(tmp_path: Path) -> None:
    for name, other in (("here", "there"), ("there", "here")):
        (tmp_path / name).symlink_to(other)
    told = refused("run", "toy", "--size", "smoke", "--results", "here")
    assert "here/toy-smoke" in told
    own = tmp_path / "own.yaml"
    own.write_text((written.FOLDER / "toy.yaml").read_text())
    told = refused("run", str(own), "--size", "smoke", "--results", "there")
    assert "there/own-smoke" in told


@pytest.mark.parametrize("name", [b"results \xe9", b"\xff/\xfe"])
def test_a_path_that_is_not_utf_8_is_written_with_escapes(
    name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for logger in logs.LOGGERS:  # of which pytest would send messages that are no UTF-8
        monkeypatch.setattr(logging.getLogger(logger), "propagate", False)
    folder = os.fsdecode(name)
    done = CliRunner().invoke(app, [*QUICK, "--results", folder])
    assert done.exit_code == 0, done.output
    table = Path(folder, "blobs-toy-mlp", "table.md").read_text("utf-8")
    assert "\\udc" in next(line for line in table.splitlines() if line.startswith("- Command"))
    assert "begun: lfp-bench compare" in Path(folder, "blobs-toy-mlp.log").read_text("utf-8")
    done = CliRunner().invoke(app, ["report", "--results", folder])
    assert done.exit_code == 0, done.output
    assert "\\udc" in Path(folder, "blobs-toy-mlp", "report.html").read_text("utf-8")


def test_two_processes_on_one_study() -> None:
    with Store(FOLDER).locked():
        assert "another process is at work on this study" in refused(*QUICK)


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(address: str, **options: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    line = refused(*QUICK, "--executor", "ray", "--ray-address", "auto")
    assert "ray_address: 'auto' is no cluster; nobody answers" in line
    nobody = refused(*QUICK, "--executor", "ray", "--ray-address", "127.0.0.1:1")
    assert "ray_address: '127.0.0.1:1' is no cluster; " in nobody
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "executor: 'ray' needs the extra" in refused(*QUICK, "--executor", "ray")


@pytest.mark.parametrize("command", ["swarms", "rstdp", "spiking", "steps", "roofline", "scaling"])
def test_a_folder_that_cannot_be_made_is_told_before_anything_is_timed(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = data.load("blobs")
    monkeypatch.setattr(data, "load", lambda name: blobs)
    for module, name in {
        "swarms": "measure",
        "rstdp": "measure",
        "spiking": "measure",
        "steps": "measure_missing",
        "roofline.report": "write_report",
        "scaling": "write_report",
    }.items():
        monkeypatch.setattr(f"benchmarks.performance.{module}.{name}", None)  # not to be called
    assert "/proc/none" in refused("perf", command, "--results", "/proc/none")


@pytest.mark.parametrize("command", ["speed", "diagnose"])
def test_a_folder_that_cannot_be_made_is_told_before_anything_is_measured(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*arguments: object) -> None:
        raise AssertionError("measured for nothing")

    monkeypatch.setattr(step, "measure", measured)
    monkeypatch.setattr(diagnosis, "before_and_after", measured)
    own = ("--dataset", "blobs", "--model", "toy-mlp") if command == "diagnose" else ()
    assert "/proc/none" in refused(command, *own, "--results", "/proc/none")
