"""What the options of LFP do: gates, units and normalisation, measured before a default is chosen.

``python -m benchmarks.experiments.treatments gates|units|normalisation [FOLDER]`` makes the runs
that FOLDER/<name>.json does not have, by default in `benchmarks/stored/treatments`, writes the
tables to <name>.md and prints them.

- gates: what products with the output of a sigmoid share. The feedback of networks with such gates
  beside |w| times the gradient, before training; then small ones that are trained.
- units: what functions with f(0) != 0 do, as the hidden units of the MLP for digits.
- normalisation: whether rewards go through the statistics of a small Llama's normalisations.

Every arm has as many trials as any other, of the learning rate and, in LFP, of epsilon; plain
gradient descent has as many rates instead. Trials are chosen by validation with seeds of their own.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import SeedSequence
from torch import Tensor, nn
from torchvision.models import MaxVit, get_model

import lfp_core as lfp
from baselines import LFP, SGD, Settings
from benchmarks.data import Dataset, load
from benchmarks.experiments import language
from benchmarks.models import MODELS
from benchmarks.models.llama import Llama, LlamaBlock
from benchmarks.rendering.text import Lines, at_edge, document, edge_notes, origins
from benchmarks.runs.training import accuracy, reproducible, train_epoch
from benchmarks.runs.tuning import FIRST_SWEEP_SEED, edge_of
from benchmarks.storage.files import write
from benchmarks.storage.provenance import ROOT, describe
from benchmarks.storage.records import Record, Records

FOLDER = ROOT / "benchmarks" / "stored" / "treatments"
CPU = torch.device("cpu")
BATCH = 64  # as in the study's trainings on digits
GRADIENT = "gradient"

Options = Mapping[str, Any]
#: The options of LFP by the name of the arm; the gradient has none.
GATES: Mapping[str, Options | None] = {
    "signal": {"gates": "signal"},
    "uniform": {"gates": "uniform"},
    "uniform, reverse": {"gates": "uniform", "units": "reverse"},
    "uniform, shifted": {"gates": "uniform", "units": "shifted"},
    GRADIENT: None,
}
UNITS: Mapping[str, Options | None] = {
    "identity": {"units": "identity"},
    "reverse": {"units": "reverse"},
    "shifted": {"units": "shifted"},
    GRADIENT: None,
}
NORMALISATIONS: Mapping[str, Options | None] = {
    "gradient": {"normalisation": "gradient"},
    "identity": {"normalisation": "identity"},
    "no LFP": None,
}


# --- feedback before training ---------------------------------------------------------------------


def flat(model: nn.Module) -> Tensor:
    """Return ``p.grad`` of all parameters, (parameters,) in double precision."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([part.double().flatten() for part in parts])


def descended(
    model: nn.Module, inputs: Tensor, targets: Tensor, options: Options | None, epsilon: float
) -> Tensor:
    """Return the feedback, or without options |w| dL/dw, of a batch that has the same dropout."""
    model.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        fill(model, inputs, targets, options, epsilon)
    found = flat(model)
    if options is None:
        found *= torch.cat([p.detach().double().abs().flatten() for p in model.parameters()])
    return found


def fill(
    model: nn.Module, inputs: Tensor, targets: Tensor, options: Options | None, epsilon: float
) -> Tensor:
    """Add the negated feedback, or without options the gradient, to ``p.grad``; return logits."""
    if options is None:
        logits: Tensor = model(inputs)
        F.cross_entropy(logits, targets).backward()
        return logits
    with lfp.feedback(epsilon, **options):
        logits = model(inputs)
    lfp.backward(logits, lfp.rewards.softmax(logits, targets))
    return logits


def finite(value: float) -> float | None:
    """Return the value, or None if it is not finite, as JSON has it."""
    return value if math.isfinite(value) else None


def compared(feedback: Tensor, scaled: Tensor) -> dict[str, float | None]:
    """Return the norm of the feedback over that of |w| dL/dw, and the cosine between them."""
    norms = feedback.norm(), scaled.norm()
    return {
        "ratio": finite(float(norms[0] / norms[1])),
        "cosine": finite(float((feedback / norms[0]) @ (scaled / norms[1]))),
    }


def small_maxvit(classes: int) -> nn.Module:
    """Return torchvision's maxvit_t with windows of 2, not 7, so that it takes images of 64."""
    model: nn.Module = MaxVit(
        input_size=(64, 64),
        stem_channels=64,
        partition_size=2,
        block_channels=[64, 128, 256, 512],
        block_layers=[2, 2, 5, 2],
        head_dim=32,
        stochastic_depth_prob=0.2,
        num_classes=classes,
    )
    return model


def vision_model(name: str, classes: int, seed: int) -> nn.Module:
    """Return a network of torchvision, with weights that were not trained."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if name == "maxvit_t":
            return small_maxvit(classes)
        model: nn.Module = get_model(name, weights=None, num_classes=classes)
        return model


def norms_of(name: str, side: int, seed: int) -> Record:
    """Return what each arm's feedback is beside |w| times the gradient, in training mode."""
    classes = 5
    model = vision_model(name, classes, seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(8, 3, side, side, generator=generator)
    targets = torch.randint(classes, (8,), generator=generator)
    scaled = descended(model, inputs, targets, None, 0.0)
    return {
        "scaled_gradient": float(scaled.norm()),
        "arms": {
            arm: compared(descended(model, inputs, targets, options, 1e-6), scaled)
            for arm, options in GATES.items()
            if options is not None
        },
        "environment": describe(CPU),
    }


# --- networks that are trained --------------------------------------------------------------------


class Squeeze(nn.Module):
    """Squeeze and excitation: channels of (N, C, H, W), each times a sigmoid of all their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 2)
        self.excite = nn.Linear(channels // 2, channels)

    def forward(self, images: Tensor) -> Tensor:
        """Weigh the channels."""
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(images.mean((2, 3))))))
        return images * gates[..., None, None]


def squeeze_network() -> nn.Module:
    """Return two convolutions with squeeze and excitation, for digits."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), Squeeze(16), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), Squeeze(32), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(32 * 4, 10),
    )


class RowReader(nn.Module):
    """An LSTM that reads images (N, 1, 8, 8) row by row, and a layer on its last output."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10)."""
        outputs, _ = self.lstm(images.squeeze(1))
        logits: Tensor = self.head(outputs[:, -1])
        return logits


def dense_network(activation: Callable[[], nn.Module]) -> nn.Module:
    """Return the study's MLP for digits with other hidden units."""
    return nn.Sequential(*MODELS["mlp"]((1, 8, 8), 10, activation))


Build = Callable[[], nn.Module]
GATED: Mapping[str, Build] = {"squeeze": squeeze_network, "lstm": RowReader}
DENSE: Mapping[str, Build] = {
    name: partial(dense_network, activation)
    for name, activation in {
        "sigmoid": nn.Sigmoid,
        "softplus": nn.Softplus,
        "hardsigmoid": nn.Hardsigmoid,
    }.items()
}


# --- trials and choices ---------------------------------------------------------------------------


class Trial(NamedTuple):
    """What is tried; the gradient has no epsilon."""

    rate: float
    epsilon: float | None = None


@dataclass(frozen=True)
class Budget:
    """What every arm has for its choice, and for the runs that are reported."""

    optimizer: str
    rates: tuple[float, ...]
    epsilons: tuple[float, ...]
    sweep_epochs: int
    epochs: int
    sweep_seeds: int = 2
    seeds: int = 5

    def trials(self, options: Options | None) -> list[Trial]:
        """Return rates and epsilons, or as many rates over the same range for the gradient."""
        if options is not None:
            return [Trial(*pair) for pair in product(self.rates, self.epsilons)]
        count = len(self.rates) * len(self.epsilons)
        rates = np.geomspace(min(self.rates), max(self.rates), count)
        return [Trial(float(f"{rate:.3g}")) for rate in rates]


class Treated(LFP):
    """LFP with options of its context."""

    def __init__(self, model: nn.Module, settings: Settings, options: Options) -> None:
        super().__init__(model, settings)
        self.options = options

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Propagate the softmax reward."""
        logits = fill(self.model, inputs, targets, self.options, self.settings.epsilon)
        with torch.no_grad():
            return F.cross_entropy(logits, targets)


class Trained(NamedTuple):
    """A network after its training, and the first epoch (from 1) with what is not finite."""

    model: nn.Module
    diverged: int | None


def train(
    build: Build, options: Options | None, settings: Settings, seed: int, epochs: int, data: Dataset
) -> Trained:
    """Train a network from scratch; a divergence ends it."""
    order_seed, weight_seed = (int(s) for s in SeedSequence(seed).generate_state(2))
    order = torch.Generator().manual_seed(order_seed)
    with reproducible(CPU, weight_seed):
        model = build()
        lfps = options is not None
        trainer = Treated(model, settings, options or {}) if lfps else SGD(model, settings)
        for epoch in range(1, epochs + 1):
            losses, norms = train_epoch(trainer, data.train, BATCH, order)
            if not np.isfinite([*losses, *norms]).all():
                return Trained(model, epoch)
    return Trained(model, None)


def study(build: Build, options: Options | None, budget: Budget, data: Dataset) -> Record:
    """Return all trials of an arm, the chosen one, and what it reaches; accuracies in [0, 1]."""

    def runs(trial: Trial, seeds: Iterable[int], epochs: int) -> list[Trained]:
        settings = Settings(trial.rate, epsilon=trial.epsilon or 0.0, optimizer=budget.optimizer)
        return [train(build, options, settings, seed, epochs, data) for seed in seeds]

    sweep_seeds = range(FIRST_SWEEP_SEED, FIRST_SWEEP_SEED + budget.sweep_seeds)
    trials = []
    for trial in budget.trials(options):
        tried = runs(trial, sweep_seeds, budget.sweep_epochs)
        # A diverged run counts 0, whatever it reached before.
        found = [0.0 if run.diverged else accuracy(run.model, data.validation) for run in tried]
        trials.append({**trial._asdict(), "validation": found})
    best = max(trials, key=lambda trial: mean(trial["validation"]))  # the first of equals
    finals = runs(Trial(best["rate"], best["epsilon"]), range(budget.seeds), budget.epochs)
    return {
        "options": options,
        "trials": trials,
        "chosen": best,
        "test_accuracy": [accuracy(run.model, data.test) for run in finals],
        "diverged": [run.diverged for run in finals],
        "environment": describe(CPU),
    }


def train_all(
    records: Records,
    networks: Mapping[str, Build],
    arms: Mapping[str, Options | None],
    budget: Budget,
) -> list[Record]:
    """Return a record for every network and arm; make what is missing."""
    data, found = load("digits"), []
    for name, arm in product(networks, arms):
        description = {"network": name, "arm": arm, "budget": as_json(budget)}
        make = partial(study, networks[name], arms[arm], budget, data)
        found.append(records.get(description, make))
    return found


def as_json(budget: Any) -> dict[str, Any]:
    """Return a dataclass as JSON will have it, so that what is stored is found again."""
    plain = asdict(budget).items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain}


# --- a small Llama --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LlamaBudget:
    """The small Llama, and how every arm is trained."""

    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    seeds: int = 3
    steps: int = 200
    batch: int = 16
    context: int = 32
    features: int = 32
    blocks: int = 3


def by_depth(model: nn.Module, scaled: bool) -> list[float | None]:
    """Return the norm of each block's ``p.grad``, times |w| if scaled, over the first block's."""
    norms = []
    for block in model.children():
        if isinstance(block, LlamaBlock):
            moved = [
                p.grad * (p.detach().abs() if scaled else 1.0)
                for p in block.parameters()
                if p.grad is not None
            ]
            norms.append(torch.cat([part.double().flatten() for part in moved]).norm())
    return [finite(float(norm / norms[0])) for norm in norms]


def train_llama(
    options: Options | None, rate: float, seed: int, budget: LlamaBudget, text: language.Text
) -> Record:
    """Train a small Llama with Adam; return the losses at its end (None: not finite).

    And what the first step was: the feedback by depth, and as a whole beside |w| dL/dw.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = Llama(text.characters, budget.features, budget.blocks, budget.context)
    batches = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    last_start = len(text.train) - budget.context - 1
    first: Record = {}
    for _ in range(budget.steps):
        starts = torch.randint(last_start, (budget.batch,), generator=batches)
        inputs, targets = language.windows(text.train, starts, budget.context)
        first = first or at_start(model, inputs, targets, options)
        optimizer.zero_grad()
        fill(model, inputs, targets, options, 1e-6)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {
        "validation_loss": finite(language.loss_on(model, text.validation, budget.context)),
        "test_loss": finite(language.loss_on(model, text.test, budget.context)),
        **first,
    }


def at_start(model: nn.Module, inputs: Tensor, targets: Tensor, options: Options | None) -> Record:
    """Return what the feedback of a batch is, the gradient's times |w|."""
    scaled = descended(model, inputs, targets, None, 0.0)
    feedback = descended(model, inputs, targets, options, 1e-6)
    return {"by_depth": by_depth(model, scaled=options is None), **compared(feedback, scaled)}


def study_llama(options: Options | None, budget: LlamaBudget, text: language.Text) -> Record:
    """Return the runs of all rates, and the rate with the least validation loss."""
    runs = [
        {"rate": rate, "seed": seed, **train_llama(options, rate, seed, budget, text)}
        for rate, seed in product(budget.rates, range(budget.seeds))
    ]

    def total(rate: float) -> float:
        losses = [run["validation_loss"] for run in runs if run["rate"] == rate]
        return sum(math.inf if loss is None else loss for loss in losses)

    best = min(budget.rates, key=total)
    return {"options": options, "runs": runs, "chosen": best, "environment": describe(CPU)}


# --- tables ---------------------------------------------------------------------------------------


def spread(values: Sequence[float | None], form: str = ".1f") -> str:
    """Return mean ± sample standard deviation; "not finite" if a value is none."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "not finite"
    deviation = stdev(known) if len(known) > 1 else 0.0
    return f"{mean(known):{form}} ± {deviation:{form}}"


def between(values: Sequence[float | None], form: str) -> str:
    """Return the least and the largest of some values, or "not finite" if one is none."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "not finite"
    low, high = f"{min(known):{form}}", f"{max(known):{form}}"
    return low if low == high else f"{low} to {high}"


def lines_of_norms(records: Sequence[Record]) -> Lines:
    """Return a line for each network and arm: ranges over the seeds."""
    header = ("network", "arm", "feedback over |w| dL/dw", "cosine")
    rows = []
    for name, arm in product(dict.fromkeys(r["model"] for r in records), GATES):
        if GATES[arm] is not None:
            found = [r["arms"][arm] for r in records if r["model"] == name]
            ratio = between([f["ratio"] for f in found], ".2g")
            cosine = between([f["cosine"] for f in found], ".2f")
            rows.append((name, arm, ratio, cosine))
    return header, rows


def lines_of_training(records: Sequence[Record]) -> Lines:
    """Return a line for each network and arm: what was chosen, and what that reaches."""
    header = ("network", "arm", "epsilon", "rate", "validation (%)", "test (%)", "diverged")
    return header, [row_of_training(record) for record in records]


def row_of_training(record: Record) -> tuple[str, ...]:
    """Return the line of one record."""
    best = record["chosen"]
    edge = edge_of({trial["rate"] for trial in record["trials"]}, best["rate"])
    return (
        record["network"],
        record["arm"],
        "-" if best["epsilon"] is None else f"{best['epsilon']:g}",
        f"{best['rate']:g}{at_edge(edge)}",
        f"{100 * mean(best['validation']):.1f}",
        spread([100 * value for value in record["test_accuracy"]]),
        f"{sum(epoch is not None for epoch in record['diverged'])}/{len(record['diverged'])}",
    )


def lines_of_llama(records: Sequence[Record]) -> Lines:
    """Return a line for each arm: losses, and the feedback at the start."""
    header = ("arm", "rate", "validation loss", "test loss", "over |w| dL/dw", "cosine", "by depth")
    return header, [row_of_llama(record) for record in records]


def row_of_llama(record: Record) -> tuple[str, ...]:
    """Return the line of one record."""
    best = record["chosen"]
    runs = [run for run in record["runs"] if run["rate"] == best]
    edge = edge_of({run["rate"] for run in record["runs"]}, best)
    depths = zip(*(run["by_depth"] for run in runs), strict=True)
    is_gradient = record["options"] is None
    return (
        record["arm"],
        f"{best:g}{at_edge(edge)}",
        *(spread([run[loss] for run in runs], ".3f") for loss in ("validation_loss", "test_loss")),
        "-" if is_gradient else between([run["ratio"] for run in runs], ".2g"),
        "-" if is_gradient else between([run["cosine"] for run in runs], ".2f"),
        ", ".join("not finite" if None in d else f"{mean(d):.2f}" for d in depths),
    )


def report(name: str, folder: Path, parts: Sequence[tuple[Lines, list[str]]]) -> str:
    """Write the tables of a study, each with what has to be known of it, and return them."""
    text = "\n".join(document(lines, remarks) for lines, remarks in parts)
    write(folder / f"{name}.md", text.encode())
    return text


def remarks_of(name: str, records: Sequence[Record]) -> list[str]:
    """Return where numbers were made, and with which command."""
    return [
        *(f"Made on: {o}." for o in origins([record["environment"] for record in records])),
        f"Command: `python -m benchmarks.experiments.treatments {name}`",
    ]


def remarks_on(name: str, budget: Budget, records: Sequence[Record]) -> list[str]:
    """Return how networks were trained."""
    trials = len(budget.rates) * len(budget.epsilons)
    edges = (
        edge_of({t["rate"] for t in r["trials"]}, r["chosen"]["rate"]) is not None for r in records
    )
    return [
        f"Digits, {budget.optimizer} with momentum 0.9, batches of {BATCH}, norm clipped to 3: "
        f"mean ± sample standard deviation of the test accuracy over {budget.seeds} seeds after "
        f"{budget.epochs} epochs. A diverged run counts with what it has become.",
        f"Each arm was chosen out of {trials} trials by validation accuracy, {budget.sweep_seeds} "
        f"other seeds after {budget.sweep_epochs} epochs: the rates "
        f"{', '.join(f'{r:g}' for r in budget.rates)} with the epsilons "
        f"{', '.join(f'{e:g}' for e in budget.epsilons)}; for the gradient {trials} rates evenly "
        "over the same decades.",
        *edge_notes(edges),
        *remarks_of(name, records),
    ]


# --- studies --------------------------------------------------------------------------------------

#: torchvision's networks with squeeze and excitation, and the side of their images.
VISION = (("efficientnet_b0", 64), ("regnet_y_400mf", 64), ("maxvit_t", 64))
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


def normalisation(folder: Path, budget: LlamaBudget = LlamaBudget()) -> str:
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
