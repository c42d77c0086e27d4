"""Step costs: in turn, next to SGD, and the right one of each."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from baselines import METHODS, Settings
from benchmarks import speed
from benchmarks.models import MODELS
from benchmarks.speed import WARM_UP, Measurement, Workload, interleaved, measure

CPU = torch.device("cpu")


def measurement(*methods: str) -> Measurement:
    workload = Workload("toy-mlp", "relu", (2,), classes=3, batch_size=8)
    return Measurement(workload, methods, 5, Settings(1e-8), "a CPU", threads=1)


def test_steps_are_called_in_turn_and_warm_up_is_not_counted() -> None:
    calls: list[str] = []
    seconds = interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=4, device=CPU
    )
    assert calls == ["a", "b"] * (WARM_UP + 4)
    assert Counter({name: len(times) for name, times in seconds.items()}) == {"a": 4, "b": 4}


def test_ratios_are_medians_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine is slow in two rounds of five; the ratio of the medians would be 3.
    seconds = {"sgd": [1.0, 1.0, 1.0, 9.0, 9.0], "lfp": [2.0, 2.0, 3.0, 18.0, 18.0]}
    monkeypatch.setattr(
        speed, "interleaved", lambda steps, *_: {task: seconds[task[0]] for task in steps}
    )
    (cost,) = measure(measurement("lfp"), CPU)
    assert (cost.method, cost.seconds) == ("lfp", 3.0)
    assert (cost.time_ratio_low, cost.time_ratio, cost.time_ratio_high) == (2.0, 2.0, 2.0)


def test_every_method_is_measured_against_sgd() -> None:
    costs = {cost.method: cost for cost in measure(measurement(*METHODS), CPU)}
    assert list(costs) == list(METHODS)
    assert costs["sgd"].time_ratio == costs["sgd"].peak_ratio == 1
    for cost in costs.values():
        assert cost.seconds > 0
        assert 0 < cost.time_ratio_low <= cost.time_ratio <= cost.time_ratio_high
        # Parameters, gradients and momentum are there in any case.
        parameters = 4 * ((2 * 32 + 32) + (32 * 16 + 16) + (16 * 3 + 3))
        assert cost.peak_bytes > 3 * parameters
        assert cost.peak_ratio == cost.peak_bytes / costs["sgd"].peak_bytes


def test_the_yardstick_of_a_step_function_is_the_step_with_relu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SGD's own step with Heaviside has hardly a backward pass."""
    with_heaviside = measurement("lfp", "sgd")
    with_heaviside = replace(
        with_heaviside, workload=replace(with_heaviside.workload, activation="heaviside")
    )
    seconds = {("sgd", "relu"): 2.0, ("sgd", "heaviside"): 1.0, ("lfp", "heaviside"): 3.0}
    monkeypatch.setattr(
        speed,
        "interleaved",
        lambda steps, *_: {task: [seconds[task[0], task[1].activation]] for task in steps},
    )
    assert [cost.time_ratio for cost in measure(with_heaviside, CPU)] == [1.5, 0.5]


def test_every_model_has_a_shape() -> None:
    assert list(speed.SHAPES) == list(MODELS)


@pytest.mark.gpu
def test_a_gpu_is_measured_too() -> None:
    costs = measure(measurement("lfp", "sgd"), torch.device("cuda"))
    assert all(cost.peak_bytes > 0 for cost in costs)
