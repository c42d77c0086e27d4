"""A run: the same bits every time, honest about divergence, blind to the test split in a sweep."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines import METHODS, LFPSettings, Settings, Spiking
from baselines.sgd import SGD
from baselines.spiking import Encoding
from baselines.trainer import Step, scheduler
from benchmarks.data import Dataset, Split
from benchmarks.runs import training
from benchmarks.runs.run import Convolutions, Divergence, Epoch, Result, Run
from benchmarks.runs.training import accuracy, execute
from benchmarks.storage.checkpoint import Checkpoint
from benchmarks.storage.files import StoreError
from tests import noisy
from tests.noisy import RUN

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
#: Of methods that are not for convolutions.
MODEL = {"dtp": "mlp"}


@pytest.fixture(scope="module")
def noise() -> Dataset:
    return noisy.noise()


@pytest.fixture(scope="module")
def expected(noise: Dataset) -> Result:
    """Return what the run measures."""
    return execute(RUN, noise, CPU)


def measured(result: Result) -> tuple[object, ...]:
    """All of a result but the time that it took."""
    history = [replace(epoch, seconds=None) for epoch in result.history]
    dead = (result.dead_at_start, result.dead_at_end)
    return history, result.divergence, result.steps, result.inspection, *dead


def test_the_seed_matters(noise: Dataset, expected: Result) -> None:
    assert measured(execute(replace(RUN, seed=4), noise, CPU)) != measured(expected)


def test_torch_is_left_as_it_was(noise: Dataset) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    execute(RUN, noise, CPU)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_a_run_records(expected: Result) -> None:
    result = expected
    assert len(result.history) == 1 + RUN.epochs
    assert result.steps == RUN.epochs * 3, "40 examples are 3 batches of at most 16"
    assert result.seconds > 0
    start, *trained = result.history
    assert start.train_loss is None
    assert start.test is not None
    for epoch in trained:
        assert None not in (epoch.train_loss, epoch.validation, epoch.test)
        assert epoch.feedback_norm_median is not None
        assert epoch.feedback_norm_max is not None
        assert 0 < epoch.feedback_norm_median <= epoch.feedback_norm_max
    assert result.test == trained[-1].test


class Killed(BaseException):
    """Nothing handles this, as nothing handles kill -9."""


def killed_in_step(run: Run, data: Dataset, checkpoint: Checkpoint, step: int) -> None:
    """Begin the run, or go on with it, and kill it instead of the n-th step from now."""
    method, left = METHODS[run.method], itertools.count(1)

    class Doomed(method):  # type: ignore[valid-type, misc]
        def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> Step:
            if next(left) == step:
                raise Killed
            return super().step(inputs, targets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS.own, run.method, Doomed)
        with pytest.raises(Killed):
            execute(run, data, CPU, checkpoint)


ENVIRONMENT = {"commit": "abc", "code": "123", "date": "today"}


@pytest.mark.usefixtures("small_swarms")
@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].network is None])
def test_the_same_run_gives_the_same_bits_whether_or_not_it_is_interrupted(
    method: str, noise: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps are an epoch: killed in the second one, the run goes on after the first."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    run = replace(RUN, method=method, model=MODEL.get(method, RUN.model), epochs=3)
    expected = execute(run, noise, CPU)
    torch.manual_seed(12345)  # whatever state torch is in
    torch.rand(7)
    checkpoint = Checkpoint(tmp_path / "run.pt", ENVIRONMENT)
    killed_in_step(run, noise, checkpoint, step=5)
    killed_in_step(run, noise, Checkpoint(checkpoint.path, {**ENVIRONMENT, "date": "now"}), step=6)
    state = checkpoint.load()
    assert state is not None
    assert state["steps"] == 6
    torch.manual_seed(99)  # another process has another state
    assert measured(execute(run, noise, CPU, checkpoint)) == measured(expected)


def test_a_checkpoint_of_other_code_is_not_gone_on_from(
    noise: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    checkpoint = Checkpoint(tmp_path / "run.pt", ENVIRONMENT)
    killed_in_step(RUN, noise, checkpoint, step=5)
    assert Checkpoint(checkpoint.path, {**ENVIRONMENT, "code": "124"}).load() is None
    assert checkpoint.load() is not None
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load() is None


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 half a file"])
def test_a_checkpoint_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"run\.pt: not a checkpoint .* delete it"):
        Checkpoint(path, ENVIRONMENT).load()


def test_a_budget_of_time_ends_a_run(noise: Dataset) -> None:
    result = execute(replace(RUN, epochs=10**6, budget=0.05), noise, CPU)
    assert 0.05 <= result.seconds < 5
    assert result.history[-1].test is not None
    assert execute(replace(RUN, budget=1e-9), noise, CPU).steps == 1, "the first one is made"
    assert execute(replace(RUN, budget=1e9), noise, CPU).steps == RUN.epochs * 3


@pytest.mark.parametrize("encoding", ["constant", "rate", "latency"])
@pytest.mark.parametrize("method", ["lfp", "surrogate"])
def test_a_spiking_run_gives_the_same_bits_and_counts_spikes(
    method: str, encoding: Encoding, noise: Dataset, expected: Result
) -> None:
    spiking = Spiking(beta=0.9, steps=5, encoding=encoding)
    run = replace(RUN, model="mlp", method=method, activation="lif", spiking=spiking)
    first, second = (execute(run, noise, CPU) for _ in range(2))
    assert measured(first) == measured(second)
    assert first.spikes == second.spikes
    assert first.spikes is not None
    assert first.spikes > 0
    assert expected.spikes is None, "its neurons do not spike"


def test_a_one_cycle_run_ends_at_a_rate_of_almost_nothing(
    noise: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the last step moves the weights a thousandth of what an early one does."""
    rates: list[float] = []
    step = METHODS["sgd"].step

    def note(self: SGD, inputs: torch.Tensor, targets: torch.Tensor) -> Step:
        rates.append(self.optimizer.param_groups[0]["lr"])
        return step(self, inputs, targets)

    monkeypatch.setattr(METHODS["sgd"], "step", note)
    settings = Settings(0.05, schedule="one-cycle")
    execute(replace(RUN, method="sgd", epochs=4, settings=settings), noise, CPU)
    assert len(rates) == 4 * 3
    assert max(rates) == pytest.approx(0.05, rel=0.05)
    assert rates[0] == pytest.approx(0.05 / 25)
    assert rates.index(max(rates)) in (3, 4)
    assert rates[-1] < 0.05 / 10


def test_the_rate_and_the_momentum_of_the_paper_cycle_against_each_other() -> None:
    """Momentum falls from 0.95 to 0.85 while the rate climbs, as in Smith and Topin 2019."""
    found = {}
    for schedule in ("one-cycle", "one-cycle-momentum"):
        parameter = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
        cycle = scheduler(optimizer, Settings(0.1, schedule=schedule, total_steps=9))
        assert cycle is not None
        steps = []
        for _ in range(9):
            steps.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            optimizer.step()
            cycle.step()
        found[schedule] = list(zip(*steps, strict=True))
    rates, momenta = found["one-cycle-momentum"]
    assert rates == found["one-cycle"][0]
    assert set(found["one-cycle"][1]) == {0.9}
    highest = rates.index(max(rates))
    assert (momenta[0], momenta[highest], max(momenta)) == (0.95, pytest.approx(0.85), 0.95)
    assert list(momenta[: highest + 1]) == sorted(momenta[: highest + 1], reverse=True)
    assert list(momenta[highest:]) == sorted(momenta[highest:])


@pytest.mark.parametrize("convolutions", ["float32", "tf32"])
def test_a_run_has_the_precision_of_convolutions_that_it_says(
    noise: Dataset, monkeypatch: pytest.MonkeyPatch, convolutions: Convolutions
) -> None:
    allowed = set()
    step = METHODS["sgd"].step

    def note(self: Any, inputs: Tensor, targets: Tensor) -> Any:
        allowed.add(torch.backends.cudnn.allow_tf32)
        return step(self, inputs, targets)

    monkeypatch.setattr(METHODS["sgd"], "step", note)
    before = torch.backends.cudnn.allow_tf32
    execute(replace(RUN, method="sgd", convolutions=convolutions), noise, CPU)
    assert allowed == {convolutions == "tf32"}
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_sweep_never_sees_the_test_split(noise: Dataset) -> None:
    poison = Split(torch.full_like(noise.test.inputs, torch.nan), noise.test.targets)
    sweep = replace(RUN, kind="sweep")
    clean = execute(sweep, noise, CPU)
    assert measured(execute(sweep, replace(noise, test=poison), CPU)) == measured(clean)
    assert clean.test is None
    assert clean.validation is not None


def test_a_diverged_run_keeps_what_it_measured(noise: Dataset) -> None:
    run = replace(RUN, method="sgd", settings=Settings(1e20, clip_norm=None))
    result = execute(run, noise, CPU)
    assert result.divergence is not None
    assert result.divergence.step == 2, "the first step is on healthy weights"
    assert "loss" in result.divergence.reason
    before, last = result.history
    assert last.train_loss is not None, "of the step before"
    assert last.test is None
    assert result.test == before.test


def test_weights_that_overflow_in_the_last_step_are_noticed(noise: Dataset) -> None:
    run = replace(
        RUN, method="sgd", batch_size=40, epochs=1, settings=Settings(3e38, clip_norm=1e30)
    )
    huge = replace(noise, train=Split(noise.train.inputs * 1e6, noise.train.targets))
    assert execute(run, huge, CPU).divergence == Divergence(1, "a weight is not finite")


def test_steps_of_which_clipping_leaves_nothing_are_counted_and_the_run_goes_on(
    noise: Dataset,
) -> None:
    """As in the authors' code, where a norm that overflows makes the step 0."""
    huge = replace(noise, train=Split(noise.train.inputs * 1e25, noise.train.targets))
    clipped = replace(RUN, method="sgd", settings=Settings(0.1, clip_norm=3.0))
    result = execute(clipped, huge, CPU)
    assert result.divergence is None
    assert result.overflowed == result.steps > 1
    assert result.feedback_norm_max is None, "none of the norms is finite"
    assert execute(clipped, noise, CPU).overflowed == 0
    ended = execute(replace(clipped, settings=Settings(0.1, clip_norm=None)), huge, CPU)
    assert ended.divergence == Divergence(1, "the feedback norm is inf")


def test_the_largest_norm_and_the_last_values() -> None:
    history = (
        Epoch(validation=0.1, test=0.1),
        Epoch(1.5, 2.0, 9.0, 0.4, 0.3),
        Epoch(1.0, 2.0, 4.0),
    )
    result = Result(RUN, history, Divergence(5, "the loss is nan"), steps=6, seconds=1.0)
    assert (result.validation, result.test) == (0.4, 0.3)
    assert (result.train_loss, result.feedback_norm_max) == (1.0, 9.0)


def test_accuracy_is_counted_in_evaluation_mode() -> None:
    class FirstInput(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return torch.stack([x[:, 0], -x[:, 0]], dim=1)

    model = FirstInput()
    sign = torch.tensor([[1.0], [-1.0], [1.0], [1.0]]).repeat(1000, 1)  # more than one batch
    targets = torch.tensor([0, 1, 1, 0]).repeat(1000)
    assert accuracy(model, Split(sign, targets)) == 0.75
    assert model.training


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "sweep"},
        {"seed": 4},
        {"epochs": 3},
        {"activation": "tanh"},
        {"settings": LFPSettings(0.05, epsilon=1e-3)},
        {"spiking": Spiking()},
        {"budget": 1.0},
    ],
)
def test_every_field_changes_the_identity(change: dict[str, object]) -> None:
    assert replace(RUN, **change).id != RUN.id  # type: ignore[arg-type]
    assert replace(RUN).id == RUN.id


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits_too(noise: Dataset) -> None:
    gpu = torch.device("cuda")
    first, second = (execute(RUN, noise.to(gpu), gpu) for _ in range(2))
    assert measured(first) == measured(second)
