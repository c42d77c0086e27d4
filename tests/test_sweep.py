"""The choice of a learning rate: mean of the seeds, divergence worst, small rates before large."""

import pytest

from baselines import Settings
from benchmarks.runs.run import Divergence, Epoch, Result, Run
from benchmarks.runs.tuning import Choice, choose


def result(rate: float, accuracy: float, diverged: bool = False) -> Result:
    run = Run("sweep", "digits", "mlp", "lfp", "relu", 0, 1, 8, Settings(rate))
    divergence = Divergence(1, "the loss is nan") if diverged else None
    return Result(run, (Epoch(validation=accuracy),), divergence, 1, 0.0)


def test_the_mean_over_seeds_decides() -> None:
    results = [result(0.1, 0.5), result(0.2, 0.875), result(0.3, 0.7), result(0.2, 0.625)]
    assert choose(results) == Choice(0.2, score=0.75, edge=None)


def test_a_tie_goes_to_the_smaller_rate_whatever_the_order() -> None:
    results = [result(0.3, 0.8), result(0.2, 0.8), result(0.1, 0.1)]
    assert choose(results).learning_rate == choose(results[::-1]).learning_rate == 0.2


def test_a_diverged_run_is_worst_even_if_it_was_best_before() -> None:
    assert choose([result(0.1, 0.2), result(0.2, 0.9, diverged=True)]).learning_rate == 0.1


def test_if_all_diverge_the_smallest_rate_is_left() -> None:
    results = [result(0.2, 0.9, diverged=True), result(0.1, 0.1, diverged=True)]
    assert choose(results) == Choice(0.1, 0.0, "lowest")


@pytest.mark.parametrize(
    ("accuracies", "edge"),
    [((0.9, 0.5, 0.5), "lowest"), ((0.5, 0.9, 0.5), None), ((0.5, 0.5, 0.9), "highest")],
)
def test_the_edges_of_the_grid_are_flagged(accuracies: tuple[float, ...], edge: str | None) -> None:
    grid = zip((0.1, 0.2, 0.3), accuracies, strict=True)
    assert choose([result(*point) for point in grid]).edge == edge


def test_one_rate_has_no_edge_and_none_is_an_error() -> None:
    assert choose([result(0.1, 0.5)]).edge is None
    with pytest.raises(ValueError, match="at least one"):
        choose([])
