"""The studies that the repository keeps: a report on them has the numbers that are quoted."""

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.experiments import conduct
from benchmarks.rendering import document
from benchmarks.rendering.text import remarks
from benchmarks.runs.store import PACKED
from benchmarks.storage.provenance import ROOT
from benchmarks.storage.schema import VERSION
from benchmarks.studies.collect import Description, described

STORED = ROOT / "benchmarks" / "stored"
PARTS = sorted(path.parent.relative_to(STORED) for path in STORED.rglob("study.json"))


def description_of(part: Path) -> Description:
    found = described(STORED / part / "study.json")
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_report_gives_the_numbers_that_are_stored(part: Path) -> None:
    """Tables alone; figures differ in pixels from one version of matplotlib to the next."""
    study = description_of(part)
    found = conduct.find(study.kind, study.options, STORED / part)
    assert len(found.runs) == study.kind.runs(study.options)
    sections = [
        document.without_figures(section) for section in study.kind.sections(study.options, found)
    ]
    files = document.part_files(sections, remarks(found.environments, study.command))
    assert len(files) > 1
    files.pop(Path("runs.csv"), None)  # has what the packed runs have, and more bytes
    for path, content in files.items():
        assert (STORED / part / path).read_bytes() == content, path


def test_stored_numbers_have_a_version_and_a_place() -> None:
    for part in PARTS:
        for line in gzip.decompress((STORED / part / PACKED).read_bytes()).splitlines():
            content = json.loads(line)["content"]
            assert content["schema"] == VERSION
            assert content["environment"]["commit"]
