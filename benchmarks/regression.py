"""Regression by a reward: LFP against gradient descent on the mean squared error.

The experiment `regression` of study files. The paper trains an MLP with two hidden layers and the
reward ``r = sign(o) (y - o)^3`` on California Housing (arXiv 2308.12053, and its authors' notebook,
where a run ends with a test error of 0.33 after 100 epochs). Beside it stand LFP with the reward of
the squared error, ``r = -o dL/do``, and gradient descent.

What differs from the notebook: inputs are scaled by mean and standard deviation of the training
split (theirs by those of all data), and every seed draws a split of its own, with 30% of the
examples for the test. A sweep chooses learning rates on 15% of the training split.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Annotated, ClassVar, Literal

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
from baselines.trainer import DescentTrainer
from benchmarks import curves, paired, table
from benchmarks.comparison import Whole
from benchmarks.data import SILENCE, DataError, Split, default_root, socket_timeout
from benchmarks.environment import describe
from benchmarks.experiment import RECORDS, STRICT, Experiment, Place, Report, Status
from benchmarks.files import write
from benchmarks.records import Record, Records, by_method
from benchmarks.registry import pick
from benchmarks.report import rows
from benchmarks.runner import reproducible, train_epoch
from benchmarks.study import FIRST_SWEEP_SEED
from benchmarks.table import Lines, spread
from lfp_core.rewards import Reduction

Numbers = NDArray[np.float64]

TEST_SHARE = 0.3
VALIDATION_SHARE = 0.15  # of the training split, in a sweep
#: Epochs that the table shows, with the last one.
SHOWN = (1, 5, 10, 20, 50, 100)


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


class SquaredSGD(DescentTrainer):
    """Gradient descent on the squared error."""

    name: ClassVar[str] = "sgd"

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Backpropagate the squared error; return its mean."""
        outputs = self.model(inputs)
        F.mse_loss(outputs, targets, reduction=self.settings.reduction).backward()
        return F.mse_loss(outputs.detach(), targets)


METHODS: dict[str, type[DescentTrainer]] = {
    method.name: method for method in (CubicLFP, SquaredLFP, SquaredSGD)
}
PAIRS = (("lfp-cubic", "sgd"), ("lfp-squared", "sgd"), ("lfp-cubic", "lfp-squared"))


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
        learning_rates: the grid of the sweep.
        learning_rate: of methods that have no sweep.
        sweep_epochs, sweep_seeds: of the sweep.
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
    learning_rates: Annotated[list[float], Field(min_length=1)] = [5e-4, 1e-3, 2e-3, 5e-3, 1e-2]
    learning_rate: dict[str, float] = {}
    sweep_epochs: Whole = 20
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
            self._run("sweep", method, seed, self.sweep_epochs, rate)
            for rate in self.learning_rates
            for seed in range(FIRST_SWEEP_SEED, FIRST_SWEEP_SEED + self.sweep_seeds)
        ]

    def final(self, method: str, rate: float) -> list[Run]:
        """Return the reported runs of a method."""
        return [self._run("final", method, seed, self.epochs, rate) for seed in range(self.seeds)]

    def _run(
        self, kind: Literal["sweep", "final"], method: str, seed: int, epochs: int, rate: float
    ) -> Run:
        settings = self.settings(rate)
        return Run(kind, self.dataset, method, seed, epochs, self.batch_size, settings)


class Regression(Experiment[Options]):
    """See the module."""

    schema = Options

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

    def status(self, options: Options, folder: Path) -> Status:
        """See :class:`Experiment`."""
        records = Records(folder / RECORDS).runs
        return Status(len(records), sum(record["diverged"] for record in records))

    def carry_out(self, options: Options, folder: Path, place: Place) -> Report:
        """See :class:`Experiment`."""
        records = Records(folder / RECORDS)

        def made(runs: Sequence[Run]) -> Iterator[Record]:
            for run in runs:
                yield records.get({"run": asdict(run)}, partial(train, run, place.device))
                place.advance(f"{run.method} {run.seed}")

        rates = {
            method: options.learning_rate.get(method) or choose(list(made(options.sweep(method))))
            for method in options.methods
        }
        found = [r for method, rate in rates.items() for r in made(options.final(method, rate))]
        return write_report(folder, options, found, place.command)


def choose(tried: Sequence[Record]) -> float:
    """Return the rate with the lowest mean error at the end; one that diverged is the worst."""
    errors: dict[float, list[float]] = {}
    for record in tried:
        last = math.inf if record["diverged"] else record["errors"][-1]
        errors.setdefault(record["run"]["settings"]["learning_rate"], []).append(last)
    return min(sorted(errors), key=lambda rate: mean(errors[rate]))


# --- the report -----------------------------------------------------------------------------------


def error_lines(records: Sequence[Record], epochs: int) -> Lines:
    """Return the errors as text, a row for each method."""
    shown = [epoch for epoch in SHOWN if epoch < epochs] + [epochs]
    header = ("method", "learning rate", *(f"epoch {epoch}" for epoch in shown), "diverged")
    found = []
    for method, of_method in by_method(records).items():
        curves = [r["errors"] for r in of_method]
        reached = [[curve[epoch] for curve in curves if len(curve) > epoch] for epoch in shown]
        found.append(
            (
                method,
                f"{of_method[0]['run']['settings']['learning_rate']:g}",
                *(spread(values, 3) if values else "-" for values in reached),
                f"{sum(r['diverged'] for r in of_method)}/{len(of_method)}",
            )
        )
    return header, found


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


def write_report(folder: Path, options: Options, records: Sequence[Record], command: str) -> Report:
    """Write ``table.md``, ``test-error-by-epoch.png``, ``errors.csv`` and ``paired.csv``."""
    frame = tidy(records)
    last = frame[frame["epoch"] == options.epochs]
    measured = last.rename(columns={"test_mse": "value"}).assign(
        quantity=f"test MSE, epoch {options.epochs}"
    )
    differences = paired.differences(measured, PAIRS)
    rates = ", ".join(f"{rate:g}" for rate in options.learning_rates)
    remarks = [
        f"{options.dataset}, MLP with ReLU and dropout: mean squared error on the test split, mean "
        f"± sample standard deviation over the seeds 0 to {options.seeds - 1}, each with a split "
        f"of its own. Rewards and losses: {options.reduction} over batches of "
        f"{options.batch_size}.",
        f"Learning rates, where they are not given: from {rates} by the mean error on the "
        f"validation split after {options.sweep_epochs} epochs, {options.sweep_seeds} seeds.",
        *(f"Made on: {place}." for place in table.origin(r["environment"] for r in records)),
        f"Command: `{command}`",
    ]
    lines = error_lines(records, options.epochs)
    note = "Tested is the error at the end, for all pairs."
    text = "# Test error\n\n" + table.document(lines, remarks)
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
    return Report(lines, remarks, rows(last))
