"""The experiment `pruning` of study files; see :mod:`benchmarks.experiments.pruning`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.analysis import importance, sparsity
from benchmarks.experiments.base import Experiment, Found, Results
from benchmarks.experiments.comparison.choosing import choices
from benchmarks.experiments.comparison.choosing import plan as comparison_plan
from benchmarks.experiments.comparison.study import check
from benchmarks.experiments.pruning import runs
from benchmarks.experiments.pruning.options import Options
from benchmarks.experiments.pruning.report import report
from benchmarks.experiments.pruning.runs import Pruned, make, pruned
from benchmarks.rendering.document import Section
from benchmarks.runs.run import Run
from benchmarks.storage.provenance import code_version


class Pruning(Experiment[Options]):
    """Train, prune, measure; see the module."""

    schema = Options
    make = staticmethod(make)

    @property
    def code(self) -> str:
        """See :class:`Experiment`; what prunes is in modules of its own."""
        own = (runs, sparsity, importance)
        return code_version(*(Path(str(module.__file__)) for module in own))

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        return options.study().runs

    def check(self, options: Options) -> None:
        """See :class:`Experiment`."""
        check(options.study())

    def model(self, options: Options) -> str:
        """See :class:`Experiment`."""
        return options.study().model

    def configuration(self, options: Options) -> dict[str, Any]:
        """See :class:`Experiment`; with all that a preset decides."""
        names = ("step", "removed", "examples", "patience", "fall")
        own = {field: getattr(options, field) for field in names}
        return {**asdict(options.study()), **own}

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`; the runs of the sweep are not pruned."""
        return [
            run if run.kind == "sweep" else pruned(run, options)
            for run in comparison_plan(options.study(), results)
        ]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`."""
        by_cell = choices(options.study(), found.runs)
        return report(
            options,
            {cell.method: choice for cell, choice in by_cell.items()},
            [s.result for run, s in found.runs.items() if isinstance(run, Pruned)],
        )
