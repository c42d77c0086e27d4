"""Step costs: in turn, next to SGD, and the right one of each."""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from time import sleep

import pytest
import torch

from baselines import METHODS, Spiking
from benchmarks import models
from benchmarks.costs import step as speed
from benchmarks.costs.pooling import with_engine_pooling
from benchmarks.costs.report import speed_lines
from benchmarks.costs.step import measure
from benchmarks.costs.timing import FEWEST, WARM_UP, interleaved
from benchmarks.costs.workloads import POOLED, Measurement, Workload
from benchmarks.models import MODELS, build

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def measurement(*methods: str) -> Measurement:
    workload = Workload("toy-mlp", "relu", (2,), classes=3, batch_size=8)
    settings = {method: METHODS[method].Options(1e-8) for method in methods}
    return Measurement(workload, methods, 5, settings, "a CPU", threads=1)


def test_steps_are_called_in_turn_and_warm_up_is_not_counted() -> None:
    calls: list[str] = []
    seconds = interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=4, device=CPU
    )
    assert calls == ["a", "b"] * (WARM_UP + 4)
    assert Counter({name: len(times) for name, times in seconds.items()}) == {"a": 4, "b": 4}


def test_what_takes_long_sits_rounds_out() -> None:
    steps = {"slow": lambda: sleep(0.02), "quick": lambda: None}
    seconds = interleaved(steps, repeats=50, device=CPU, patience=0.05)
    assert len(seconds["quick"]) == 50
    assert len(seconds["slow"]) == FEWEST
    assert len(interleaved(steps, repeats=5, device=CPU)["slow"]) == 5


def test_no_round_begins_when_the_budget_of_the_clock_is_spent() -> None:
    """Rounds are whole, so that steps that belong together stay so."""
    now = [0.0]

    def step(seconds: float) -> Callable[[], None]:
        return lambda: now.__setitem__(0, now[0] + seconds)

    steps = {"long": step(2.0), "short": step(1.0)}
    for budget, rounds in ((0.0, FEWEST), (11.0, FEWEST + 1), (100.0, 20)):
        found = interleaved(steps, 20, CPU, budget=budget, clock=lambda: now[0])
        assert found == {"long": [2.0] * rounds, "short": [1.0] * rounds}


def test_multiply_accumulates_are_those_of_the_three_products() -> None:
    """Forward, to the weights, and to the activations, which the first layer need not have."""
    first, rest = 2 * 32, 32 * 16 + 16 * 3
    found = {cost.method: cost.macs for cost in measure(measurement("lfp", "sgd"), CPU)}
    assert found == {"lfp": 2 * first + 3 * rest, "sgd": 2 * first + 3 * rest}


@pytest.mark.usefixtures("small_swarms")
def test_a_swarm_multiplies_for_every_particle_and_its_time_is_that_of_its_own_samples() -> None:
    (cost,) = measure(measurement("pso-torch-stable"), CPU)
    assert cost.macs == pytest.approx(20 * (2 * 32 + 32 * 16 + 16 * 3), rel=1e-4)
    assert cost.samples == 1000


@pytest.mark.usefixtures("small_swarms")
def test_the_memory_of_a_swarm_in_numpy_is_seen() -> None:
    """Positions, velocities and best positions in float64, at least."""
    (cost,) = measure(measurement("pso-stable"), CPU)
    assert cost.peak_bytes > 3 * 8 * 100 * (3 * 32 + 33 * 16 + 17 * 3)


def test_ratios_are_medians_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine is slow in two rounds of five; the ratio of the medians would be 3.
    seconds = {"sgd": [1.0, 1.0, 1.0, 9.0, 9.0], "lfp": [2.0, 2.0, 3.0, 18.0, 18.0]}
    monkeypatch.setattr(
        speed, "interleaved", lambda steps, *_: {task: seconds[task[0]] for task in steps}
    )
    (cost,) = measure(measurement("lfp"), CPU)
    assert (cost.method, cost.seconds) == ("lfp", 3.0)
    assert (cost.time_ratio_low, cost.time_ratio, cost.time_ratio_high) == (2.0, 2.0, 2.0)


@pytest.mark.usefixtures("small_swarms")
def test_every_method_is_measured_against_sgd() -> None:
    methods = [name for name in METHODS if METHODS[name].network is None]
    costs = {cost.method: cost for cost in measure(measurement(*methods), CPU)}
    assert list(costs) == methods
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
    plain = measurement("lfp", "sgd")
    with_heaviside = replace(plain, workload=replace(plain.workload, activation="heaviside"))
    spiking = replace(plain, workload=replace(plain.workload, activation="lif", spiking=Spiking()))
    seconds = {
        ("sgd", "relu"): 2.0,
        ("sgd", "heaviside"): 1.0,
        ("lfp", "heaviside"): 3.0,
        ("lfp", "lif"): 8.0,
    }
    monkeypatch.setattr(
        speed,
        "interleaved",
        lambda steps, *_: {task: [seconds[task[0], task[1].activation]] for task in steps},
    )
    assert [cost.time_ratio for cost in measure(with_heaviside, CPU)] == [1.5, 0.5]
    costs = measure(replace(spiking, methods=("lfp",)), CPU)
    assert [cost.time_ratio for cost in costs] == [4.0]


def test_the_engine_pools_a_network_of_sgd_with_the_same_derivatives() -> None:
    model = build("lenet", activation="relu", input_shape=(1, 28, 28), classes=10, seed=0)
    model.double().eval()  # it has dropout
    inputs, found = torch.rand(4, 1, 28, 28, dtype=torch.float64), []
    for network in (model, with_engine_pooling(deepcopy(model))):
        network(inputs).square().sum().backward()
        found.append([parameter.grad for parameter in network.parameters()])
    for theirs, ours in zip(*found, strict=True):
        assert theirs is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_network_that_pools_is_also_compared_with_sgd_that_pools_in_the_same_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LFP's ratio to SGD may be that of two poolings, and this one is not."""
    pooling = Workload("lenet", "relu", (1, 28, 28), 10, 4)
    seconds = {"sgd": [4.0], POOLED: [2.0], "lfp": [3.0]}
    monkeypatch.setattr(
        speed, "interleaved", lambda steps, *_: {task: seconds[task[0]] for task in steps}
    )
    (cost,) = measure(replace(measurement("lfp"), workload=pooling), CPU)
    assert (cost.time_ratio, cost.same_pooling_ratio) == (0.75, 1.5)
    (cost,) = measure(measurement("lfp"), CPU)
    assert cost.same_pooling_ratio is None
    row = {"model": "lenet", "activation": "relu", **asdict(cost)}
    assert "the same pooling" not in speed_lines([row])[0]
    header, (line,) = speed_lines([{**row, "same_pooling_ratio": 1.5}])
    assert line[header.index("the same pooling")] == "1.50"


def test_every_model_has_a_shape() -> None:
    assert list(models.SHAPES) == list(MODELS)


@pytest.mark.gpu
def test_a_gpu_is_measured_too() -> None:
    costs = measure(measurement("lfp", "sgd"), torch.device("cuda"))
    assert all(cost.peak_bytes > 0 for cost in costs)
