"""The experiment `regression` of study files; see :mod:`benchmarks.experiments.regression`."""

from collections.abc import Sequence

from baselines.registry import pick
from benchmarks.experiments.base import Experiment, Found, Results, modules_beside
from benchmarks.experiments.regression.data import DATASETS
from benchmarks.experiments.regression.methods import METHODS
from benchmarks.experiments.regression.options import Options
from benchmarks.experiments.regression.report import report
from benchmarks.experiments.regression.runs import Choice, choose, train_regressor
from benchmarks.rendering.document import Section
from benchmarks.runs.run import Run


class Regression(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(train_regressor)
    modules = modules_beside(__file__)

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        pick("dataset", options.dataset, DATASETS)
        for method in (*options.methods, *options.learning_rate):
            pick("methods", method, METHODS)
        options.settings_by_method(options.methods)
        for rate in (*options.learning_rates, *options.learning_rate.values()):
            for method in options.methods:
                options.settings(method, rate)
        return sum(len(options.sweep(method)) + options.seeds for method in options.methods)

    def check(self, options: Options) -> None:
        """See :class:`Experiment`; fetches the data."""
        pick("dataset", options.dataset, DATASETS)()

    def model(self, options: Options) -> str:
        """See :class:`Experiment`; as small as that one."""
        return "mlp"

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`."""
        sweeps = [run for method in options.methods for run in options.sweep(method)]
        chosen = choices(options, results)
        return sweeps + [
            run
            for method, one in chosen.items()
            for run in options.final(method, one.learning_rate)
        ]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`."""
        finals = [s.result for run, s in found.runs.items() if run.kind == "final"]
        return report(options, choices(options, found.runs), finals)


def choices(options: Options, results: Results) -> dict[str, Choice]:
    """Return the learning rates that are given, or that whole sweeps decide."""
    found = {}
    for method in options.methods:
        sweep = options.sweep(method)
        if method in options.learning_rate:
            found[method] = Choice(options.learning_rate[method])
        elif all(run in results for run in sweep):
            found[method] = choose(results[run].result for run in sweep)
    return found
