"""What is done to the folders of studies: parts of one, other options, two of a name, cleaning."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from benchmarks.cli import app
from benchmarks.experiments.comparison import Comparison, study
from benchmarks.runs.store import Store, Stored

pytestmark = pytest.mark.slow

PLAN = """
title: two parts
common:
  model: toy-mlp
  methods: [lfp, sgd]
  activations: [relu]
  learning_rate: {lfp: 0.1, sgd: 0.1}
parts: {blobs: {dataset: blobs}, circles: {dataset: circles}}
sizes: {smoke: {seeds: 1, epochs: 1}}
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "COST_REPEATS", 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    Path("mine.yaml").write_text(PLAN)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def run(*arguments: str, name: str = "mine.yaml") -> Result:
    return invoke("run", name, *arguments, "--size", "smoke", "--json")


def test_one_part_is_run_alone() -> None:
    assert run("--part", "circles").exit_code == 0
    assert not Path("results/mine-smoke/blobs").exists()
    assert [p.name for p in Path("results/mine-smoke").glob("*/study.json")] == ["study.json"]
    wrong = run("--part", "circle")
    assert wrong.exit_code == 2
    assert "part: unknown name 'circle'; did you mean 'circles'?" in wrong.stderr


def test_an_option_is_another_for_all_parts() -> None:
    done = run("--part", "blobs", "seeds=2", "methods=[sgd]", "learning_rate={sgd: 0.3}")
    assert done.exit_code == 0, done.stderr
    (part,) = json.loads(done.stdout)["parts"]
    assert part["configuration"]["fixed_rates"] == {"sgd": 0.3}
    assert [row["seeds"] for row in part["rows"]] == [2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seeds", "'seeds' is not of the form KEY=VALUE"),
        ("=3", "'=3' is not of the form KEY=VALUE"),
        ("seeds=0", "seeds"),
        ("seeds=yes", "yes"),
        ("seedz=3", "seedz: unknown key; did you mean 'seeds'?"),
        ("seeds=[", "seeds: "),
    ],
)
def test_a_wrong_option_is_refused(change: str, message: str) -> None:
    told = run(change)
    assert told.exit_code == 2
    assert len(told.stderr.splitlines()) == 1
    assert message in told.stderr
    assert "seeds: is given twice" in run("seeds=1", "seeds=2").stderr
    assert not Path("results/mine-smoke/blobs/runs").exists()


def test_another_file_of_the_same_name_does_not_get_the_folder(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "mine.yaml").write_text(PLAN)
    assert run("--part", "blobs", name="a/mine.yaml").exit_code == 0
    told = run("--part", "blobs", name="b/mine.yaml")
    assert told.exit_code == 2
    assert "a/mine.yaml" in told.stderr
    assert "allowed: another name for the file, or other --results" in told.stderr
    assert run("--part", "blobs", "--results", "others", name="b/mine.yaml").exit_code == 0
    again = run("--part", "blobs", name=str(tmp_path / "a" / "mine.yaml"))
    assert again.exit_code == 0, "an absolute path to the same file"
    changed = Path("a/mine.yaml").read_text().replace("epochs: 1", "epochs: 2")
    Path("a/mine.yaml").write_text(changed)
    assert run("--part", "blobs", name="a/mine.yaml").exit_code == 0, "a file may change"


COMPARE = (
    *("compare", "--dataset", "blobs", "--methods", "sgd", "--activations", "relu"),
    *("--seeds", "1", "--epochs", "1", "--learning-rate", "sgd=0.1"),
)


def begun(folder: str, *names: str) -> dict[Path, str]:
    """Make a folder with files of a study; return what it holds."""
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"schema": 1, "study": "../../mine.yaml"}')
    return held(folder)


def held(folder: str) -> dict[Path, str]:
    return {path: path.read_text() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("files", "place", "told"),
    [
        (["source.json"], ("results", "mine-smoke"), "holds the parts of ../../mine.yaml"),
        (["source.json", "one/study.json"], ("results", "mine-smoke"), "holds the parts of"),
        (["source.json", "one/study.json"], ("results/mine-smoke", "one"), "holds the parts of"),
        (["source.json"], ("results/mine-smoke", "another"), "holds the parts of"),
        (["one/study.json"], ("results", "mine-smoke"), "holds studies of its own (one)"),
    ],
)
def test_a_comparison_does_not_get_the_folder_of_a_study_of_parts(
    files: list[str], place: tuple[str, str], told: str
) -> None:
    before, (results, study) = begun("results/mine-smoke", *files), place
    refused = invoke(*COMPARE, "--results", results, "--study", study)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: study: results/mine-smoke {told}")
    assert "allowed: another --study, or other --results" in refused.stderr
    assert held("results") == before


@pytest.mark.parametrize("files", [["study.json"], ["study.json", "source.json"]])
def test_a_study_of_parts_does_not_get_the_folder_of_a_comparison(files: list[str]) -> None:
    before = begun("results/mine-smoke", *files)
    refused = run()
    assert refused.exit_code == 2
    assert "results/mine-smoke holds the results of a comparison, not of" in refused.stderr
    assert "allowed: another name for the file, or other --results" in refused.stderr
    assert held("results") == before


def test_two_folders_are_compared_by_what_was_measured() -> None:
    run("--part", "blobs")
    run("--part", "blobs", "--results", "others")
    folders = ("results/mine-smoke/blobs", "others/mine-smoke/blobs")
    same = invoke("diff", *folders, "--json")
    assert same.exit_code == 0, same.output
    assert json.loads(same.stdout)["equal"] == 2
    store = Store(Path(folders[1]), Comparison().code)
    first = store.all()[0]
    end = replace(first.result.history[-1], test=0.125)
    history = (*first.result.history[:-1], end)
    store.save(Stored(replace(first.result, history=history), first.environment))
    other = invoke("diff", *folders, "--json")
    assert other.exit_code == 1
    found = json.loads(other.stdout)
    assert (found["equal"], len(found["different"])) == (1, 1)
    assert found["different"][0][3] == 0.125
    assert "0.125" in invoke("diff", *folders).stdout
    assert invoke("diff", "results", folders[0]).exit_code == 2


def test_what_is_of_other_code_is_cleaned_and_the_rest_is_kept() -> None:
    run("--part", "blobs")
    folder = Path("results/mine-smoke/blobs")
    store = Store(folder, Comparison().code)
    old, kept = Store(folder, "other"), {store.path(s.run) for s in store.all()}
    for stored in store.all():
        old.save(stored)
    state = folder / "checkpoints" / f"{store.all()[0].run.id}.pt"
    state.parent.mkdir(exist_ok=True)
    state.write_bytes(b"left over")
    under_way = state.with_name("0123.pt")
    under_way.write_bytes(b"a run that is not done")
    told = invoke("clean", "results/mine-smoke", "--dry-run")
    assert told.exit_code == 0, told.output
    assert told.stderr.count("would delete") == 3
    assert state.exists()
    assert invoke("clean", "results/mine-smoke").exit_code == 0
    assert set((folder / "runs").iterdir()) == kept
    assert not state.exists()
    assert under_way.exists()
    assert "0 bytes in all" in invoke("clean", "results/mine-smoke").stderr


def test_a_folder_that_differs_in_nothing_has_an_empty_table() -> None:
    run("--part", "blobs")
    found = invoke("diff", "results/mine-smoke/blobs", "results/mine-smoke/blobs")
    assert found.exit_code == 0, found.output
    assert "Of the runs that both have 2 are equal and 0 differ" in found.stdout


def test_what_a_folder_says_of_its_study_is_read_or_refused() -> None:
    run("--part", "blobs")
    assert invoke("report", "mine-smoke").exit_code == 0
    source = Path("results/mine-smoke/source.json")
    wrong = ["{", "[]", "null", "", '{"schema": 2, "study": "x"}', '{"schema": 1, "study": 5}']
    for content in (*wrong, "{}"):
        source.write_text(content)
        for command in (("run", "mine.yaml", "--size", "smoke"), ("report", "mine-smoke")):
            found = invoke(*command)
            assert found.exit_code == 2, (content, found.output)
            assert f"error: {source}: " in found.stderr, content
        assert source.read_text() == content


def test_a_size_is_that_of_the_folder_and_nobody_is_blamed_for_another() -> None:
    fresh = invoke("status", "mine.yaml")
    assert fresh.exit_code == 0, fresh.output
    run("--part", "blobs")
    assert invoke("report", "mine-smoke", "--size", "smoke").exit_code == 0
    found = invoke("report", "mine-smoke", "--size", "cpu")
    assert found.exit_code == 2
    assert "size: 'cpu'; allowed: 'smoke', which results/mine-smoke is of" in found.stderr
    for command in ("status", "report"):
        found = invoke(command, "mine.yaml", "--size", "tiny")
        assert found.exit_code == 2
        assert "size: unknown name 'tiny'. Allowed: smoke" in found.stderr


def test_of_options_that_cannot_be_the_file_is_named() -> None:
    run("--part", "blobs")
    path = Path("results/mine-smoke/blobs/study.json")
    content = json.loads(path.read_text())
    content["options"]["methods"] = ["lpf"]
    path.write_text(json.dumps(content))
    found = invoke("report", "mine-smoke")
    assert found.exit_code == 2
    assert f"error: {path}: does not say what the study is" in found.stderr
    assert "methods: unknown name 'lpf'" in found.stderr
