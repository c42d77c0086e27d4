"""What a test tries has every value in each run, and every combination in a thorough one."""

import re
from itertools import product
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from benchmarks.storage.provenance import ROOT
from validation.conftest import LONG, pytest_collection_modifyitems
from validation.selection import crossed, example_of, examples


@pytest.mark.parametrize("factors", [("abc", "de"), ("a", "bcd"), ("ab", "cdef", "gh"), ("abc",)])
def test_a_few_combinations_have_every_value_and_the_others_are_marked(
    factors: tuple[str, ...],
) -> None:
    params = crossed(*factors)
    assert [param.values for param in params] == list(product(*factors))
    few = [param.values for param in params if not param.marks]
    assert len(few) == max(map(len, factors))
    assert [set(column) for column in zip(*few, strict=True)] == [set(f) for f in factors]
    assert {mark.name for param in params for mark in param.marks} <= {"thorough"}


def test_explore_draws_ten_times_as_many() -> None:
    before = hypothesis.settings.get_current_profile_name()
    try:
        hypothesis.settings.load_profile("fixed")
        assert examples(40).max_examples == 40
        hypothesis.settings.load_profile("explore")
        assert examples(40).max_examples == 400
    finally:
        hypothesis.settings.load_profile(before)


def test_an_example_is_as_wanted_or_there_is_none() -> None:
    assert example_of(st.integers(), lambda number: number > 3) > 3
    with pytest.raises(hypothesis.errors.NoSuchExample):
        example_of(st.integers(0, 3), lambda number: number > 3, tries=10)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("", ["plain"]),
        ("not slow", ["plain"]),
        *((name, ["plain", name]) for name in LONG),
        ("thorough or soak", ["plain", "soak", "thorough"]),
    ],
)
def test_what_takes_long_is_left_out_unless_it_is_named(asked: str, kept: list[str]) -> None:
    items: Any = [
        SimpleNamespace(name=name, get_closest_marker=lambda marker, own=name: marker == own)
        for name in ("plain", *LONG)
    ]
    whole, told = list(items), list[Any]()

    def deselected(items: list[Any]) -> None:
        told.extend(items)

    hook = SimpleNamespace(pytest_deselected=deselected)
    config: Any = SimpleNamespace(option=SimpleNamespace(markexpr=asked), hook=hook)
    pytest_collection_modifyitems(config, items)
    assert [item.name for item in items] == kept
    assert [item for item in whole if item not in items] == told


@pytest.mark.parametrize("name", LONG)
def test_the_manual_says_how_to_run_what_is_left_out(name: str) -> None:
    commands = "".join((ROOT / file).read_text() for file in ("Makefile", "tox.ini"))
    manual = (ROOT / "CONTRIBUTING.md").read_text()
    assert re.search(rf"-m \"?{name}\b", commands + manual)
