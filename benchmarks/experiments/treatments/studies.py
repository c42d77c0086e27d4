"""The three studies: gates, units and normalisation."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.experiments.language import text as language
from benchmarks.experiments.treatments.arms import GATES, NORMALISATIONS, UNITS
from benchmarks.experiments.treatments.llama import LlamaBudget, study_llama
from benchmarks.experiments.treatments.networks import DENSE, GATED, Build
from benchmarks.experiments.treatments.tables import (
    lines_of_llama,
    lines_of_norms,
    lines_of_training,
    remarks_of,
    remarks_on,
    report,
)
from benchmarks.experiments.treatments.trials import Budget, as_json, train_all
from benchmarks.experiments.treatments.vision import VISION, norms_of
from benchmarks.rendering.text import edge_notes
from benchmarks.runs.tuning import edge_of
from benchmarks.storage.provenance import ROOT
from benchmarks.storage.records import Records

FOLDER = ROOT / "benchmarks" / "stored" / "treatments"
#: Networks with gates, and how they are trained.
TRAININGS = (
    (("squeeze",), Budget("sgd", (0.03, 0.1, 0.3, 1.0, 3.0), (1e-6, 0.1), 8, 16)),
    (("squeeze", "lstm"), Budget("adam", (0.001, 0.003, 0.01, 0.03, 0.1), (1e-6, 0.01), 6, 12)),
)
UNITS_BUDGET = Budget(
    "sgd",
    rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    epsilons=(1e-6, 0.01, 0.03, 0.1, 0.3),
    sweep_epochs=10,
    epochs=20,
    seeds=8,
)
LLAMA_BUDGET = LlamaBudget()


def gates(
    folder: Path,
    trainings: Sequence[tuple[Sequence[str], Budget]] = TRAININGS,
    vision: Sequence[tuple[str, int]] = VISION,
    seeds: int = 3,
) -> str:
    """Measure what the option `gates` does."""
    records = Records(folder / "gates.json")
    norms = [
        records.get(
            {"model": name, "side": side, "seed": seed}, partial(norms_of, name, side, seed)
        )
        for (name, side), seed in product(vision, range(seeds))
    ]
    remarks = [
        f"Before training, in training mode: the least and the largest of {seeds} seeds, batches "
        f"of 8 random images with sides of {', '.join(sorted({str(side) for _, side in vision}))}, "
        "5 classes, epsilon 1e-6. maxvit_t has windows of 2, not 7.",
        *remarks_of("gates", norms),
    ]
    parts = [(lines_of_norms(norms), remarks)]
    for names, budget in trainings:
        trained = train_all(records, {name: GATED[name] for name in names}, GATES, budget)
        parts.append((lines_of_training(trained), remarks_on("gates", budget, trained)))
    return report("gates", folder, parts)


def units(
    folder: Path, budget: Budget = UNITS_BUDGET, networks: Mapping[str, Build] = DENSE
) -> str:
    """Measure what the option `units` does."""
    trained = train_all(Records(folder / "units.json"), networks, UNITS, budget)
    parts = [(lines_of_training(trained), remarks_on("units", budget, trained))]
    return report("units", folder, parts)


def normalisation(folder: Path, budget: LlamaBudget = LLAMA_BUDGET) -> str:
    """Measure what the option `normalisation` does."""
    records, text = Records(folder / "normalisation.json"), language.corpus()
    found = [
        records.get(
            {"arm": arm, "budget": as_json(budget)}, partial(study_llama, options, budget, text)
        )
        for arm, options in NORMALISATIONS.items()
    ]
    edges = (edge_of(budget.rates, record["chosen"]) is not None for record in found)
    remarks = [
        f"A Llama of {budget.blocks} blocks with {budget.features} features, letter by letter: "
        f"{budget.steps} steps of Adam on {budget.batch} sequences of {budget.context} characters, "
        f"norm clipped to 1, epsilon 1e-6. Losses in nats a character, mean ± sample standard "
        f"deviation over {budget.seeds} seeds; the rate was chosen for each arm by the validation "
        f"loss, out of {', '.join(f'{r:g}' for r in budget.rates)}.",
        "Over |w| dL/dw, and cosine: of the whole feedback in the first step, least and largest of "
        "the seeds. By depth: the norm of each block's feedback then over that of the first "
        "block's, for the gradient of |w| dL/dw.",
        *edge_notes(edges),
        *remarks_of("normalisation", found),
    ]
    return report("normalisation", folder, [(lines_of_llama(found), remarks)])


STUDIES: Mapping[str, Callable[[Path], str]] = {
    "gates": gates,
    "units": units,
    "normalisation": normalisation,
}


def main(name: str, folder: str | Path = FOLDER) -> None:
    """Make what the folder does not have of a study, and print its tables."""
    print(STUDIES[name](Path(folder)))
