"""The choice of options: mean of the seeds, divergence worst, small rates before large."""

import numpy as np
import pytest

from baselines import METHODS, LFPSettings, Settings
from baselines.options import Choice as Values
from baselines.options import LogUniform
from benchmarks.runs.run import Divergence, Epoch, Result, Run
from benchmarks.runs.tuning import MARGIN, Choice, choose, edges_of, sampled, value_at


def result(rate: float, accuracy: float, diverged: bool = False) -> Result:
    run = Run("sweep", "digits", "mlp", "lfp", "relu", 0, 1, 8, Settings(rate))
    divergence = Divergence(1, "the loss is nan") if diverged else None
    return Result(run, (Epoch(validation=accuracy),), divergence, 1, 0.0)


def test_the_mean_over_seeds_decides() -> None:
    results = [result(0.1, 0.5), result(0.2, 0.875), result(0.3, 0.7), result(0.2, 0.625)]
    assert choose(results) == Choice(LFPSettings(0.2), score=0.75)


def test_a_tie_goes_to_the_smaller_rate_whatever_the_order() -> None:
    results = [result(0.3, 0.8), result(0.2, 0.8), result(0.1, 0.1)]
    assert choose(results).learning_rate == choose(results[::-1]).learning_rate == 0.2


def test_rounding_does_not_decide_a_tie() -> None:
    """Of 216 examples 207 and 207, or 210 and 204: as many, but for the last bit of the mean."""
    even, uneven = [207 / 216] * 2, [210 / 216, 204 / 216]
    assert sum(even) / 2 > sum(uneven) / 2, "in floating point"
    results = [result(0.9, a) for a in even] + [result(0.1, a) for a in uneven]
    assert choose(results).learning_rate == 0.1


def test_a_diverged_run_is_worst_even_if_it_was_best_before() -> None:
    assert choose([result(0.1, 0.2), result(0.2, 0.9, diverged=True)]).learning_rate == 0.1


def test_if_all_diverge_the_smallest_rate_is_left() -> None:
    results = [result(0.2, 0.9, diverged=True), result(0.1, 0.1, diverged=True)]
    assert choose(results) == Choice(LFPSettings(0.1), 0.0, {"learning_rate": "lowest"})


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


# --- points of a space ----------------------------------------------------------------------------

NAMES = ("learning_rate", "epsilon", "units")


def test_a_method_is_tried_at_as_many_points_as_are_asked_for_and_always_the_same() -> None:
    for count in (1, 5, 16):
        points = sampled(LFPSettings(1.0, momentum=0.5), NAMES, count)
        assert len(set(points)) == len(points) == count
        assert points == sampled(LFPSettings(1.0, momentum=0.5), NAMES, count)
        assert {LFPSettings.of(point).momentum for point in points} == {0.5}


def test_points_fill_the_space_evenly_and_independent_draws_do_not() -> None:
    """Of 32 points each of 8 parts of a range gets 4; by chance none is so even in 100 tries."""
    search = LFPSettings.search["epsilon"]
    assert isinstance(search, LogUniform)

    def counts(values: np.ndarray) -> list[int]:
        shares = np.log(values / search.low) / np.log(search.high / search.low)
        return np.histogram(shares, bins=8, range=(0, 1))[0].tolist()

    points = sampled(LFPSettings(1.0), NAMES, 32)
    assert counts(np.array([LFPSettings.of(point).epsilon for point in points])) == [4] * 8
    assert {getattr(p, "units") for p in points} == {"identity", "reverse", "shifted"}  # noqa: B009
    random = np.random.default_rng(0)
    chance = search.low * (search.high / search.low) ** random.random((100, 32))
    assert not any(counts(draw) == [4] * 8 for draw in chance)


@pytest.mark.parametrize(("optimizer", "highest"), [("sgd", 10), ("adam", 0.1)])
def test_rates_are_of_the_order_of_the_optimisers(optimizer: str, highest: float) -> None:
    points = sampled(LFPSettings(1.0, optimizer=optimizer), NAMES, 32)
    rates = [point.learning_rate for point in points]
    assert highest / 2 < max(rates) < highest
    assert max(rates) / min(rates) > 5000  # of four decades


def test_only_what_is_named_is_varied() -> None:
    points = sampled(LFPSettings(1.0, epsilon=0.25), ("learning_rate",), 8)
    assert {LFPSettings.of(point).epsilon for point in points} == {0.25}
    assert len({point.learning_rate for point in points}) == 8


def test_what_is_chosen_near_the_end_of_its_range_is_flagged() -> None:
    points = sampled(LFPSettings(1.0), NAMES, 32)
    for best in points:
        edges = edges_of(points, best)
        for name in ("learning_rate", "epsilon"):
            search = LFPSettings.search[name]
            assert isinstance(search, LogUniform)
            margin = (search.high / search.low) ** MARGIN
            value = getattr(best, name)
            expected = {
                value < search.low * margin: "lowest",
                value > search.high / margin: "highest",
            }.get(True)
            assert edges.get(name) == expected
        assert "units" not in edges


def test_every_method_declares_a_space_that_holds_its_default() -> None:
    for method in METHODS.values():
        default = method.Options(1.0)
        for name, search in method.Options.search.items():
            if isinstance(search, LogUniform):
                assert search.low <= getattr(default, name) <= search.high
            else:
                assert isinstance(search, Values)
                assert getattr(default, name) in search.values
                assert {value_at(search, u) for u in np.arange(0, 1, 0.01)} == set(search.values)
