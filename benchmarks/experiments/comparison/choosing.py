"""The runs of a study one after the other: trials, what they choose, and what is reported."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.costs.step import Cost
from benchmarks.experiments.base import Found, Results
from benchmarks.experiments.comparison.study import Cell, Outcome, Study
from benchmarks.runs.run import Run
from benchmarks.runs.tuning import Choice, choose, edges_of


def plan(study: Study, results: Results) -> Sequence[Run]:
    """Return the sweeps of all cells, and what follows of those whose sweep is whole.

    That are the runs of its best trials with more seeds, if the study asks for them, and the
    reported runs.
    """
    sweeps = [run for cell in study.trained for run in trials(study, cell, results)]
    chosen = choices(study, results)
    return sweeps + [
        run for cell, choice in chosen.items() for run in study.final(cell, choice.settings)
    ]


def trials(study: Study, cell: Cell, results: Results) -> list[Run]:
    """Return the runs that decide a cell's options, as far as the results tell, each once."""
    sweep = study.sweep(cell)
    whole = all(run in results for run in sweep)
    return list(dict.fromkeys([*sweep, *(playoff(study, cell, results) if whole else ())]))


def choices(study: Study, results: Results) -> dict[Cell, Choice]:
    """Return the options that are given, or that whole sweeps decide."""
    found = {}
    for cell in study.trained:
        tried = trials(study, cell, results)
        if not tried:
            found[cell] = Choice(study.given(cell.method))
        elif all(run in results for run in tried):
            last = playoff(study, cell, results) or tried
            chosen = choose(results[run].result for run in last)
            every = {run.settings for run in tried}
            found[cell] = replace(chosen, edges=edges_of(every, chosen.settings))
    return found


def playoff(study: Study, cell: Cell, results: Results) -> list[Run]:
    """Return the runs of a cell's best trials with as many seeds as are reported.

    Few seeds rate an option too high that is good with them and bad with others, and of many trials
    the best is likely to be such a one.

    Args:
        study: which says how many of the trials these are; none if it says nothing.
        cell: the line of the table.
        results: with those of its whole sweep, which decide which trials are the best.

    Returns:
        All their runs, those of the sweep among them.
    """
    left, found = [results[run].result for run in study.sweep(cell)], list[Run]()
    for _ in range(study.finalists_of(cell)):
        best = choose(left).settings
        left = [result for result in left if result.run.settings != best]
        found += study.trial(cell, best, max(study.seeds, study.sweep_seeds))
    return found


def outcome(study: Study, found: Found) -> Outcome:
    """Return what is found of a study: of each cell its sweep, then the runs that follow it."""
    chosen = choices(study, found.runs)
    runs = []
    for cell in study.trained:
        runs += trials(study, cell, found.runs)
        runs += study.final(cell, chosen[cell].settings) if cell in chosen else []
    results = [found.runs[run] for run in runs if run in found.runs]
    costs, environments = dict[Cell, Cost](), [stored.environment for stored in results]
    for measurement, stored in found.costs:
        workload = measurement.workload
        if (workload.model, workload.batch_size) != (study.model, study.batch_size):
            continue
        of_cells = {Cell(workload.activation, cost.method): cost for cost in stored.costs}
        own = {cell: cost for cell, cost in of_cells.items() if cell in study.trained}
        costs |= own
        environments += [stored.environment] if own else []
    return Outcome(study, results, chosen, costs, environments)
