"""The experiment `regression` of study files; see :mod:`benchmarks.experiments.regression`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from baselines.registry import pick
from benchmarks.experiments.base import Experiment, Place, Report
from benchmarks.experiments.regression.data import DATASETS
from benchmarks.experiments.regression.methods import METHODS
from benchmarks.experiments.regression.options import Options
from benchmarks.experiments.regression.report import write_report
from benchmarks.experiments.regression.runs import Choice, Run, choose, train
from benchmarks.storage.provenance import code_version
from benchmarks.storage.records import Record


class Regression(Experiment[Options]):
    """See the module."""

    schema = Options
    # The chosen rate is a place on an axis, and so is whatever decides it.
    axes = frozenset({"methods", "seeds", "learning_rates", "learning_rate", "sweep_seeds"})

    @property
    def code(self) -> str:
        """See :class:`Experiment`; of all modules of the package."""
        return code_version(*sorted(Path(__file__).parent.glob("*.py")))

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

    def carry_out(self, options: Options, folder: Path, place: Place) -> Report:
        """See :class:`Experiment`."""
        records = self.records(options, folder)

        def made(runs: Sequence[Run]) -> Iterator[Record]:
            for run in runs:
                yield records.get({"run": asdict(run)}, partial(train, run, place.device))
                place.advance(f"{run.method} {run.seed}")

        choices = {
            method: Choice(options.learning_rate[method])
            if method in options.learning_rate
            else choose(list(made(options.sweep(method))))
            for method in options.methods
        }
        found = [
            record
            for method, choice in choices.items()
            for record in made(options.final(method, choice.learning_rate))
        ]
        return write_report(folder, options, choices, found, place.command)
