"""The commands that check something, with exit code 1 if it fails."""

from dataclasses import asdict
from typing import Annotated

import torch
import typer

from benchmarks import table
from benchmarks.cli.app import app, refusing
from benchmarks.cli.options import AsJson, Device, parse_size, prepare
from benchmarks.cli.output import print_json, print_table
from benchmarks.environment import describe
from benchmarks.registry import pick


@app.command()
def verify(
    model: Annotated[
        str | None,
        typer.Option(metavar="PACKAGE:CALLABLE", help="Returns a model of your own to check."),
    ] = None,
    shape: Annotated[
        str, typer.Option("--input", help="Shape of an input of that model, like 3,32,32.")
    ] = "",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Check the engine on this machine against Theorem 1 and an oracle; exit code 1: it differs."""
    from validation import verify as checks  # noqa: PLC0415  (tests, of no use to other commands)

    with refusing(ValueError, TypeError, RuntimeError):
        precision = pick("dtype", dtype, {"float32": torch.float32, "float64": torch.float64})
        chosen_device = prepare(device, None, ["mlp"])
        if model is None:
            found = list(checks.machine(chosen_device, precision))
        else:
            sizes = [parse_size("input", text) for text in shape.split(",")]
            torch.manual_seed(0)
            inputs = torch.randn(checks.BATCH, *sizes).to(chosen_device, precision)
            found = list(checks.users_model(checks.load(model)(), inputs))
    environment = describe(chosen_device)
    if as_json:
        print_json({"checks": [asdict(check) for check in found], "environment": environment})
    else:
        lines = [(check.name, check.verdict, check.detail) for check in found]
        origins = [f"Checked on: {o}." for o in table.origin([environment])]
        print_table((("check", "verdict", "detail"), lines), origins)
    if any(check.verdict == "differs" for check in found):
        raise typer.Exit(1)
