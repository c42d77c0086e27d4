"""The studies that the repository keeps: a report on them has the numbers that are quoted."""

import gzip
import json
import re
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


#: What a version of SciPy may change: its quantiles of Student's t agree to 11 digits.
LAST_DIGITS = 1e-10
#: A number with so many digits that the last ones are those of the binary fraction.
LONG = re.compile(r"-?\d+\.\d{10,}(?:e-?\d+)?")


def same(stored: str, found: str) -> bool:
    """Return whether two files have the same text, but for the last digits of long numbers."""
    numbers = [list(map(float, LONG.findall(text))) for text in (stored, found)]
    texts = [LONG.sub("", text) for text in (stored, found)]
    return texts[0] == texts[1] and numbers[1] == pytest.approx(
        numbers[0], rel=LAST_DIGITS, abs=LAST_DIGITS
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("relu,0.12345678901235,0.5\n", True),
        ("relu,0.12345679901234,0.5\n", False),
        ("relu,0.12345678901234,0.25\n", False),
        ("silu,0.12345678901234,0.5\n", False),
        ("relu,0.12345678901234,0.5,0.12345678901234\n", False),
    ],
)
def test_last_digits_alone_may_differ(other: str, expected: bool) -> None:
    assert same("relu,0.12345678901234,0.5\n", other) == expected


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
        stored = (STORED / part / path).read_text(encoding="utf-8")
        assert same(stored, content.decode()), path


def test_stored_numbers_have_a_version_and_a_place() -> None:
    for part in PARTS:
        for line in gzip.decompress((STORED / part / PACKED).read_bytes()).splitlines():
            content = json.loads(line)["content"]
            assert content["schema"] == VERSION
            assert content["environment"]["commit"]
