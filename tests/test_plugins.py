"""Names of other packages: found without a fork, and no harm done by those that are broken."""

import inspect
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from torch import nn

from baselines import METHODS, REWARDS, Activation
from baselines.registry import Registry
from benchmarks.data import DATASETS, Preset, Source
from benchmarks.models import ACTIVATIONS, MODELS, Model
from benchmarks.runs import sources

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]


class Told(NamedTuple):
    """What came of a command."""

    code: int
    stdout: str
    stderr: str


Commands = Callable[..., list[Told]]
ROOT = Path(__file__).parent.parent

PLUGIN = """
from torch import nn
import torch.nn.functional as F
from dataclasses import replace
from typing import Annotated
import pandas as pd
from pydantic import BaseModel, Field
from baselines import SGD, Activation, Settings
from baselines.options import LogUniform, options
from benchmarks import data
from benchmarks.runs.run import Run
from benchmarks.experiments.base import STRICT, Experiment
from benchmarks.rendering.document import Section, Table


@options
class SlowSettings(Settings):
    strength: Annotated[float, Field(gt=0, le=1, description="Of the gradient.")] = 0.5
    search = {**Settings.search, "strength": LogUniform(0.1, 1)}


class Slow(SGD):
    name = "slow"
    label = "slow descent"
    Options = SlowSettings

    def fill_gradients(self, inputs, targets):
        logits = self.model(inputs)
        F.cross_entropy(logits, targets, reduction=self.settings.reduction).backward()
        for parameter in self.parameters:
            parameter.grad.mul_(self.settings.strength)
        return F.cross_entropy(logits.detach(), targets)


class Unsaid(SGD):
    name = "unsaid"

    def fill_gradients(self, inputs, targets):
        loss = super().fill_gradients(inputs, targets)
        for parameter in self.parameters:
            parameter.grad.sign_()
        return loss


class SignSGD(Unsaid):
    name = "sign-sgd"
    normalised = True


def reward(logits, targets, reduction):
    return F.one_hot(targets, logits.shape[1]) * logits.sign().detach() / len(logits)


def sensitive(beta):
    import snntorch
    return snntorch.Leaky(beta=beta, threshold=0.5, init_hidden=True)


snap = Activation(sensitive, spiking=True, label="snap neurons")


def model(input_shape, classes, act):
    yield nn.Flatten()
    yield nn.Linear(2, 4)
    yield act()
    yield nn.Linear(4, classes)


def dataset(name, seed, root):
    return replace(data.load("blobs", seed=seed), name=name)


class Options(BaseModel):
    model_config = STRICT


class Nothing(Experiment):
    schema = Options

    def runs(self, options):
        return 2

    def plan(self, options, results):
        each = {"sgd": Settings(0.1), "slow": SlowSettings(0.1)}
        shared = "relu", 0, 1, 64
        return [Run("final", "blobs", "toy-mlp", m, *shared, s) for m, s in each.items()]

    def sections(self, options, found):
        frame = pd.DataFrame({"found": ["nothing"]})
        table = Table("nothing", "Nothing", (("found",), [("nothing",)]), frame)
        return [Section("Nothing", tables=[table])]
"""
ENTRY_POINTS = """
[lfp_bench.methods]
slow = other_package:Slow
sgd = other_package:Slow
broken = other_package.missing:Broken
sign-sgd = other_package:SignSGD
unsaid = other_package:Unsaid
[lfp_bench.rewards]
grow = other_package:reward
[lfp_bench.activations]
softplus = torch.nn:Softplus
snap = other_package:snap
[lfp_bench.models]
tiny = other_package:model
[lfp_bench.datasets]
spots = other_package:dataset
[lfp_bench.experiments]
nothing = other_package:Nothing
"""
STUDY = "title: none\nexperiment: nothing\nparts: {one: {}}\nsizes: {smoke: {}}\n"
COMPARISON = """
title: methods and neurons of another package
common: {dataset: spots, model: tiny, methods: [slow, lfp], activations: [softplus, snap]}
parts: {one: {strength: 0.25, options: {lfp: {reward: grow}}}}
sizes: {smoke: {seeds: 1, epochs: 1, time_steps: 3, learning_rate: {slow: 0.1, lfp: 0.01}}}
"""
#: Some tests of one method and all of a normalised one; and what one that does not say so fails.
KINDS = ("(slow and (dtype or sum or same)) or sign-sgd", "unsaid and sum")
COMMAND = "import sys; from benchmarks.cli import app; app(sys.argv[1:])"
#: Imports everything but the package, and forks for each line of stdin, which has the folder of the
#: package, its environment, and commands, as lists of words, or programs. Tells what came of each.
WARM = """
import importlib, json, os, sys, traceback
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
import pandas, scipy.stats, torch, torch._dynamo
from benchmarks.cli import app
from benchmarks.experiments import comparison

def told(one):
    out, error, code = StringIO(), StringIO(), 0
    with redirect_stdout(out), redirect_stderr(error):
        try:
            app(one) if isinstance(one, list) else exec(one, {})
        except SystemExit as left:
            code = left.code or 0
        except BaseException:
            code = traceback.print_exc() or 1
    return code, out.getvalue(), error.getvalue()

for line in sys.stdin:
    folder, environment, each = json.loads(line)
    if os.fork() == 0:
        os.chdir(folder)
        os.environ.update(environment)
        sys.path.insert(1, folder)
        importlib.invalidate_caches()
        print(json.dumps([told(one) for one in each]), flush=True)
        os._exit(0)
    os.wait()
"""


def installed(folder: Path) -> dict[str, str]:
    """Put a package of another project on the path, as pip would; return the environment."""
    (folder / "other_package").mkdir()
    (folder / "other_package" / "__init__.py").write_text(PLUGIN)
    metadata = folder / "other_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "300",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Runs Python beside the package of the other project."""
    environment = installed(tmp_path)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.fixture(scope="module")
def warm() -> Iterator[subprocess.Popen[str]]:
    """A process that has imported what takes long, once for all tests."""
    with subprocess.Popen(
        [sys.executable, "-c", WARM],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def commands(tmp_path: Path, warm: subprocess.Popen[str]) -> Commands:
    """Runs commands and programs one after the other in a process beside the package."""
    environment = installed(tmp_path)

    def commands(*each: Sequence[str]) -> list[Told]:
        assert warm.stdin is not None
        assert warm.stdout is not None
        warm.stdin.write(f"{json.dumps([str(tmp_path), environment, each])}\n")
        warm.stdin.flush()
        return [Told(*one) for one in json.loads(warm.stdout.readline())]

    return commands


def test_a_package_adds_one_of_each(tmp_path: Path, commands: Commands) -> None:
    (tmp_path / "mine.yaml").write_text(STUDY)
    compared, ran = commands(
        [
            *("compare", "--dataset", "spots", "--model", "tiny", "--json"),
            *("--methods", "slow,lfp", "--activations", "softplus", "--reward", "grow"),
            *("--seeds", "1", "--epochs", "1", "--learning-rate", "slow=0.1"),
            *("--learning-rate", "lfp=0.01", "--strength", "0.75"),
        ],
        ["run", "mine.yaml", "--size", "smoke", "--json"],
    )
    assert compared.code == 0, compared.stderr
    found = json.loads(compared.stdout)
    assert [(row["activation"], row["method"]) for row in found["rows"]] == [
        ("softplus", "lfp"),
        ("softplus", "slow"),
    ]
    settings = found["configuration"]["settings"]
    assert (settings["lfp"]["reward"], settings["slow"]["strength"]) == ("grow", 0.75)
    assert "strength" not in settings["lfp"]
    lines = compared.stderr.splitlines()
    told = [line.partition(" WARNING ")[2] for line in lines if "lfp_bench.methods" in line]
    assert told == [
        "other_package:Slow is not 'sgd' of lfp_bench.methods: the name is taken",
        "other_package.missing:Broken is not 'broken' of lfp_bench.methods: "
        "ModuleNotFoundError: No module named 'other_package.missing'",
    ]
    assert json.loads(ran.stdout)["parts"][0]["rows"] == [{"found": "nothing"}]


def test_the_tests_of_methods_are_passed_by_those_that_say_what_they_are(
    commands: Commands,
) -> None:
    """What docs/plugins.md tells the author of a method to do."""
    right, wrong = (
        ["-q", "--pyargs", "validation.methods.test_methods", "-k", kind] for kind in KINDS
    )
    both = f"import pytest; print('codes', *(int(pytest.main(a)) for a in {[right, wrong]}))"
    (tested,) = commands(both)
    assert "codes 0 1" in tested.stdout, tested.stdout + tested.stderr
    assert " passed" in tested.stdout
    assert re.findall(r"FAILED .*::(\w+)", tested.stdout) == [
        "test_sum_is_mean_at_a_learning_rate_smaller_by_the_batch_size"
    ]


def test_what_is_installed_changes_no_default_and_is_offered_by_tab(commands: Commands) -> None:
    program = (
        "from baselines import METHODS; from benchmarks.experiments.comparison import Options\n"
        "from benchmarks.models import ACTIVATIONS\n"
        "default, every = Options().study(), Options(methods='all').study()\n"
        "print(list(default.activations) == list(ACTIVATIONS.own), 'snap' in ACTIVATIONS)\n"
        "print(list(every.methods) == list(METHODS.own), 'slow' in METHODS)"
    )
    tab = (
        "import os, lfp_bench\n"
        "from contextlib import suppress\n"
        "for option in ('--methods', '--activations', '--model'):\n"
        "    os.environ.update(_LFP_BENCH_COMPLETE='complete_bash', COMP_CWORD='3')\n"
        "    os.environ['COMP_WORDS'] = f'lfp-bench compare {option} '\n"
        "    with suppress(SystemExit):\n"
        "        lfp_bench.main()"
    )
    (compared,), (completed,) = commands(program), commands(tab)
    assert compared.stdout.split() == ["True"] * 4, compared.stderr
    assert {"slow", "snap", "tiny"} <= set(completed.stdout.split())


def test_options_and_neurons_of_a_package_are_in_the_help_a_study_and_a_report(
    tmp_path: Path, commands: Commands
) -> None:
    (tmp_path / "mine.yaml").write_text(COMPARISON)
    shown, ran, reported, not_its, too_large = commands(
        ["compare", "--help"],
        ["run", "mine.yaml", "--size", "smoke", "--json"],
        ["report", "mine.yaml", "--size", "smoke"],
        ["compare", "--methods", "lfp", "--strength", "0.5"],
        ["compare", "--methods", "slow", "--strength", "2"],
    )
    assert "--strength" in shown.stdout
    assert "(slow)" in shown.stdout
    assert ran.code == 0, ran.stderr
    (part,) = json.loads(ran.stdout)["parts"]
    refusals = {(row["activation"], row["method"]): row["refusal"] for row in part["rows"]}
    assert refusals == {
        ("softplus", "lfp"): "",
        ("softplus", "slow"): "",
        ("snap", "lfp"): "",
        ("snap", "slow"): "a spike has no derivative",
    }
    assert {row["remark"] for row in part["rows"]} == {""}, "there are no numbers to remark on"
    spikes = {(row["activation"], row["method"]): row["spikes"] for row in part["rows"]}
    assert spikes["snap", "lfp"] is not None
    assert spikes["softplus", "lfp"] is None
    assert reported.code == 0, reported.stderr
    page = Path(reported.stdout.strip()).with_suffix(".md")
    text = (tmp_path / page).read_text()
    assert "Options that are not the defaults: reward grow (lfp); strength 0.25 (slow)." in text
    assert "snap: beta 0.9, T = 3, constant input" in text
    results = pd.read_csv(tmp_path / "results" / "mine-smoke" / "one" / "runs.csv")
    assert results.set_index("method")["strength"].dropna().to_dict() == {"slow": 0.25}
    assert set(results["activation"]) == {"softplus", "snap"}
    assert "strength: not an option of lfp; allowed with: slow" in not_its.stderr
    assert "strength must lie in (0, 1], not 2.0" in too_large.stderr


def test_the_help_is_remembered_until_a_package_changes(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (points,) = tmp_path.glob("*.dist-info/entry_points.txt")
    points.write_text("[lfp_bench.methods]\nslow = other_package:Slow\n")
    package = tmp_path / "other_package" / "__init__.py"
    for path in tmp_path.rglob("*.*"):
        wait_until_old(path)
    program = (
        f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {COMMAND}"
    )

    def told() -> tuple[str, str]:
        lines = call("-c", program, "compare", "--help").stdout.splitlines()
        (line,) = (line for line in lines if "--strength" in line)
        return line, lines[-1]

    (first, slow), (again, quick) = told(), told()
    assert "[default: (0.5)]" in first
    assert (again, slow, quick) == (first, "True", "False")
    package.write_text(package.read_text().replace("] = 0.5", "] = 0.7"))
    changed, slow = told()
    assert ("[default: (0.7)]" in changed, slow) == (True, "True")


def test_what_a_package_prints_when_it_is_imported_for_the_options_is_no_result(
    tmp_path: Path, call: Call
) -> None:
    with (tmp_path / "other_package" / "__init__.py").open("a") as file:
        file.write("print('hello')\nimport os\nos.write(1, b'and below')\n")
    asked = ("compare", "--dataset", "none", "--json")
    found = call("-m", "lfp_bench", *asked)
    assert (found.returncode, found.stdout) == (2, "")
    assert all(printed in found.stderr for printed in ("hello", "and below"))


def wait_until_old(path: Path) -> None:
    """Wait until nobody takes a file for one that is being changed."""
    time.sleep(max(path.stat().st_ctime_ns + 1.1e9 - time.time_ns(), 0) / 1e9)


def test_a_method_that_has_changed_makes_its_runs_anew(tmp_path: Path, commands: Commands) -> None:
    (tmp_path / "mine.yaml").write_text(STUDY)
    runs = tmp_path / "results" / "mine-smoke" / "one" / "runs"

    def norms() -> tuple[dict[str, set[float]], str]:
        (done,) = commands(["run", "mine.yaml", "--size", "smoke", "--json"])
        assert done.code == 0, done.stderr
        found: dict[str, set[float]] = {"sgd": set(), "slow": set()}
        for record in (json.loads(path.read_text()) for path in runs.iterdir()):
            found[record["run"]["method"]].add(record["history"][-1]["feedback_norm_max"])
        return found, done.stderr

    before, _ = norms()
    assert {method: len(each) for method, each in before.items()} == {"sgd": 1, "slow": 1}
    package = tmp_path / "other_package" / "__init__.py"
    package.write_text(f"# A comment changes nothing.\n{package.read_text()}")
    assert norms()[0] == before
    assert len(list(runs.iterdir())) == 2
    package.write_text(package.read_text().replace("mul_(self", "mul_(0.5 * self"))
    after, told = norms()
    assert len(list(runs.iterdir())) == 3
    assert after["sgd"] == before["sgd"], "ours are not made again"
    assert min(after["slow"]) < 0.6 * min(before["slow"])
    assert "1 results of other code are kept, and not used" in told


def test_our_own_names_are_of_our_code_alone() -> None:
    registries = (METHODS, REWARDS, *(table for table in (ACTIVATIONS, DATASETS, MODELS)))
    for table in registries:
        for name in table.own:
            item = table[name]
            made = getattr(item, "make", None) or getattr(item, "load", None)
            assert sources.files_of(made or getattr(item, "layers", item)) == (), name


def test_ours_are_found_without_importing_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baselines.registry.entry_points", lambda group: pytest.fail("imported"))
    registry: Registry[int] = Registry("test", {"a": 1})
    assert registry["a"] == 1
    assert "a" in registry


def test_what_is_entered_may_be_where_it_is_and_is_imported_when_it_is_asked_for() -> None:
    registry: Registry[type] = Registry("test", {"one": "decimal:Decimal", "gone": "nowhere:A"})
    assert list(registry) == registry.announced() == ["one", "gone"]
    assert registry["one"] is Decimal
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        registry["gone"]


def test_what_is_entered_may_be_simpler_than_what_it_stands_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ACTIVATIONS.own, "softplus", nn.Softplus)
    softplus = ACTIVATIONS["softplus"]
    assert replace(softplus, make=inspect.unwrap(softplus.make)) == Activation(nn.Softplus)
    assert ACTIVATIONS["softplus"].differentiable
    assert not ACTIVATIONS["softplus"].spiking
    assert isinstance(ACTIVATIONS["softplus"](), nn.Softplus)
    load = DATASETS["digits"].load
    monkeypatch.setitem(DATASETS.own, "mine", load)
    assert DATASETS["mine"] == Source(load, Preset("mlp", 10, 2, 128))
    layers = MODELS["mlp"].layers
    monkeypatch.setitem(MODELS.own, "mine", layers)
    mine = MODELS["mine"]
    own = replace(mine, layers=inspect.unwrap(mine.layers))
    assert own == Model(layers, input_shape=(1, 28, 28), small=False)


@pytest.mark.parametrize("name", ["", "all", "a b", "a,b", "a=b", "-a", "a\nb", "a "])
def test_a_name_that_nobody_can_ask_for_is_left_out(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    points = [EntryPoint(one, "builtins:int", "test") for one in (name, "größe")]
    monkeypatch.setattr("baselines.registry.entry_points", lambda group: points)
    registry: Registry[type] = Registry("test", {})
    assert list(registry) == ["größe"]
    assert f"builtins:int is not {name!r} of test: allowed names: without spaces" in caplog.text
    with pytest.raises(ValueError, match=re.escape(f"test: {name!r}; allowed: without spaces")):
        registry.register(name)(int)


class Skipped(BaseException):
    """As pytest raises where a module of tests is imported that cannot run."""


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, GeneratorExit, Skipped])
def test_what_a_package_raises_is_told_in_one_line(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(item: type) -> type:
        raise error("a\nb")

    point = EntryPoint("mine", "builtins:int", "test")
    monkeypatch.setattr("baselines.registry.entry_points", lambda group: [point])
    assert not list(Registry("test", {}, fail))
    assert [record.getMessage() for record in caplog.records] == [
        f"builtins:int is not 'mine' of test: {error.__name__}: a b"
    ]


def test_ctrl_c_while_a_package_is_imported_is_no_fault_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(item: type) -> type:
        raise KeyboardInterrupt

    point = EntryPoint("mine", "builtins:int", "test")
    monkeypatch.setattr("baselines.registry.entry_points", lambda group: [point])
    with pytest.raises(KeyboardInterrupt):
        list(Registry("test", {}, interrupt))


def test_a_decorator_enters_a_name_once(caplog: pytest.LogCaptureFixture) -> None:
    registry: Registry[type] = Registry("test", {"int": int})

    @registry.register("mine")
    class Mine:
        pass

    assert list(registry.items()) == [("int", int), ("mine", Mine)]
    with pytest.raises(ValueError, match="test: 'int' is registered already"):
        registry.register("int")(float)
    assert registry["int"] is int
    with caplog.at_level(logging.WARNING):
        assert len(registry) == 2
    assert not caplog.text
