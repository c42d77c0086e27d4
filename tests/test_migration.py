"""What older versions have stored is read as what it was, and nothing is made up."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from baselines import LFPSettings, Settings
from benchmarks.cli import app
from benchmarks.experiments import conduct
from benchmarks.runs.run import Divergence, Epoch, Result, Run
from benchmarks.runs.store import Store
from benchmarks.storage.files import StoreError, write_json
from benchmarks.studies.collect import described, find
from benchmarks.studies.migration import BEFORE, migrate

ENVIRONMENT = {
    **{"commit": "abc", "code": "old", "date": "2026-01-01", "processor": "a CPU"},
    **{"dirty": False, "python": "3", "torch": "2", "numpy": "2", "platform": "a system"},
    **{"device": "cpu", "threads": 1},
}
RUN = Run("final", "blobs", "toy-mlp", "lfp", "relu", 0, 2, 256, LFPSettings(0.1, epsilon=0.25))
RESULT = Result(
    RUN,
    (Epoch(validation=0.5, test=0.25), Epoch(train_loss=1.5, validation=0.75, test=0.5)),
    Divergence(3, "the loss is nan"),
    steps=4,
    seconds=0.125,
)


def study(folder: Path, experiment: str, options: dict[str, Any]) -> None:
    """Write a study.json as it was before version 1."""
    content = {"command": "make it", "experiment": experiment, "options": options}
    write_json(folder / "study.json", {**content, "environment": ENVIRONMENT})


def old(result: Result) -> dict[str, Any]:
    """Return a result in the form that comparisons had."""
    record = asdict(result)
    del record["details"]
    for epoch in record["history"]:
        epoch["validation_accuracy"] = epoch.pop("validation")
        epoch["test_accuracy"] = epoch.pop("test")
    return {**record, "environment": ENVIRONMENT}


def test_runs_of_a_comparison_are_the_same_runs(tmp_path: Path) -> None:
    options = {"dataset": "blobs", "methods": ["lfp"], "activations": ["relu"], "epsilon": 0.25}
    study(tmp_path, "comparison", options | {"seeds": 1, "epochs": 2, "batch_size": 256})
    write_json(tmp_path / "runs" / "id-old.json", old(RESULT))
    with pytest.raises(StoreError, match="lfp-bench migrate"):
        described(tmp_path / "study.json")
    assert migrate(tmp_path) == 1
    assert Store(tmp_path, "old").load(RUN) is not None
    stored = Store(tmp_path, "old").load(RUN)
    assert stored is not None
    assert stored.result == RESULT
    assert stored.environment == ENVIRONMENT
    assert migrate(tmp_path) == 0, "nothing is brought on twice"


def test_a_regression_is_read_with_its_sweep_and_its_errors(tmp_path: Path) -> None:
    shared = {"dataset": "diabetes", "seeds": 1, "epochs": 1, "batch_size": 128, "sweep_seeds": 1}
    study(tmp_path, "regression", {**shared, "methods": ["sgd"], "learning_rates": [0.1, 0.2]})

    def record(kind: str, rate: float, last: float) -> dict[str, Any]:
        settings = {**asdict(Settings(rate, reduction="sum")), "epsilon": 1e-6}
        seed = 1000 if kind == "sweep" else 0
        run = {"kind": kind, "dataset": "diabetes", "method": "sgd", "seed": seed}
        run |= {"epochs": 1, "batch_size": 128, "settings": settings}
        made = {"code": "old", "environment": ENVIRONMENT, "seconds": 1.0, "diverged": False}
        return {**made, "run": run, "errors": [3.0, last]}

    records = [record("sweep", 0.1, 2.0), record("sweep", 0.2, 1.0), record("final", 0.2, 1.5)]
    write_json(tmp_path / "records.json", {"runs": records})
    assert migrate(tmp_path) == 3
    description = described(tmp_path / "study.json")
    assert description is not None
    found = conduct.find(description.kind, description.options, tmp_path)
    assert len(found.runs) == 3
    (final,) = [s.result for run, s in found.runs.items() if run.kind == "final"]
    assert (final.run.settings.learning_rate, final.test, final.validation) == (0.2, 1.5, None)


def test_rows_of_a_kept_study_have_the_end_of_their_history_alone(tmp_path: Path) -> None:
    options = {"dataset": "blobs", "methods": ["lfp"], "activations": ["relu"], "epsilon": 0.25}
    options |= {"seeds": 1, "epochs": 2, "batch_size": 256, "learning_rate": {"lfp": 0.1}}
    study(tmp_path, "comparison", options)
    row = {"kind": "final", "dataset": "blobs", "model": "toy-mlp", "method": "lfp", "seed": "0"}
    row |= {"activation": "relu", "epochs": "2", "batch_size": "256", "learning_rate": "0.1"}
    row |= {"train_loss": "1.5", "validation_accuracy": "0.75", "test_accuracy": "0.5"}
    row |= {"diverged": "True", "diverged_step": "3.0", "diverged_reason": "the loss is nan"}
    row |= {"steps": "4", "seconds": "0.125", "commit": "def"}
    table = "\n".join([",".join(row), ",".join(row.values())])
    (tmp_path / "results.csv").write_text(table + "\n")
    assert migrate(tmp_path) == 1
    (part,) = find(tmp_path.name, None, tmp_path.parent).parts
    (stored,) = part.found.runs.values()
    assert stored.result == replace(RESULT, history=RESULT.history[1:])
    assert stored.environment["commit"] == "def"


def test_the_commands_bring_on_and_pack_all_parts(tmp_path: Path) -> None:
    options = {"dataset": "blobs", "methods": ["lfp"], "activations": ["relu"], "seeds": 1}
    for part in ("one", "other"):
        study(tmp_path / part, "comparison", options)
        write_json(tmp_path / part / "runs" / "id-old.json", old(RESULT))
    told = CliRunner().invoke(app, ["migrate", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert "one: 1 runs" in told.stderr
    packed = CliRunner().invoke(app, ["pack", str(tmp_path)])
    assert packed.exit_code == 0, packed.output
    assert Store(tmp_path / "one", "old").load(RUN) is not None
    nothing = CliRunner().invoke(app, ["pack", str(tmp_path / "none")])
    assert nothing.exit_code == 2
    assert "holds no study.json; allowed: one with a study" in nothing.stderr


@pytest.mark.parametrize("content", ["", "[]", '{"command": 1}', '{"experiment": "none"}'])
def test_what_is_no_study_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(StoreError, match=r"study\.json"):
        migrate(tmp_path)


def test_what_was_brought_on_is_kept_and_read_no_more(tmp_path: Path) -> None:
    options = {"dataset": "blobs", "methods": ["lfp"], "activations": ["relu"], "seeds": 1}
    study(tmp_path, "comparison", options)
    write_json(tmp_path / "runs" / "id-old.json", old(RESULT))
    migrate(tmp_path)
    assert [stored.run for stored in Store(tmp_path).all()] == [RUN]
    assert json.loads((tmp_path / BEFORE / "id-old.json").read_text())["run"]["seed"] == 0


@pytest.mark.parametrize("newer", [2, 17, "1.1"])
def test_what_a_newer_version_has_written_is_not_made_older(newer: object, tmp_path: Path) -> None:
    options = {"dataset": "blobs", "methods": ["lfp"], "activations": ["relu"], "seeds": 1}
    study(tmp_path, "comparison", options)
    path = tmp_path / "study.json"
    write_json(path, {"schema": newer, **json.loads(path.read_text())})
    before = path.read_bytes()
    with pytest.raises(StoreError, match="a newer version has written it"):
        migrate(tmp_path)
    assert path.read_bytes() == before


def test_a_newer_run_in_an_older_study_stays_where_it_is(tmp_path: Path) -> None:
    options = {"dataset": "blobs", "methods": ["lfp"], "activations": ["relu"], "epsilon": 0.25}
    study(tmp_path, "comparison", options | {"seeds": 1, "epochs": 2, "batch_size": 256})
    write_json(tmp_path / "runs" / "older.json", old(RESULT))
    newer = tmp_path / "runs" / "newer.json"
    write_json(newer, {"schema": 9, "of": "another form"})
    assert migrate(tmp_path) == 1
    assert json.loads(newer.read_text()) == {"schema": 9, "of": "another form"}


@pytest.mark.parametrize(("schema", "told"), [({}, "lfp-bench migrate"), ({"schema": 3}, "newer")])
def test_a_command_leaves_the_study_of_another_version_for_those_that_can_read_it(
    schema: dict[str, Any], told: str, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    study(folder, "regression", {"methods": ["lfp"]})
    path = folder / "study.json"
    write_json(path, {**schema, **json.loads(path.read_text())})
    before = path.read_bytes()
    command = ["compare", "--dataset", "blobs", "--methods", "sgd", "--activations", "tanh"]
    shape = ["--seeds", "1", "--epochs", "1", "--learning-rate", "sgd=0.1", "--study", "kept"]
    done = CliRunner().invoke(app, [*command, *shape, "--results", str(tmp_path)])
    assert done.exit_code == 2, done.output
    assert told in done.stderr.splitlines()[-1]
    assert path.read_bytes() == before
