"""The commands that look at what is there, with exit code 1 if something is not as it has to be."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from baselines.registry import pick
from benchmarks.cli import completion, names
from benchmarks.cli.app import app, refusing
from benchmarks.cli.options import AsJson, Device, prepare
from benchmarks.cli.output import print_json, print_table
from benchmarks.rendering.text import origins


@app.command()
def verify(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE:CALLABLE", help="Callable that returns a model of your own to check."
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="SHAPE[=LOW..HIGH]|PACKAGE:CALLABLE",
            help="Shape of an input of that model, like 3,32,32; 128=0..50256 for tokens; or what "
            "returns all inputs. Can be repeated, for several arguments.",
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="Precision of the check: float32 or float64.",
            autocompletion=completion.given("float32", "float64"),
        ),
    ] = "float32",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Check the engine on this machine against Theorem 1 and an oracle; exit code 1: it differs."""
    import torch  # noqa: PLC0415  (slow, as what follows)

    from benchmarks.storage.provenance import describe  # noqa: PLC0415
    from validation import verify as checks  # noqa: PLC0415

    with refusing(ValueError, TypeError, RuntimeError):
        precision = pick("dtype", dtype, {"float32": torch.float32, "float64": torch.float64})
        chosen_device = prepare(device, None, ["mlp"])
        if model is None and inputs:
            raise ValueError(f"input: {inputs[0]!r}; allowed: with --model alone")
        if model is None:
            found = list(checks.machine(chosen_device, precision))
        else:
            own = checks.prepared(model, inputs or [], chosen_device, precision)
            with refusing(ValueError, TypeError, RuntimeError, of=f"model: {model!r}"):
                found = list(checks.users_model(*own))
    environment = describe(chosen_device)
    if as_json:
        print_json({"checks": [asdict(check) for check in found], "environment": environment})
    else:
        lines = [(check.name, check.verdict, check.detail) for check in found]
        remarks = [f"Checked on: {o}." for o in origins([environment])]
        print_table((("check", "verdict", "detail"), lines), remarks)
    if any(check.verdict == "differs" for check in found):
        raise typer.Exit(1)


@app.command()
def doctor(
    results: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Say what this machine has and lacks, and how to mend it; exit code 1: an error."""
    from benchmarks.cli.doctor import examine  # noqa: PLC0415  (slow)

    found = list(examine(results))
    if as_json:
        print_json({"found": [asdict(finding) for finding in found]})
    else:
        lines = [(finding.thing, finding.verdict, finding.detail) for finding in found]
        print_table((("check", "verdict", "detail"), lines), [])
    if any(finding.verdict == "error" for finding in found):
        raise typer.Exit(1)


@app.command()
def data(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|all]",
            help=f"One of: {', '.join(names.datasets())}; or all.",
            autocompletion=completion.one_of(lambda: [*names.datasets(), "all"]),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a data set, or verify it if it is there; without a name, tell which are there."""
    from benchmarks import data as data_sets  # noqa: PLC0415  (slow, as what follows)
    from benchmarks.data import DATASETS, DataError  # noqa: PLC0415

    with refusing(ValueError, DataError, OSError):
        pick("name", name or "all", {"all": None, **DATASETS})
        wanted = list(DATASETS) if name in ("all", None) else [str(name)]
        found = [_data_set(one, fetch=name is not None) for one in wanted]
    if as_json:
        print_json({"folder": str(data_sets.default_root()), "data sets": found})
    else:
        header = ("data set", "verdict", "train", "validation", "test", "MB", "source")
        lines = [
            (
                one["name"],
                one["verdict"],
                *(str(one["examples"].get(split, "-")) for split in header[2:5]),
                f"{sum(file['bytes'] or 0 for file in one['files']) / 1e6:.0f}",
                one["source"],
            )
            for one in found
        ]
        print_table((header, lines), [f"Files are in {data_sets.default_root()} ($LFP_DATA)."])


def _data_set(name: str, fetch: bool) -> dict[str, Any]:
    """Return what is known of a data set, after fetching or verifying it if that is asked for."""
    from benchmarks import data as data_sets  # noqa: PLC0415  (slow)

    archive, root = data_sets.ARCHIVES.get(name), data_sets.default_root()
    examples = {}
    if fetch:
        loaded = data_sets.load(name)
        splits = {"train": loaded.train, "validation": loaded.validation, "test": loaded.test}
        examples = {split: len(part) for split, part in splits.items()}
    if archive is None:
        verdict = "needs no files"
    elif fetch:
        verdict = "verified"
    else:
        verdict = "there" if archive.is_there(root) else "missing"
    files: list[dict[str, Any]] = []
    if archive is not None:
        for file, checksum in archive.sha256.items():
            path = archive.folder(root) / file
            size = path.stat().st_size if path.exists() else None
            files.append({"file": str(path), "bytes": size, "sha256": checksum})
    source = "-" if archive is None else ", then ".join(archive.sources)
    return {
        "name": name,
        "verdict": verdict,
        "examples": examples,
        "files": files,
        "source": source,
    }
