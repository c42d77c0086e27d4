"""Brings what older versions have stored to the present one (:mod:`benchmarks.storage.schema`).

Before version 1, runs of a comparison were files in ``runs/`` with accuracies by their names; those
of other experiments stood in one ``records.json``, each kind in a form of its own; and of studies
that were kept there was a ``results.csv`` with a row for each run. All become runs of one form.
What was not recorded is not made up: a run from a table has the end of its history alone, and no
inspection.
"""

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from baselines import FAMILIES, LFP, METHODS, Spiking
from baselines.options import fields_of
from benchmarks.experiments.language.options import Arm
from benchmarks.experiments.language.options import Options as LanguageOptions
from benchmarks.experiments.language.runs import LanguageRun, runs_of
from benchmarks.experiments.options import MethodOptions, chosen
from benchmarks.experiments.pruning.options import Options as PruningOptions
from benchmarks.experiments.pruning.runs import Pruned, pruned
from benchmarks.experiments.regression.options import Options as RegressionOptions
from benchmarks.experiments.regression.runs import RegressionRun
from benchmarks.experiments.rstdp_selection import Candidate
from benchmarks.experiments.rstdp_selection import Options as SelectionOptions
from benchmarks.experiments.rstdp_selection import run_of as selection_run
from benchmarks.experiments.swarm_ablation import SwarmAblation
from benchmarks.experiments.transfer import Options as TransferOptions
from benchmarks.experiments.transfer import TransferRun
from benchmarks.runs.run import Divergence, Epoch, Result, Run
from benchmarks.runs.store import RESULT, Store, Stored, readable
from benchmarks.storage.files import StoreError, read_json, write_json
from benchmarks.storage.schema import current, versioned
from benchmarks.studies.plan import kind_of

Content = dict[str, Any]
#: Where files of runs are put whose content was brought on.
BEFORE = "runs-before-version-1"
#: Names that fields of a history had before.
RENAMED = {"validation_accuracy": "validation", "test_accuracy": "test"}


def migrate(folder: Path) -> int:
    """Bring a study of one part to the present version; what it was made of is kept.

    What is read no more stays: older files of runs in a folder of their own, ``records.json`` and
    ``results.csv`` where they are. If it is interrupted, it can be called again.

    Returns:
        The number of runs that were brought on; 0 where the study is of the present version.

    Raises:
        StoreError: a file cannot be read as what it has to be.
    """
    path = folder / "study.json"
    with readable(path):
        content = read_json(path)
        if content is None:
            raise StoreError(f"{folder} holds no study.json; allowed: a folder with a study")
        if "schema" in content:
            current(content)  # a newer one is refused, and not made older
            return 0
        experiment = content.setdefault("experiment", "comparison")
        kind = kind_of(experiment)
        if "options" not in content:
            content["options"] = options_of(content["configuration"])
        if experiment == "pruning" and not _has_runs(folder):
            content["options"]["learning_rate"] = _rates(folder / "records.json")
        options = kind.schema.model_validate(_asked_for(content["options"], kind.schema))
        content["options"] = options.model_dump(mode="json")
        content["configuration"] = kind.configuration(options)
    found = 0
    for code, stored in _stored(experiment, options, folder, content.get("environment", {})):
        Store(folder, code).save(stored)
        found += 1
    write_json(path, versioned(content))
    return found


def options_of(configuration: Mapping[str, Any]) -> Content:
    """Return the options of a comparison that only its configuration tells of."""
    same = ("dataset", "model", "methods", "activations", "seeds", "epochs", "batch_size")
    shared = configuration.get("settings", configuration)
    spiking = configuration.get("spiking") or {}
    decided = ("learning_rate", "total_steps")
    own = {n: v for n, v in shared.items() if n in fields_of(LFP.Options) and n not in decided}
    if own.get("clip_norm", 0) is None:
        own["clip_norm"] = 0
    return {
        **{name: configuration[name] for name in same},
        **{name: value for name, value in own.items() if value is not None},
        "beta": spiking.get("beta", Spiking.beta),
        "time_steps": spiking.get("steps", Spiking.steps),
        "encoding": spiking.get("encoding", Spiking.encoding),
        "learning_rates": configuration["rates"],
        "learning_rate": configuration["fixed_rates"],
        "sweep_epochs": configuration["sweep_epochs"],
        "sweep_seeds": configuration["sweep_seeds"],
        "seconds": configuration.get("budgets", {}),
    }


def _has_runs(folder: Path) -> bool:
    """Return whether there are, or were, files of runs."""
    if (folder / BEFORE).exists():
        return True
    for path in (folder / "runs").glob("*.json"):
        with readable(path):
            if "schema" not in read_json(path):  # type: ignore[operator]  # it is there
                return True
    return False


def _rates(path: Path) -> dict[str, float]:
    """Return the learning rates of pruned networks, where the sweep that chose them is not kept."""
    with readable(path):
        runs = [record["run"] for record in (read_json(path) or {"runs": []})["runs"]]
        return {run["method"]: run["settings"]["learning_rate"] for run in runs}


def _asked_for(options: Content, schema: type[BaseModel]) -> Content:
    """Return the options without those of methods that are not chosen, which all studies had."""
    if not issubclass(schema, MethodOptions):
        return options
    names = chosen("methods", options["methods"], schema.table, FAMILIES)
    known = {name for method in names for name in fields_of(schema.table[method].Options)}
    return {n: v for n, v in options.items() if n in known or n in schema.model_fields}


def _stored(
    experiment: str, options: BaseModel, folder: Path, environment: Content
) -> Iterator[tuple[str, Stored]]:
    """Yield the version of the code and what it has made, of all that a folder has."""
    code, before = str(environment.get("code", "unknown")), folder / BEFORE
    for path in sorted((folder / "runs").glob("*.json")):
        with readable(path):
            content = read_json(path)
            if content is None or "schema" in content:
                continue
            own = content.pop("environment")
            yield str(own.get("code", code)), Stored(_from_run(content), own)
        before.mkdir(exist_ok=True)
        path.rename(before / path.name)
    path = folder / "records.json"
    with readable(path):
        for record in (read_json(path) or {"runs": []})["runs"]:
            result = RECORDS[experiment](record, options)
            yield record.get("code", code), Stored(result, record.get("environment", environment))
    path = folder / "results.csv"
    if path.exists() and not _has_runs(folder) and experiment == "comparison":
        with readable(path), path.open(newline="") as file:
            for row in csv.DictReader(file):
                yield code, Stored(_from_row(row, options), environment | {"commit": row["commit"]})


def _settings(method: str, stored: Mapping[str, Any]) -> Content:
    """Return those of the options that the method has, as once all methods had all."""
    known = fields_of(METHODS[method].Options) if method in METHODS else stored
    return {name: value for name, value in stored.items() if name in known}


def _from_run(content: Content) -> Result:
    """Read a file of a comparison."""
    run, history = content.pop("run"), content.pop("history")
    settings = METHODS[run["method"]].Options(**_settings(run["method"], run.pop("settings")))
    spiking = run.pop("spiking", None)
    read = Run(**run, settings=settings, spiking=None if spiking is None else Spiking(**spiking))
    epochs = [{RENAMED.get(name, name): v for name, v in epoch.items()} for epoch in history]
    return RESULT.validate_python({**content, "run": read, "history": epochs})


def _from_row(row: Mapping[str, str], options: Any) -> Result:
    """Read a row of a `results.csv`."""

    def number(name: str) -> float | None:
        return float(row[name]) if row.get(name) else None

    study = options.study()
    method, activation = row["method"], row["activation"]
    run = Run(
        kind="sweep" if row["kind"] == "sweep" else "final",
        dataset=row["dataset"],
        model=row["model"],
        method=method,
        activation=activation,
        seed=int(row["seed"]),
        epochs=int(row["epochs"]),
        batch_size=int(row["batch_size"]),
        settings=options.settings(method, float(row["learning_rate"])),
        spiking=study.spiking_of(activation),
        budget=number("budget"),
    )
    end = Epoch(
        number("train_loss"),
        feedback_norm_max=number("feedback_norm_max"),
        validation=number("validation_accuracy"),
        test=number("test_accuracy"),
    )
    diverged = row["diverged"] == "True"
    step = int(number("diverged_step") or 0)
    # Where runs with spikes had time steps, the column of the training steps was theirs.
    steps = 0 if "spikes" in row and "time_steps" not in row else int(number("steps") or 0)
    divergence = Divergence(step, row["diverged_reason"]) if diverged else None
    seconds = number("seconds") or 0.0
    return Result(run, (end,), divergence, steps, seconds, spikes=number("spikes"))


def _of_pruning(record: Content, options: Any) -> Result:
    assert isinstance(options, PruningOptions)
    own = record["run"]
    run = Run(
        **{
            **own,
            "settings": METHODS[own["method"]].Options(**_settings(own["method"], own["settings"])),
        }
    )
    names = ("examples", "accuracy", "layers", "correlation")
    read: Pruned = pruned(run, options)
    return Result(
        read,
        (Epoch(test=record["test accuracy"]),),
        Divergence(0, "not recorded") if record["diverged"] else None,
        0,
        record["seconds"],
        details={} if record["diverged"] else {name: record[name] for name in names},
    )


def _of_regression(record: Content, options: Any) -> Result:
    assert isinstance(options, RegressionOptions)
    own = record["run"]
    method = RegressionRun.methods[own["method"]]
    known = fields_of(method.Options)
    settings = {name: value for name, value in own["settings"].items() if name in known}
    run = RegressionRun(
        **{**own, "settings": method.Options(**settings)}, model="regressor", activation="relu"
    )
    split = "test" if run.kind == "final" else "validation"
    history = tuple(Epoch(**{split: error}) for error in record["errors"])
    divergence = Divergence(0, "the error is not finite") if record["diverged"] else None
    return Result(run, history, divergence, 0, record["seconds"])


def _of_language(record: Content, options: Any) -> Result:
    assert isinstance(options, LanguageOptions)
    arm = Arm(**{name: record[name] for name in Arm._fields if name in record})
    if arm.attention is not None:  # of LFP, which had one treatment of normalisations then
        arm = arm._replace(normalisation="gradient")
    run: LanguageRun = runs_of(arm, options)[record["learning_rate"]][record["seed"]]
    history = [Epoch(), *(Epoch(validation=loss) for loss in record["validation_losses"])]
    history[-1] = Epoch(validation=history[-1].validation, test=record["test_loss"])
    diverged = None in (*record["validation_losses"], record["test_loss"])
    divergence = Divergence(0, "the loss is not finite") if diverged else None
    return Result(run, tuple(history), divergence, options.steps, 0.0)


def _of_swarm(record: Content, options: Any) -> Result:
    runs = {(run.recipe, run.seed): run for run in SwarmAblation().plan(options, {})}
    run = runs[record["name"], record["seed"]]
    history = [Epoch(), *(Epoch(train_loss=cost) for cost in record["cost by iteration"])]
    history[-1] = Epoch(train_loss=history[-1].train_loss, test=record["test accuracy"])
    return Result(run, tuple(history), None, run.epochs, record["seconds"])


def _of_selection(record: Content, options: Any) -> Result:
    assert isinstance(options, SelectionOptions)
    run = selection_run(Candidate(*(record[f.name] for f in fields(Candidate))), options)
    accuracies = record["validation accuracy by epoch"]
    history = (Epoch(), *(Epoch(validation=accuracy) for accuracy in accuracies))
    return Result(run, history, None, 0, record["seconds"])


def _of_transfer(record: Content, options: Any) -> Result:
    assert isinstance(options, TransferOptions)
    own = record["run"]
    settings = METHODS[own["method"]].Options(**_settings(own["method"], own["settings"]))
    run = TransferRun(**{**own, "settings": settings}, side=options.side, weights=options.weights)
    history = tuple(Epoch(test=accuracy) for accuracy in record["accuracies"])
    divergence = Divergence(0, "not recorded") if record["diverged"] else None
    return Result(run, history, divergence, 0, record["seconds"])


#: What reads a record of an experiment.
RECORDS: dict[str, Callable[[Content, Any], Result]] = {
    "pruning": _of_pruning,
    "regression": _of_regression,
    "language": _of_language,
    "swarm-ablation": _of_swarm,
    "rstdp-selection": _of_selection,
    "transfer": _of_transfer,
}
