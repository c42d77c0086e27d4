"""The files of CI: they run what tox.ini has, on the versions that the package is for.

`tox -e lint` checks them against the schema of the forge.
"""

import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.storage.provenance import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TOX = ConfigParser()
TOX.read(ROOT / "tox.ini")


def environments(text: str) -> list[str]:
    return re.findall(r"[\w-]+", text)


def label(name: str) -> list[str]:
    (line,) = re.findall(rf"^{name} = (.*)$", TOX["tox"]["labels"], re.MULTILINE)
    return environments(line)


def workflow(name: str) -> Any:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_names_environments_that_there_are(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert content["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in content["jobs"].values())
    known = environments(TOX["tox"]["env_list"])
    assert set(re.findall(r"tox run -e (\w+)", path.read_text())) <= {*known}


def test_a_change_is_tested_in_the_whole_matrix() -> None:
    entries = workflow("tests")["jobs"]["tox"]["strategy"]["matrix"]["include"]
    # The suite of asv is in the tests of every version; the gate runs it on pull requests.
    assert {entry["environment"] for entry in entries} == {*label("matrix")} - {"asv"}
    versions = {e["python"] for e in entries if e["environment"].startswith("py3")}
    classifiers = re.findall(r"Python :: (3\.\d+)\"", (ROOT / "pyproject.toml").read_text())
    assert versions == set(classifiers)


def test_a_release_runs_more_than_a_change() -> None:
    known = environments(TOX["tox"]["env_list"])
    assert {*label("matrix")} < {*label("all")} <= {*known}


def test_every_environment_says_what_it_is_for() -> None:
    for name in environments(TOX["tox"]["env_list"]):
        sections = [f"testenv:{name}", "testenv:{oldest,torch211}", "testenv"]
        described = [s for s in sections if s in TOX and "description" in TOX[s]]
        assert described, name
        if name not in {"oldest", "torch211"} and not name.startswith("py3"):
            assert described[0] == f"testenv:{name}"


def test_the_checks_name_every_workflow() -> None:
    checked = re.findall(r"\.github/workflows/(\w+)\.yml", TOX["testenv:lint"]["commands"])
    assert sorted(checked) == [path.stem for path in WORKFLOWS]
