"""`lfp-bench verify`: it agrees where it has to, and can fail."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from benchmarks import cli
from lfp_core import slopes
from validation.verify import machine, users_model

CPU = torch.device("cpu")


def own_model() -> nn.Module:
    """Return a model that a user might have."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))


def softplus_model() -> nn.Module:
    """Return one with a layer that Theorem 1 is not for."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Softplus(), nn.Linear(7, 3))


class Odd(nn.Module):
    """Does something that LFP has no rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return torch.cumprod(self.layer(x), dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_this_machine_is_fine(dtype: torch.dtype) -> None:
    found = list(machine(CPU, dtype))
    assert {check.verdict for check in found} == {"agrees"}
    assert any("control" in check.name for check in found)
    assert sum("oracle" in check.name for check in found) == 6


def test_a_wrong_slope_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    share = slopes.share
    monkeypatch.setattr(slopes, "share", lambda *a, **k: share(*a, **k) * 1.01)
    found = {check.name: check.verdict for check in machine(CPU, torch.float64)}
    assert found["oracle, mlp, tanh"] == "differs"


def test_a_missing_weight_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain gradients are not LFP."""
    from validation import verify  # noqa: PLC0415

    monkeypatch.setattr(
        verify,
        "weight_scaled_gradient",
        lambda model, loss: dict(
            zip(
                model.parameters(),
                torch.autograd.grad(-loss, list(model.parameters())),
                strict=True,
            )
        ),
    )
    found = {check.name: check.verdict for check in machine(CPU, torch.float64)}
    assert found["Theorem 1, mlp, relu"] == "differs"


@pytest.mark.parametrize(
    ("build", "shape", "verdicts"),
    [
        (own_model, (1, 8, 8), ["agrees", "agrees", "agrees", "agrees"]),
        (softplus_model, (5,), ["agrees", "agrees", "does not apply", "agrees"]),
        (lambda: nn.Sequential(own_model(), nn.Hardtanh()), (1, 8, 8), None),
        (Odd, (5,), ["differs"]),
    ],
)
def test_models_of_ones_own(
    build: Callable[[], nn.Module], shape: tuple[int, ...], verdicts: list[str] | None
) -> None:
    found = list(users_model(build(), torch.randn(4, *shape, dtype=torch.float64)))
    if verdicts is None:  # whatever is known of it, nothing differs unnoticed
        assert found
    else:
        assert [check.verdict for check in found] == verdicts


def test_the_command_tells_and_fails() -> None:
    run = CliRunner().invoke
    good = run(cli.app, ["verify", "--model", "tests.test_verify:own_model", "--input", "1,8,8"])
    assert good.exit_code == 0
    assert "Theorem 1" in good.stdout
    odd = run(cli.app, ["verify", "--model", "tests.test_verify:Odd", "--input", "5", "--json"])
    assert odd.exit_code == 1
    (check,) = json.loads(odd.stdout)["checks"]
    assert "cumprod" in check["detail"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dtype", "float16"), "dtype: unknown name 'float16'"),
        (("--model", "nowhere:x", "--input", "3"), "model: 'nowhere:x' is no package:callable"),
        (("--model", "torch.nn:Nothing", "--input", "3"), "model: 'torch.nn:Nothing'"),
        (("--model", "tests.test_verify:Odd"), "input: ''; allowed: whole numbers"),
        (("--model", "tests.test_verify:Odd", "--input", "6"), "shapes cannot be multiplied"),
    ],
)
def test_what_cannot_be_verified_is_refused(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(cli.app, ["verify", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
