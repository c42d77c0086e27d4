"""The measurements of particle swarms, on swarms of a few particles."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baselines.pso import PAPER, STABLE, Recipe, StableTorchPSO
from benchmarks.data import Dataset, load
from benchmarks.experiments import swarm_ablation
from benchmarks.experiments.swarm_ablation import CHANGES, Plan, ablate, recipes
from benchmarks.performance import swarms

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

TINY = Plan(particles=3, iterations=2, samples=5)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def test_the_changes_together_lead_from_one_recipe_to_the_other() -> None:
    recipe = PAPER
    for name in CHANGES:
        recipe = swarm_ablation.changed(recipe, STABLE, name)
    assert recipe == STABLE
    assert {
        f.name for f in fields(Recipe) if getattr(PAPER, f.name) != getattr(STABLE, f.name)
    } == {field for of_change in CHANGES.values() for field in of_change}
    assert len(set(recipes().values())) == 2 + 2 * len(CHANGES)


def test_runs_of_a_seed_start_alike(digits: Dataset) -> None:
    first = {
        seed: {
            swarm_ablation.run(recipe, seed, TINY, digits)["cost by iteration"][0]
            for recipe in recipes().values()
        }
        for seed in (0, 1)
    }
    assert len(first[0]) == len(first[1]) == 1
    assert first[0] != first[1]


def test_what_is_stored_is_not_made_again(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    run = swarm_ablation.run

    def counted(recipe: Recipe, seed: int, plan: Plan, data: Dataset) -> swarm_ablation.Record:
        made.append(seed)
        if len(made) == 7:
            raise KeyboardInterrupt
        return run(recipe, seed, plan, data)

    monkeypatch.setattr(swarm_ablation, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        ablate(tmp_path, digits, seeds=1, plan=TINY)
    assert len(json.loads((tmp_path / "ablation.json").read_text())["runs"]) == 6
    ablate(tmp_path, digits, seeds=1, plan=TINY)
    assert len(made) == 7 + 4
    text = (tmp_path / "ablation.md").read_text()
    ablate(tmp_path, digits, seeds=2, plan=TINY)
    assert made[11:] == [1] * 10
    ablate(tmp_path, digits, seeds=1, plan=TINY)
    assert len(made) == 21
    assert (tmp_path / "ablation.md").read_text() == text
    assert all(f"| {name} |" in text for name in recipes())


def test_another_plan_is_another_run(digits: Dataset, tmp_path: Path) -> None:
    for iterations in (2, 3):
        ablate(tmp_path, digits, seeds=1, plan=Plan(3, iterations, 5))
    runs = json.loads((tmp_path / "ablation.json").read_text())["runs"]
    assert [len(r["cost by iteration"]) for r in runs] == [2] * 10 + [3] * 10


def test_the_command_asks_for_a_folder(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swarm_ablation, "load", lambda name: digits)
    monkeypatch.setattr(swarm_ablation, "Plan", lambda: TINY)
    swarm_ablation.main(["--results", str(tmp_path), "--study", "few", "--seeds", "1"])
    assert (tmp_path / "few" / "ablation.md").exists()
    with pytest.raises(SystemExit):
        swarm_ablation.main([])
