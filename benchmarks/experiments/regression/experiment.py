"""Regression by a reward: LFP against gradient descent on the mean squared error.

The experiment `regression` of study files. The paper trains an MLP with two hidden layers and the
reward ``r = sign(o) (y - o)^3`` on California Housing (arXiv 2308.12053, and its authors' notebook,
where a run ends with a test error of 0.33 after 100 epochs). Beside it stand LFP with the reward of
the squared error, ``r = -o dL/do``, gradient descent, and gradient descent scaled by ``|w|``, which
by Theorem 1 is what LFP with that reward becomes for epsilon 0.

What differs from the notebook: inputs are scaled by mean and standard deviation of the training
split (theirs by those of all data), and every seed draws a split of its own, with 30% of the
examples for the test. A sweep chooses learning rates on 15% of the training split, by the error
after as many epochs as reported runs have, so that what overfits is not preferred. The epoch with
the lowest mean error at that rate is reported too, as methods overfit at different times.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.random import SeedSequence
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from sklearn.datasets import fetch_california_housing, load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import lfp_core as lfp
from baselines import Settings
from baselines.registry import pick
from baselines.sgd import SGD
from baselines.trainer import DescentTrainer
from baselines.wsgd import WeightScaledSGD
from benchmarks.analysis import paired
from benchmarks.data import SILENCE, DataError, Split, default_root, socket_timeout
from benchmarks.experiments.base import STRICT, Experiment, Place, Report, rows
from benchmarks.experiments.options import Whole
from benchmarks.rendering import curves
from benchmarks.rendering.text import Lines, at_edge, document, edge_notes, origins, spread
from benchmarks.runs.training import reproducible, train_epoch
from benchmarks.runs.tuning import FIRST_SWEEP_SEED, Edge, edge_of
from benchmarks.storage.files import write
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Record, by_method
from lfp_core.rewards import Reduction

Numbers = NDArray[np.float64]

TEST_SHARE = 0.3
VALIDATION_SHARE = 0.15  # of the training split, in a sweep
#: Epochs that the table shows, with the last one.
SHOWN = (1, 5, 10, 20, 50, 100)
#: Of learning rates, in steps of about 2.
GRID = [1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2]


# --- data -----------------------------------------------------------------------------------------


def california() -> tuple[Numbers, Numbers]:
    """Return 20640 districts: inputs (N, 8), and median house values in 100000 dollars (N,).

    Raises `DataError` if they are not there and cannot be fetched.
    """
    home = default_root() / "california"
    try:
        with socket_timeout(SILENCE):  # as scikit-learn sets none
            return fetch_california_housing(data_home=home, return_X_y=True, n_retries=1)
    except OSError as error:  # URLError, HTTPError, timeouts
        raise DataError(
            f"dataset: 'california' could not be fetched to {home} ({error}); it needs a network, "
            "'diabetes' does not"
        ) from None


def diabetes() -> tuple[Numbers, Numbers]:
    """Return scikit-learn's 442 patients: inputs (N, 10), and progressions in hundreds (N,).

    In hundreds, as then they are about as large as California's values, and so are rates.
    """
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    return inputs, targets / 100


DATASETS: dict[str, Callable[[], tuple[Numbers, Numbers]]] = {
    "california": california,
    "diabetes": diabetes,
}


def split(inputs: Numbers, targets: Numbers, share: float, seed: int) -> tuple[Split, Split]:
    """Draw a share of the examples to test on; scale all inputs by statistics of the others.

    Args:
        inputs: (N, features).
        targets: (N,), which stay as they are.
        share: of N, in (0, 1).
        seed: of the draw.

    Returns:
        Training and test split in float32.
    """
    parts = train_test_split(inputs, targets, test_size=share, random_state=seed)
    train_inputs, test_inputs, train_targets, test_targets = parts
    scaler = StandardScaler().fit(train_inputs)

    def tensors(inputs: Numbers, targets: Numbers) -> Split:
        scaled = scaler.transform(inputs)
        return Split(torch.from_numpy(scaled).float(), torch.from_numpy(targets).float())

    return tensors(train_inputs, train_targets), tensors(test_inputs, test_targets)


# --- model and methods ----------------------------------------------------------------------------


def regressor(features: int, seed: int) -> nn.Sequential:
    """Return the paper's MLP features-256-128-1 with ReLU and dropout: (N, features) to (N,)."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            *(nn.Linear(features, 256), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(128, 1),
            nn.Flatten(start_dim=0),
        )


class CubicLFP(DescentTrainer):
    """LFP with the paper's reward ``r = sign(o) (y - o)^3``."""

    name: ClassVar[str] = "lfp-cubic"

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Propagate the reward; return the mean squared error."""
        with lfp.feedback(self.settings.epsilon):
            outputs = self.model(inputs)
        lfp.backward(outputs, self.reward(outputs, targets))
        return F.mse_loss(outputs.detach(), targets)

    def reward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the reward (batch,)."""
        return lfp.rewards.cubic_regression(outputs, targets, self.settings.reduction)


class SquaredLFP(CubicLFP):
    """LFP with the reward ``r = -o dL/do`` of the squared error, that is ``2 o (y - o)``."""

    name: ClassVar[str] = "lfp-squared"

    def reward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the reward (batch,)."""
        loss = partial(F.mse_loss, reduction=self.settings.reduction)
        return lfp.rewards.from_loss(loss)(outputs, targets)


class SquaredSGD(SGD):
    """Gradient descent on the squared error."""

    name: ClassVar[str] = "sgd"

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Backpropagate the squared error; return its mean."""
        outputs = self.model(inputs)
        F.mse_loss(outputs, targets, reduction=self.settings.reduction).backward()
        return F.mse_loss(outputs.detach(), targets)


class SquaredWSGD(WeightScaledSGD, SquaredSGD):  # scales what the second one fills in
    """Gradient descent on the squared error, scaled by |w|."""

    name: ClassVar[str] = "wsgd"


METHODS: dict[str, type[DescentTrainer]] = {
    method.name: method for method in (CubicLFP, SquaredLFP, SquaredSGD, SquaredWSGD)
}
#: Pairs whose differences are tested, at the last epoch and at the one that validation chose.
TESTED = (("lfp-cubic", "sgd"), ("lfp-squared", "sgd"), ("wsgd", "sgd"))
#: Pairs whose differences are shown beside them: what the scaling, and what the reward explains.
SHOWN_PAIRS = (("lfp-squared", "wsgd"), ("lfp-cubic", "lfp-squared"))


# --- runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What decides a run; one of a sweep never sees the test split."""

    kind: Literal["sweep", "final"]
    dataset: str
    method: str
    seed: int  # of the split, the weights, the order of the examples, and dropout
    epochs: int
    batch_size: int
    settings: Settings


def splits(run: Run, seed: int) -> tuple[Split, Split]:
    """Return what the run trains on, and what its errors are measured on."""
    inputs, targets = DATASETS[run.dataset]()
    if run.kind == "final":
        return split(inputs, targets, TEST_SHARE, seed)
    inputs, _, targets, _ = train_test_split(
        inputs, targets, test_size=TEST_SHARE, random_state=seed
    )
    return split(inputs, targets, VALIDATION_SHARE, seed)


def train(run: Run, device: torch.device) -> Record:
    """Return the mean squared errors on the split that is not trained on, before and by epoch.

    They end where one is not finite; ``diverged`` tells whether they do.
    """
    started, environment = perf_counter(), describe(device)
    streams = SeedSequence(run.seed).generate_state(4)
    split_seed, model_seed, order_seed, dropout_seed = (int(s) for s in streams)
    training, held_out = splits(run, split_seed)
    training, held_out = training.to(device), held_out.to(device)
    model = regressor(training.inputs.shape[1], model_seed).to(device)
    errors = [error(model, held_out)]
    with reproducible(device, dropout_seed):
        in_all = run.epochs * math.ceil(len(training) / run.batch_size)
        trainer = METHODS[run.method](model, replace(run.settings, total_steps=in_all))
        order = torch.Generator().manual_seed(order_seed)
        while len(errors) <= run.epochs and math.isfinite(errors[-1]):
            train_epoch(trainer, training, run.batch_size, order)
            errors.append(error(model, held_out))
    finite = [e for e in errors if math.isfinite(e)]
    return {
        "errors": finite,
        "diverged": len(finite) < len(errors),
        "seconds": perf_counter() - started,
        "environment": environment,
    }


@torch.no_grad()
def error(model: nn.Module, split: Split) -> float:
    """Return the mean squared error in evaluation mode; the model is left in training mode."""
    model.eval()
    found = float(F.mse_loss(model(split.inputs), split.targets))
    model.train()
    return found


class Options(BaseModel):
    """What is trained.

    Attributes:
        dataset: one of :data:`DATASETS`.
        methods: of :data:`METHODS`.
        seeds: reported runs of each method.
        epochs, batch_size: of them.
        momentum, clip_norm, reduction, epsilon: as in :class:`baselines.Settings`.
        learning_rates: the grid of the sweep, whose runs have as many epochs.
        learning_rate: of methods that have no sweep.
        sweep_seeds: of the sweep.
    """

    model_config = STRICT

    dataset: str = "diabetes"
    methods: Annotated[list[str], Field(min_length=1)] = list(METHODS)
    seeds: Whole = 3
    epochs: Whole = 100
    batch_size: Whole = 128
    momentum: float = 0.9
    clip_norm: float = 3.0
    reduction: Reduction = "sum"
    epsilon: float = 1e-6
    learning_rates: Annotated[list[float], Field(min_length=1)] = GRID
    learning_rate: dict[str, float] = {}
    sweep_seeds: Whole = 2

    def settings(self, rate: float) -> Settings:
        """Return the settings of a run; raises `ValueError` naming a field that is wrong."""
        return Settings(
            learning_rate=rate,
            momentum=self.momentum,
            clip_norm=self.clip_norm or None,
            reduction=self.reduction,
            epsilon=self.epsilon,
        )

    def sweep(self, method: str) -> list[Run]:
        """Return the runs that decide a method's rate; none if it is given."""
        if method in self.learning_rate:
            return []
        return [
            self._run("sweep", method, seed, rate)
            for rate in self.learning_rates
            for seed in range(FIRST_SWEEP_SEED, FIRST_SWEEP_SEED + self.sweep_seeds)
        ]

    def final(self, method: str, rate: float) -> list[Run]:
        """Return the reported runs of a method."""
        return [self._run("final", method, seed, rate) for seed in range(self.seeds)]

    def _run(self, kind: Literal["sweep", "final"], method: str, seed: int, rate: float) -> Run:
        settings = self.settings(rate)
        return Run(kind, self.dataset, method, seed, self.epochs, self.batch_size, settings)


class Regression(Experiment[Options]):
    """See the module."""

    schema = Options
    # The chosen rate is a place on an axis, and so is whatever decides it.
    axes = frozenset({"methods", "seeds", "learning_rates", "learning_rate", "sweep_seeds"})

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        pick("dataset", options.dataset, DATASETS)
        for method in (*options.methods, *options.learning_rate):
            pick("methods", method, METHODS)
        for rate in (*options.learning_rates, *options.learning_rate.values()):
            options.settings(rate)
        return sum(len(options.sweep(method)) + options.seeds for method in options.methods)

    def check(self, options: Options) -> None:
        """See :class:`Experiment`; fetches the data."""
        pick("dataset", options.dataset, DATASETS)()

    def model(self, options: Options) -> str:
        """See :class:`Experiment`; as small as that one."""
        return "mlp"

    def carry_out(self, options: Options, folder: Path, place: Place) -> Report:
        """See :class:`Experiment`."""
        records = self.records(options, folder)

        def made(runs: Sequence[Run]) -> Iterator[Record]:
            for run in runs:
                yield records.get({"run": asdict(run)}, partial(train, run, place.device))
                place.advance(f"{run.method} {run.seed}")

        choices = {
            method: Choice(options.learning_rate[method])
            if method in options.learning_rate
            else choose(list(made(options.sweep(method))))
            for method in options.methods
        }
        found = [
            record
            for method, choice in choices.items()
            for record in made(options.final(method, choice.learning_rate))
        ]
        return write_report(folder, options, choices, found, place.command)


class Choice(NamedTuple):
    """A learning rate; if from a sweep, the best epoch with it, and where the grid ends with it."""

    learning_rate: float
    epoch: int | None = None
    edge: Edge | None = None


def choose(tried: Sequence[Record]) -> Choice:
    """Return the rate with the lowest mean error at the end; one that diverged is the worst.

    Its epoch is that with the lowest mean error, the first of equals; none if the rate diverged.
    """
    curves: dict[float, list[list[float]]] = {}
    for record in tried:
        curve = [math.inf] if record["diverged"] else record["errors"]
        curves.setdefault(record["run"]["settings"]["learning_rate"], []).append(curve)
    best = min(sorted(curves), key=lambda rate: mean(curve[-1] for curve in curves[rate]))
    means = [mean(errors) for errors in zip(*curves[best], strict=False)]
    lowest = min(means)
    epoch = means.index(lowest) if math.isfinite(lowest) else None
    return Choice(best, epoch, edge_of(curves, best))


# --- the report -----------------------------------------------------------------------------------


def error_lines(records: Sequence[Record], choices: Mapping[str, Choice], epochs: int) -> Lines:
    """Return the errors as text, a row for each method."""
    shown = [epoch for epoch in SHOWN if epoch < epochs] + [epochs]
    of_epochs = [f"epoch {epoch}" for epoch in shown]
    header = ("method", "learning rate", *of_epochs, "chosen epoch", "error there", "diverged")
    found = []
    for method, of_method in by_method(records).items():
        choice = choices[method]
        reached = [errors_at(of_method, epoch) for epoch in (*shown, choice.epoch)]
        *by_epoch, chosen = (spread(values, 3) if values else "-" for values in reached)
        found.append(
            (
                method,
                f"{choice.learning_rate:g}{at_edge(choice.edge)}",
                *by_epoch,
                "-" if choice.epoch is None else str(choice.epoch),
                chosen,
                f"{sum(r['diverged'] for r in of_method)}/{len(of_method)}",
            )
        )
    return header, found


def errors_at(records: Sequence[Record], epoch: int | None) -> list[float]:
    """Return the errors after an epoch of the runs that reached it; none of no epoch."""
    if epoch is None:
        return []
    return [record["errors"][epoch] for record in records if len(record["errors"]) > epoch]


def tidy(records: Sequence[Record]) -> pd.DataFrame:
    """Return a row for each run and epoch, of which 0 is before training."""
    return pd.DataFrame(
        {
            "method": record["run"]["method"],
            "seed": record["run"]["seed"],
            "learning_rate": record["run"]["settings"]["learning_rate"],
            "epoch": epoch,
            "test_mse": value,
        }
        for record in records
        for epoch, value in enumerate(record["errors"])
    )


def differences_of(frame: pd.DataFrame, choices: Mapping[str, Choice], epochs: int) -> pd.DataFrame:
    """Return the differences at the last epoch and at the chosen ones: those tested, then others.

    Args:
        frame: of :func:`tidy`.
        choices: by method.
        epochs: the number of the last one.
    """
    chosen = frame["epoch"] == frame["method"].map({m: c.epoch for m, c in choices.items()})
    measured = pd.concat(
        [
            frame[frame["epoch"] == epochs].assign(quantity=f"test MSE, epoch {epochs}"),
            frame[chosen].assign(quantity="test MSE, chosen epoch"),
        ]
    ).rename(columns={"test_mse": "value"})
    return pd.concat(
        [
            paired.differences(measured, TESTED),
            paired.differences(measured, SHOWN_PAIRS, tested=False),
        ],
        ignore_index=True,
    )


def write_report(
    folder: Path,
    options: Options,
    choices: Mapping[str, Choice],
    records: Sequence[Record],
    command: str,
) -> Report:
    """Write ``table.md``, ``test-error-by-epoch.png``, ``errors.csv`` and ``paired.csv``."""
    frame = tidy(records)
    differences = differences_of(frame, choices, options.epochs)
    rates = ", ".join(f"{rate:g}" for rate in options.learning_rates)
    remarks = [
        f"{options.dataset}, MLP with ReLU and dropout: mean squared error on the test split, mean "
        f"± sample standard deviation over the seeds 0 to {options.seeds - 1}, each with a split "
        f"of its own. Rewards and losses: {options.reduction} over batches of "
        f"{options.batch_size}.",
        f"Learning rates, where they are not given: from {rates} by the mean error on the "
        f"validation split after {options.epochs} epochs, {options.sweep_seeds} seeds. Chosen "
        "epoch: the one with the lowest mean error there.",
        *edge_notes(choice.edge for choice in choices.values()),
        *(f"Made on: {place}." for place in origins(r["environment"] for r in records)),
        f"Command: `{command}`",
    ]
    lines = error_lines(records, choices, options.epochs)
    note = "Tested is what the code says beforehand: every method against sgd, at both epochs."
    text = "# Test error\n\n" + document(lines, remarks)
    text += paired.section(differences, digits=3, note=note)
    panel = {m: [r["errors"][1:] for r in runs] for m, runs in by_method(records).items()}
    image = curves.png(
        {options.dataset: panel},
        range(1, options.epochs + 1),
        across="epoch",
        up="test MSE",
        title=f"{options.dataset}: mean and range over {options.seeds} seeds",
    )
    write(folder / "table.md", text.encode())
    write(folder / "test-error-by-epoch.png", image)
    write(folder / "errors.csv", frame.to_csv(index=False).encode())
    write(folder / "paired.csv", differences.to_csv(index=False).encode())
    return Report(lines, remarks, rows(frame[frame["epoch"] == options.epochs]))
