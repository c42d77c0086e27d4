"""The runs of a study one after the other: trials, what they choose, and what is reported."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.costs.step import Cost
from benchmarks.experiments.base import Found, Results
from benchmarks.experiments.comparison.study import Cell, Outcome, Study
from benchmarks.runs.run import Result, Run
from benchmarks.runs.tuning import Choice, choose, edges_of, ranked


def plan(study: Study, results: Results) -> Sequence[Run]:
    """Return the sweeps of all cells, and what follows of those whose sweep is whole.

    That are the runs of its best trials with more seeds, if the study asks for them, and the
    reported runs.
    """
    decided = {cell: decide(study, cell, results) for cell in study.trained}
    sweeps = [run for trials, _ in decided.values() for run in trials]
    return sweeps + [
        run
        for cell, (_, choice) in decided.items()
        if choice is not None
        for run in study.final(cell, choice.settings)
    ]


def choices(study: Study, results: Results) -> dict[Cell, Choice]:
    """Return the options that are given, or that whole sweeps decide."""
    found = ((cell, decide(study, cell, results)[1]) for cell in study.trained)
    return {cell: choice for cell, choice in found if choice is not None}


def decide(study: Study, cell: Cell, results: Results) -> tuple[list[Run], Choice | None]:
    """Return the runs that decide a cell's options, and what they decide.

    Args:
        study: which says how options are chosen.
        cell: the line of the table.
        results: of the runs that are made.

    Returns:
        The runs as far as the results tell, each once; and the options that are given or chosen,
        None while a run is to come.
    """
    sweep = study.sweep(cell)
    if not sweep:
        return [], Choice(study.given(cell.method))
    if not all(run in results for run in sweep):
        return sweep, None
    last = playoff(study, cell, [results[run].result for run in sweep])
    trials = list(dict.fromkeys([*sweep, *last]))
    if not all(run in results for run in last):
        return trials, None
    chosen = choose(results[run].result for run in last or sweep)
    tried = {run.settings for run in sweep}
    return trials, replace(chosen, edges=edges_of(tried, chosen.settings))


def playoff(study: Study, cell: Cell, sweep: Sequence[Result]) -> list[Run]:
    """Return the runs of a cell's best trials with as many seeds as are reported.

    Few seeds rate an option too high that is good with them and bad with others, and of many trials
    the best is likely to be such a one.

    Args:
        study: which says how many of the trials these are; none if it says nothing.
        cell: the line of the table.
        sweep: the results of all its trials, which decide which of them are the best.

    Returns:
        All their runs, those of the sweep among them.
    """
    finalists = list(ranked(sweep))[: study.finalists_of(cell)]
    seeds = max(study.seeds, study.sweep_seeds)
    return [run for settings in finalists for run in study.trial(cell, settings, seeds)]


def outcome(study: Study, found: Found) -> Outcome:
    """Return what is found of a study: of each cell its sweep, then the runs that follow it."""
    chosen, runs = dict[Cell, Choice](), list[Run]()
    for cell in study.trained:
        trials, choice = decide(study, cell, found.runs)
        runs += trials
        if choice is not None:
            chosen[cell] = choice
            runs += study.final(cell, choice.settings)
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
