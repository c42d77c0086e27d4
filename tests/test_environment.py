"""What a result is told to depend on."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.storage import provenance
from benchmarks.storage.provenance import code_version, describe

SOURCE = '"""What it is."""\ndef f(x):\n    """Double."""\n    return 2 * x  # twice\n'


def version_of(
    source: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: tuple[str, ...] = ("lfp_core/**/*.py",),
) -> str:
    (folder / "lfp_core").mkdir(exist_ok=True)
    (folder / "lfp_core" / "engine.py").write_text(source)
    monkeypatch.setattr(provenance, "ROOT", folder)
    monkeypatch.setattr(provenance, "CODE", code)
    return code_version.__wrapped__()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("2 * x", "3 * x", False),
        ("# twice", "# two times", True),
        ("Double.", "Return 2 x.", True),
        ("What it is.", "What else.", True),
        ("    return", "\n    return", True),
        ("2 * x", '"""2""" * x', False),
    ],
)
def test_code_counts_and_prose_does_not(
    old: str, new: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = version_of(SOURCE, tmp_path, monkeypatch)
    after = version_of(SOURCE.replace(old, new), tmp_path, monkeypatch)
    assert (before == after) is same


def test_a_pattern_without_files_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = ("lfp_core/**/*.py", "moved/**/*.py")
    with pytest.raises(FileNotFoundError, match="matches no file: 'moved/"):
        version_of(SOURCE, tmp_path, monkeypatch, code)


def test_all_code_that_measures_counts() -> None:
    found = {path.name for pattern in provenance.CODE for path in provenance.ROOT.glob(pattern)}
    assert {"operations.py", "lfp.py", "training.py", "zoo.py", "catalog.py", "step.py"} <= found


def test_everything_is_told_without_paths_or_names() -> None:
    told = describe(torch.device("cpu"))
    assert {"commit", "dirty", "code", "scipy", "snntorch", "pyswarms", "processor"} <= told.keys()
    assert {"threads", "cores", "determinism", "plugins", "cuda", "python"} <= told.keys()
    assert str(Path.home()) not in str(told)


@pytest.mark.parametrize(
    ("named", "dirty"), [("abc", False), ("abc-dirty", True), (" abc\n", False)]
)
def test_the_commit_of_a_copy_is_what_the_environment_says(
    named: str, dirty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LFP_COMMIT", named)
    told = describe(torch.device("cpu"))
    assert (told["commit"], told["dirty"]) == ("abc", dirty)


def test_of_a_copy_that_has_no_commit_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LFP_COMMIT", "-dirty")
    told = describe(torch.device("cpu"))
    assert (told["commit"], told["dirty"]) == (None, True)


def test_a_copy_without_git_and_installation_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LFP_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "a-package-that-is-not-there"))
    code = code_version()
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "code_version", lambda: code)
    told = describe(torch.device("cpu"))
    assert (told["commit"], told["dirty"], told["a-package-that-is-not-there"]) == (
        None,
        None,
        None,
    )


def test_the_version_of_code_does_not_depend_on_fields_that_a_python_adds() -> None:
    """3.12 gave functions and classes a field for types, and 3.12.1 f-strings empty parts."""
    tree = ast.parse("def f(x):\n    return f'{x:{1}}'")
    before = provenance._canonical(tree)
    function: Any = tree.body[0]
    function.type_params = []
    function.a_field_of_tomorrow = None
    function._fields = (*function._fields, "a_field_of_tomorrow")
    function.body[0].value.values[0].format_spec.values.append(ast.Constant(""))
    assert provenance._canonical(tree) == before
    function.name = "g"
    assert provenance._canonical(tree) != before
