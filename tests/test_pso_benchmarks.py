"""The measurements of particle swarms, on swarms of a few particles."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.pso import PAPER, STABLE, Recipe, StableTorchPSO
from benchmarks.experiments import swarm_ablation
from benchmarks.experiments.base import Found
from benchmarks.experiments.conduct import Status, carry_out, status
from benchmarks.experiments.swarm_ablation import (
    CHANGES,
    Options,
    SwarmAblation,
    SwarmRun,
    recipes,
)
from benchmarks.performance import swarms
from benchmarks.runs.run import Result
from tests.studies import place

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")

# --- speed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", swarms.MODELS)
def test_all_ways_find_the_same_costs(name: str) -> None:
    found = swarms.fitness(name, particles=3, samples=4, repeats=1, device=CPU)
    assert found["costs to"] - found["costs from"] > 1e-3  # or there is nothing to tell apart
    assert all(difference < 1e-6 for difference in found["largest difference to loop"].values())


def test_times_of_few_particles_are_scaled_to_the_swarm(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_second(
        steps: dict[str, Callable[[], Tensor]], repeats: int, device: torch.device
    ) -> dict[str, list[float]]:
        return {way: [1.0] * repeats for way in steps}

    monkeypatch.setattr(swarms, "interleaved", one_second)
    monkeypatch.setattr(swarms, "SUBSET", 2)
    found = swarms.fitness("mlp", particles=6, samples=4, repeats=3, device=CPU)
    assert [found[way]["seconds"] for way in ("swarm", "loop", "vmap")] == [1, 3, 3]
    assert found["loop"]["ratio"] == [3, 3, 3]


def test_half_of_the_particles_improve_in_every_update_that_is_timed() -> None:
    for swarm_type in swarms.SWARMS.values():
        swarm = swarm_type(replace(STABLE, particles=40), torch.empty(3), seed=0)
        update = swarms.update_of(swarm, particles=40)
        update()  # in which the best positions are where the particles are
        for _ in range(3):
            before = swarm.best_positions.clone()
            update()
            assert 8 < int((swarm.best_positions != before).any(dim=1).sum()) < 32


def test_memory_is_that_of_another_process() -> None:
    found = swarms.memory(StableTorchPSO, particles=200, samples=4)
    dimensions = 105_214
    assert found["stated bytes"] > 3 * 4 * 200 * dimensions
    assert 0.9 < found["peak / stated"] < 1.1


# --- ablation -------------------------------------------------------------------------------------

TINY = Options(dataset="digits", particles=3, iterations=2, samples=5, seeds=1)


def ablate(folder: Path, **changes: int) -> Found:
    return carry_out(SwarmAblation(), TINY.model_copy(update=changes), folder, place()).found


def test_the_changes_together_lead_from_one_recipe_to_the_other() -> None:
    recipe = PAPER
    for name in CHANGES:
        recipe = swarm_ablation.changed(recipe, STABLE, name)
    assert recipe == STABLE
    assert {
        f.name for f in fields(Recipe) if getattr(PAPER, f.name) != getattr(STABLE, f.name)
    } == {field for of_change in CHANGES.values() for field in of_change}
    assert len(set(recipes().values())) == 2 + 2 * len(CHANGES)


def test_runs_of_a_seed_start_alike() -> None:
    first: dict[int, set[float | None]] = {0: set(), 1: set()}
    for run in SwarmAblation().plan(TINY.model_copy(update={"seeds": 2}), {}):
        first[run.seed].add(swarm_ablation.train(run, CPU).history[1].train_loss)
    assert len(first[0]) == len(first[1]) == 1
    assert first[0] != first[1]


def test_the_ablation_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    train = swarm_ablation.train

    def counted(run: SwarmRun, *rest: Any) -> Result:
        made.append(run.seed)
        if len(made) == 7:
            raise KeyboardInterrupt
        return train(run, *rest)

    monkeypatch.setattr(SwarmAblation, "make", staticmethod(counted))
    with pytest.raises(KeyboardInterrupt):
        ablate(tmp_path)
    assert status(SwarmAblation(), TINY, tmp_path) == Status(done=6)
    first = ablate(tmp_path)
    assert len(made) == 7 + 4
    text = (tmp_path / "table.md").read_text()
    assert all(f"| {name} |" in text for name in recipes())
    assert len(first.runs) == 10
    ablate(tmp_path, seeds=2)
    assert made[11:] == [1] * 10
    assert ablate(tmp_path) == first
    assert (tmp_path / "table.md").read_text() == text
    ablate(tmp_path, iterations=3)
    assert len(made) == 21 + 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "digit"}, "dataset: unknown name 'digit'; did you mean 'digits'?"),
        ({"model": "mpl"}, "model: unknown name 'mpl'; did you mean 'mlp'?"),
        ({"samples": 5000}, "samples: 5000; allowed: up to "),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    kind, options = SwarmAblation(), TINY.model_copy(update=changes)
    refuses = kind.check if "samples" in changes else kind.runs
    with pytest.raises(ValueError, match=re.escape(message)):
        refuses(options)
