"""The experiment `depth` of study files; see :mod:`benchmarks.experiments.depth`."""

from collections.abc import Sequence

from benchmarks.experiments.base import Experiment, Found, Results, choice_of, modules_beside
from benchmarks.experiments.depth.options import Options
from benchmarks.experiments.depth.report import Reached, report
from benchmarks.experiments.depth.runs import runs_of, sweep_of, train_deep
from benchmarks.rendering.document import Section
from benchmarks.runs.run import Run


class Depth(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(train_deep)
    modules = modules_beside(__file__)

    def model(self, options: Options) -> str:
        """See :class:`Experiment`; the layers are as small as that one's."""
        return "mlp"

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        options.check()
        trials = len(options.learning_rates) * options.sweep_seeds
        return len(options.cells) * (trials + options.seeds)

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`; a cell's reported runs follow its sweep."""
        found: list[Run] = []
        for cell in options.cells:
            found += sweep_of(cell, options)
            if choice := choice_of(sweep_of(cell, options), results):
                found += runs_of(cell, options, choice.settings, sweep=False)
        return found

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`; of the cells that have a reported run."""
        reached = []
        for cell in options.cells:
            if choice := choice_of(sweep_of(cell, options), found.runs):
                runs = runs_of(cell, options, choice.settings, sweep=False)
                if results := found.results_of(runs):
                    reached.append(Reached(cell, choice, results))
        return report(options, reached) if reached else []
