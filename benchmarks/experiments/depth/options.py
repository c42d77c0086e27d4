"""Which networks are trained by which methods, as a study file says it."""

from collections.abc import Mapping
from itertools import product
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field

from baselines import LFP, SGD, LFPSettings, Settings
from baselines.registry import pick
from baselines.trainer import DescentTrainer
from baselines.wsgd import WeightScaledSGD
from benchmarks.data import DATASETS
from benchmarks.experiments.base import STRICT
from benchmarks.experiments.depth.networks import STRUCTURES
from benchmarks.experiments.options import Seeds, Whole
from benchmarks.models import ACTIVATIONS
from benchmarks.storage.names import refuse_repeated

#: The methods that there are, by name; others have no rule for residual or normalised layers.
COMPARED: Mapping[str, type[DescentTrainer]] = {
    method.name: method for method in (LFP, WeightScaledSGD, SGD)
}
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Cell(NamedTuple):
    """A network, and what trains it."""

    structure: str
    depth: int
    method: str


class Options(BaseModel):
    """Train networks of several depths.

    Attributes:
        dataset: the name of a data set.
        activation: the name of the activation of hidden units, which needs a derivative.
        depths: numbers of hidden layers.
        structures: how the layers are connected and normalised; by default all that there are.
        methods: names of methods; by default all that there are here.
        width: units of a hidden layer.
        epsilons: stabilisers of LFP: it trains with the first one, and its feedback before training
            is measured with all.
        learning_rates: the learning rates that every method and network is tuned on.
        epochs: epochs of all runs.
        batch_size: samples in a batch.
        seeds: how many runs are reported.
        sweep_seeds: how many runs a learning rate is chosen by.
    """

    model_config = STRICT

    dataset: str = "digits"
    activation: str = "relu"
    depths: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1)]
    structures: Annotated[list[str], Field(min_length=1)] = [*STRUCTURES]
    methods: Annotated[list[str], Field(min_length=1)] = ["lfp", "wsgd", "sgd"]
    width: Whole = 64
    epsilons: Annotated[
        list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1)
    ] = [1e-6]
    learning_rates: Annotated[list[Positive], Field(min_length=1)]
    epochs: Whole = 10
    batch_size: Whole = 64
    seeds: Seeds = 8
    sweep_seeds: Seeds = 1

    def check(self) -> None:
        """Raise `ValueError` naming a field that is wrong."""
        pick("dataset", self.dataset, DATASETS)
        for field in ("depths", "structures", "methods", "epsilons", "learning_rates"):
            refuse_repeated(field, getattr(self, field))
        for name in self.structures:
            pick("structures", name, STRUCTURES)
        units = pick("activation", self.activation, ACTIVATIONS)
        if units.spiking or not units.differentiable:
            raise ValueError(f"activation: {self.activation!r}; allowed: those with a derivative")
        for name in self.methods:
            pick("methods", name, COMPARED)

    @property
    def cells(self) -> list[Cell]:
        """Every network with every method."""
        return [Cell(*cell) for cell in product(self.structures, self.depths, self.methods)]

    def trials(self, method: str) -> list[Settings]:
        """Return the options that a method is chosen from, as many as every other one has."""
        if method == LFP.name:
            return [LFPSettings(rate, epsilon=self.epsilons[0]) for rate in self.learning_rates]
        return [Settings(rate) for rate in self.learning_rates]
