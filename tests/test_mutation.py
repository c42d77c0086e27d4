"""Mutation testing changes what it says that it changes, in a process that runs already."""

import importlib.util
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from validation.mutation import swapping
from validation.mutation.summary import known_reasons, summary, table

TEXT = """
from functools import lru_cache

LIMIT = 3

def plain(x):
    return x + 1

def made(n):
    def inner(x):
        return x * n
    return inner

double = made(2)
table = {"negative": lambda x: x < 0}

class Thing:
    size = 4

    @property
    def larger(self):
        return self.size + 1

    @staticmethod
    def forward(x):
        return x - 1

@lru_cache
def cached(x):
    return x > 0
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module of that text, in a folder that is named like the engine's."""
    path = tmp_path / swapping.ENGINE / "changed.py"
    path.parent.mkdir()
    path.write_text(TEXT)
    spec = importlib.util.spec_from_file_location("changed", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "changed", module)
    spec.loader.exec_module(module)
    return module


def functions(module: ModuleType) -> list[FunctionType]:
    return [f for f in swapping.functions_of_engine() if f.__code__.co_filename == module.__file__]


@pytest.mark.parametrize(
    ("before", "after", "call", "expected"),
    [
        ("x + 1", "x + 2", lambda m: m.plain(1), 3),
        ("x * n", "x / n", lambda m: m.double(1), 0.5),
        ("x < 0", "x <= 0", lambda m: m.table["negative"](0), True),
        ("self.size + 1", "self.size - 1", lambda m: m.Thing().larger, 3),
        ("x - 1", "x + 1", lambda m: m.Thing.forward(1), 2),
        ("x > 0", "x >= 0", lambda m: m.cached(0), True),
    ],
)
def test_functions_are_swapped_wherever_they_are(
    module: ModuleType, before: str, after: str, call: Any, expected: Any
) -> None:
    known = functions(module)
    assert call(module) != expected
    module.cached.cache_clear()
    assert swapping.swap(module, TEXT.replace(before, after), known)
    assert call(module) == expected


@pytest.mark.parametrize(("before", "after"), [("LIMIT = 3", "LIMIT = 4"), ("= 4", "= 5")])
def test_what_runs_at_import_is_not_swapped(module: ModuleType, before: str, after: str) -> None:
    assert not swapping.swap(module, TEXT.replace(before, after), functions(module))


def test_summary_counts_what_is_killed_and_what_is_explained() -> None:
    def entry(module: str, before: str, killed_by: str) -> dict[str, str]:
        return {"module": module, "before": before, "after": before + "!", "killed_by": killed_by}

    entries = [entry("lfp_core/a.py", str(n), "a test" if n < 6 else "") for n in range(8)]
    entries += [entry("lfp_core/b.py", str(n), "a test") for n in range(2)]
    result = summary(entries, {("lfp_core/a.py", "7", "7!"): "It is the same."})
    assert [each["reason"] for each in result["survivors"]] == ["", "It is the same."]
    assert result["modules"]["lfp_core/a.py"]["percent"] == 75
    assert (result["percent"], result["percent_of_unexplained"]) == (80, 88.9)
    assert table(result).splitlines()[2:] == [
        "| a | 8 | 6 | 1 | 75.0% | 85.7% |",
        "| b | 2 | 2 | 0 | 100.0% | 100.0% |",
        "| all | 10 | 8 | 1 | 80.0% | 88.9% |",
    ]


def test_reasons_are_for_lines_that_the_engine_has() -> None:
    """A reason for a line that has changed since may be wrong, and has to be looked at again."""
    for module, before, after in known_reasons():
        assert before in map(str.strip, Path(module).read_text().splitlines())
        assert before != after


def test_stars_that_unpack_are_no_products(tmp_path: Path) -> None:
    mutants = pytest.importorskip("validation.mutation.mutants", reason="needs cosmic-ray")
    path = tmp_path / "module.py"
    path.write_text("a = {\n    **b,\n    **c(**d),\n}\ne = f(*g, *h * 2, 3**2)\n")
    found = [m.change()[1] for m in mutants.mutants_of(path) if m.operator.endswith(mutants.STARS)]
    assert found == ["e = f(*g, *h / 2, 3**2)", "e = f(*g, *h * 2, 3*2)"]


def test_no_test_fails_where_there_is_none() -> None:
    session = pytest.importorskip("validation.mutation.session", reason="needs cosmic-ray")
    assert session.first_failure([]) == ""
