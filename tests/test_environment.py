"""What a result is told to depend on."""

from pathlib import Path

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
