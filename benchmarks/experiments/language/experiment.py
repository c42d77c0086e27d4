"""The experiment `language` of study files; see :mod:`benchmarks.experiments.language`."""

from collections.abc import Sequence

from benchmarks.experiments.base import Experiment, Found, Results, modules_beside
from benchmarks.experiments.language.options import Options
from benchmarks.experiments.language.report import chosen, report
from benchmarks.experiments.language.runs import runs_of, train
from benchmarks.rendering.document import Section
from benchmarks.runs.run import Run


class Language(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(train)
    modules = modules_beside(__file__)

    def check(self, options: Options) -> None:
        """Raise `ValueError` for an optimiser without rates."""
        for name in options.optimizers:
            if name not in options.learning_rates:
                raise ValueError(f"learning_rates: there must be some for {name!r}")

    def runs(self, options: Options) -> int:
        """Return the number of trainings."""
        return len(self.plan(options, {}))

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`."""
        self.check(options)
        by_rate = [runs for arm in options.arms() for runs in runs_of(arm, options).values()]
        return [run for runs in by_rate for run in runs]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`; of the arms whose runs are all there."""
        rows = []
        for arm in options.arms():
            tried = {rate: found.results_of(runs) for rate, runs in runs_of(arm, options).items()}
            if all(len(results) == options.seeds for results in tried.values()):
                rows.append(chosen(arm, tried))
        return report(options, rows) if rows else []
