"""The notebooks run, from their first cell to the last; they have the outputs of such a run."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

from benchmarks.storage.provenance import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    """Return the cells of code, none of which has a command that only a notebook knows."""
    content = json.loads(path.read_text())
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.thorough if path.stem == "comparison" else ())
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    module = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)
    state = torch.get_rng_state()
    try:
        for number, cell in enumerate(cells(path)):
            code = "".join(cell["source"])
            exec(compile(code, f"{path.name}, cell {number}", "exec"), module.__dict__)
    finally:
        torch.set_rng_state(state)
        plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_its_outputs(path: Path) -> None:
    outputs = [output for cell in cells(path) for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [cell["execution_count"] for cell in cells(path)] == [*range(1, len(cells(path)) + 1)]
    text = path.read_text()
    assert str(Path.home()) not in text
    assert "/tmp" not in text


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["comparison", "rewards"]
