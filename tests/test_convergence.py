"""When training is over: what counts as a loss at rest, and that a run ends there."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.runs.convergence import at_rest
from benchmarks.runs.run import Epoch
from benchmarks.runs.training import dataset, train, untrained
from tests.studies import SHORT

CPU = torch.device("cpu")
LOSSES = st.lists(st.floats(0, 3), max_size=12)


def history(losses: list[float]) -> list[Epoch]:
    """Return a history that begins before training, as all do."""
    return [Epoch(), *(Epoch(train_loss=loss) for loss in losses)]


@given(LOSSES, st.integers(1, 4), st.floats(0, 0.5))
def test_it_counts_epochs_since_the_loss_last_fell(
    losses: list[float], patience: int, fall: float
) -> None:
    records = [0]
    for i, loss in enumerate(losses):
        if loss < losses[records[-1]] - fall:
            records.append(i)
    expected = bool(losses) and len(losses) - 1 - records[-1] >= patience
    assert at_rest(history(losses), patience, fall) == expected


@given(LOSSES)
def test_without_patience_nothing_is_at_rest(losses: list[float]) -> None:
    assert not at_rest(history(losses), None, 0.1)


def test_a_slow_fall_counts_when_it_adds_up() -> None:
    slow = [1 - 0.03 * i for i in range(20)]
    assert not at_rest(history(slow), 4, 0.1)
    assert at_rest(history(slow), 3, 0.1), "each third epoch is 0.1 below alone"
    assert not at_rest(history(slow), 1, 0.0), "any fall counts"


def test_a_run_ends_where_it_is_told_and_is_the_same_until_there() -> None:
    data = dataset(SHORT.dataset, 0, "cpu")
    run = replace(SHORT, epochs=4)
    whole = train(untrained(run, data, CPU), run, data, CPU)
    short = train(untrained(run, data, CPU), run, data, CPU, ended=lambda past: len(past) > 2)
    assert len(whole.history) == 5
    assert len(short.history) == 3
    for one, other in zip(short.history, whole.history, strict=False):
        assert replace(one, seconds=None) == replace(other, seconds=None)


@pytest.mark.parametrize("patience", [1, 3])
def test_a_constant_loss_is_at_rest_after_so_many_epochs_more(patience: int) -> None:
    assert not at_rest(history([1.0] * patience), patience, 0.0)
    assert at_rest(history([1.0] * (patience + 1)), patience, 0.0)
