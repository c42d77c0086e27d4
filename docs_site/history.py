"""The page of the ratios that asv has measured over the project's history, for whom asv is new."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.performance import trend
from benchmarks.rendering.text import markdown
from docs_site.links import ROOT

RESULTS = ROOT / "benchmarks" / "asv" / "results"
TEXT = f"""\
# Ratios over the history

{trend.EXPLAINED}

[Where the time goes](performance.md#history) says how this is measured, and how to measure a commit
of your own. `lfp-bench perf dashboard` makes a site of it that has every time as well, and
[On a GPU](gpu.md) has what was measured there.
"""


def page(results: Path = RESULTS) -> str:
    """Return the page on what is stored of all machines."""
    machines = trend.machines(results)
    return "\n".join([TEXT, *(line for machine in machines for line in _of_machine(machine))])


def _of_machine(folder: Path) -> Iterator[str]:
    yield f"## On {folder.name}\n"
    for one in trend.trends(folder):
        yield f"### {one.title}\n"
        yield markdown(one.lines)
