"""The experiment `treatments` of study files; see :mod:`benchmarks.experiments.treatments`."""

from collections.abc import Sequence
from itertools import product

from benchmarks.experiments.base import Experiment, Found, Results, choice_of, modules_beside
from benchmarks.experiments.treatments.options import Options
from benchmarks.experiments.treatments.report import Arm, report
from benchmarks.experiments.treatments.runs import final, sweep, train
from benchmarks.rendering.document import Section
from benchmarks.runs.run import Run


class Treatments(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(train)
    modules = modules_beside(__file__)

    def model(self, options: Options) -> str:
        """See :class:`Experiment`; the networks' operations are as small as that one's."""
        return "mlp"

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        options.check()
        trials = sum(len(options.trials(arm)) for arm in options.every_arm)
        finals = options.seeds * len(options.every_arm)
        return len(options.networks) * (trials * options.sweep_seeds + finals)

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`; sweeps come first."""
        cells = list(product(options.networks, options.every_arm))
        chosen = {cell: choice_of(sweep(*cell, options), results) for cell in cells}
        return [
            *(run for cell in cells for run in sweep(*cell, options)),
            *(
                run
                for cell, choice in chosen.items()
                if choice is not None
                for run in final(*cell, choice.settings, options)
            ),
        ]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`; of the arms whose sweep is whole."""
        arms = []
        for network, arm in product(options.networks, options.every_arm):
            choice = choice_of(sweep(network, arm, options), found.runs)
            if choice is not None:
                runs = final(network, arm, choice.settings, options)
                arms.append(Arm(network, arm, choice, found.results_of(runs)))
        return report(options, arms)
