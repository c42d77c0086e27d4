"""`lfp-bench verify` with models of one's own: tokens, several inputs, and where they are found."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from benchmarks import cli
from validation.inputs import BATCH, Inputs, make

MODEL = '''
import torch
from torch import nn


class Tagger(nn.Module):
    """Reads tokens; returns logits for each of them, in a dictionary."""

    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(100, 8), nn.Linear(8, 5)
        self.silent = nn.Parameter(torch.zeros(5))

    def forward(self, tokens, mask=None):
        hidden = self.embedding(tokens).relu()
        if mask is not None:
            hidden = hidden * mask.unsqueeze(-1)
        return {"logits": self.layer(hidden) + self.silent}


def build():
    return Tagger()


def make_inputs():
    return {"tokens": torch.randint(0, 100, (3, 7)), "mask": torch.ones(3, 7)}


def fail():
    raise KeyError("no such thing")


def leave():
    raise SystemExit(3)


def frozen():
    return nn.Linear(7, 3).requires_grad_(False)


def sequence():
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


nothing = None
'''


@pytest.fixture
def mymodel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in a folder with a module that is not on Python's path."""
    (tmp_path / "mymodel.py").write_text(MODEL)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "script.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield
    for name in ("mymodel", "broken"):
        sys.modules.pop(name, None)


def verify(*arguments: str) -> dict[str, tuple[str, str]]:
    result = CliRunner().invoke(cli.app, ["verify", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return {c["name"]: (c["verdict"], c["detail"]) for c in json.loads(result.stdout)["checks"]}


@pytest.mark.usefixtures("mymodel")
@pytest.mark.parametrize(
    "inputs", [("7=0..99",), ("7=0..99", "7=0.0..1.0"), ("mymodel:make_inputs",)]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_of_tokens_in_the_current_folder(inputs: tuple[str, ...], dtype: str) -> None:
    options = [word for text in inputs for word in ("--input", text)]
    found = verify("--model", "mymodel:build", *options, "--dtype", dtype)
    assert found["every operation has a rule"][0] == "agrees"
    verdict, detail = found["every parameter can learn"]
    assert verdict == "warning"
    assert "(silent)" in detail
    assert found["oracle"][0] == "does not apply"


@pytest.mark.usefixtures("mymodel")
def test_logits_for_each_of_several_places_are_checked_with_theorem_1() -> None:
    found = verify("--model", "mymodel:sequence", "--input", "6,5", "--dtype", "float64")
    assert found["Theorem 1"][0] == "agrees"
    plain = verify("--model", "mymodel:sequence", "--input", "5=-1.0..1.0", "--dtype", "float64")
    assert plain["Theorem 1"][0] == plain["oracle"][0] == "agrees"


@pytest.mark.usefixtures("mymodel")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mymodel:build", "7"), "model: 'mymodel:build' does not go with the inputs ("),
        (("mymodel:build", "7=0..100000"), "does not go with the inputs (IndexError: "),
        (("mymodel:build", "7=9..0"), "input: '9..0' are no bounds; allowed: LOW..HIGH"),
        (("mymodel:build", "7=0..x"), "input: '0..x' are no bounds"),
        (("mymodel:build", "7=0.0..inf"), "input: '0.0..inf' are no bounds"),
        (("mymodel:build", "7="), "input: '' are no bounds"),
        (("mymodel:build", "7=0..99999999999999999999"), "are no bounds"),
        (("mymodel:build", "0"), "input: '0'; allowed: whole numbers from 1"),
        (("mymodel:build", "-3"), "input: '-3'; allowed: whole numbers from 1"),
        (("mymodel:build", "3,"), "input: ''; allowed: whole numbers from 1"),
        (("mymodel:build", "9999999999"), "allowed: whole numbers from 1"),
        (("mymodel:build", "999999999,999999"), "input: '999999999,999999' cannot be drawn ("),
        (("mymodel:build", "mymodel:fail"), "input: 'mymodel:fail' failed (KeyError: "),
        (("mymodel:build", "mymodel:build"), "returned Tagger; allowed: a tensor"),
        (("mymodel:build", "mymodel:none"), "input: 'mymodel:none' is no package:callable"),
        (("mymodel:nothing", "7"), "model: 'mymodel:nothing' is no callable, but of type NoneType"),
        (("mymodel:make_inputs", "7"), "(TypeError: a dict was made, and no nn.Module)"),
        (("mymodel:fail", "7"), "(KeyError: 'no such thing')"),
        (("mymodel", "7"), "model: 'mymodel' is no package:callable"),
        (("mymodel:leave", "7"), "(SystemExit: 3)"),
        (("mymodel:build", "mymodel:leave"), "input: 'mymodel:leave' failed (SystemExit: 3)"),
        (("mymodel:frozen", "7"), "(TypeError: it has no parameter that requires a gradient)"),
        (("script:build", "7"), "model: 'script:build' cannot be imported (SystemExit: 0)"),
        (("broken:build", "7"), "model: 'broken:build' cannot be imported (ZeroDivisionError"),
        (("nowhere.at.all:build", "7"), "model: 'nowhere.at.all:build' is no package:callable"),
        ((":build", "7"), "model: ':build' is no package:callable"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: tuple[str, str], message: str) -> None:
    model, inputs = arguments
    result = CliRunner().invoke(cli.app, ["verify", "--model", model, f"--input={inputs}"])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert message in line


def test_inputs_are_those_of_a_model() -> None:
    result = CliRunner().invoke(cli.app, ["verify", "--input", "3"])
    assert result.exit_code == 2
    assert result.stderr == "error: input: '3'; allowed: with --model alone\n"


@pytest.mark.slow
def test_the_command_finds_the_current_folder(tmp_path: Path) -> None:
    """Whose path Python does not look into, when it runs an installed command."""
    (tmp_path / "mymodel.py").write_text(MODEL)
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if p]; import lfp_bench; lfp_bench.main()"
    )
    done = subprocess.run(
        [*(sys.executable, "-c", code, "verify"), *("--model", "mymodel:sequence", "--input", "5")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Theorem 1" in done.stdout


# --- descriptions ---------------------------------------------------------------------------------


def _not_asked(name: str) -> Any:
    raise AssertionError(name)


def described(*texts: str) -> tuple[Tensor, ...]:
    return make(texts, _not_asked).positional


def test_inputs_are_drawn_as_they_are_described() -> None:
    images, tokens, shares = described("3,4,5", "7=2..4", "6=-0.5..0.5")
    assert images.shape == (BATCH, 3, 4, 5)
    assert images.dtype == shares.dtype == torch.float32
    assert tokens.shape == (BATCH, 7)
    assert tokens.dtype == torch.int64
    assert set(described("1000=2..4")[0].unique().tolist()) == {2, 3, 4}
    assert -0.5 <= float(shares.min()) < float(shares.max()) <= 0.5
    assert torch.equal(described("7=2..4", "3")[0], described("7=2..4")[0])


def test_whole_numbers_keep_their_type_wherever_they_are() -> None:
    pair = (torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    moved = Inputs(pair, {"deep": [pair, "text"]}).to(torch.device("cpu"), torch.float64)
    deep: Any = moved.named["deep"]
    assert [t.dtype for t in (*moved.positional, *deep[0])] == [torch.int64, torch.float64] * 2
    assert deep[1] == "text"


class Returning(nn.Module):
    """Returns whatever it is given."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(5, 3), kind

    def forward(self, x: Tensor) -> Any:
        """Return the logits in some form."""
        return self.kind(self.layer(x))


@pytest.mark.parametrize(
    "kind",
    [
        lambda y: y,
        lambda y: (y, 1),
        lambda y: [y],
        lambda y: {"logits": y},
        lambda y: SimpleNamespace(logits=y),
        lambda y: y.unflatten(0, (2, 2)),
    ],
)
def test_logits_are_found_in_what_a_model_returns(kind: Any) -> None:
    from validation.verify import users_model  # noqa: PLC0415

    x = torch.randn(4, 5, dtype=torch.float64)
    found = {check.name: check.verdict for check in users_model(Returning(kind), x)}
    assert found["Theorem 1"] == "agrees"
