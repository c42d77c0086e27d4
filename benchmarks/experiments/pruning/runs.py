"""The runs, and what they measure of pruned networks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import torch

from baselines import FeedbackSettings
from benchmarks.analysis import sparsity
from benchmarks.analysis.importance import weights_of
from benchmarks.analysis.sparsity import Scope
from benchmarks.data import Dataset, Split
from benchmarks.experiments.pruning.options import Options
from benchmarks.runs.convergence import at_rest
from benchmarks.runs.inspection import inspect
from benchmarks.runs.run import Epoch, Result, Run, Task
from benchmarks.runs.training import classify, dataset, train, untrained
from benchmarks.storage.checkpoint import Checkpoint

#: What weights are ranked by, and among which others, by the name of the criterion.
CRITERIA: dict[str, tuple[str, Scope]] = {
    "magnitude, all layers": ("magnitude", "global"),
    "magnitude, each layer": ("magnitude", "layer"),
    "relevance, all layers": ("relevance", "global"),
    "relevance, each layer": ("relevance", "layer"),
}


@dataclass(frozen=True, kw_only=True)
class Pruned(Run):
    """A run whose network is pruned after its training.

    Attributes:
        shares: that are pruned.
        removed, examples: as in :class:`Options`.
        epsilon: of the relevance by which weights are ranked.
        patience, fall: as in :class:`Options`.
    """

    task: ClassVar[Task] = Task("pruning", "cross-entropy", "accuracy")

    shares: tuple[float, ...]
    removed: int
    examples: int
    epsilon: float
    patience: int | None = None
    fall: float = 0.0

    def ended(self, history: Sequence[Epoch]) -> bool:
        """Return whether training has converged, if it is to."""
        return at_rest(history, self.patience, self.fall)


def pruned(run: Run, options: Options) -> Pruned:
    """Return the same run, with what is pruned after it."""
    return Pruned(
        **{field.name: getattr(run, field.name) for field in fields(Run)},
        shares=tuple(options.shares),
        removed=options.removed,
        examples=options.examples,
        epsilon=FeedbackSettings.of(options.settings("lfp")).epsilon,
        patience=options.patience,
        fall=0.0 if options.patience is None else options.fall,
    )


def make(run: Run, device: torch.device, checkpoint: Checkpoint | None) -> Result:
    """Make a run of the sweep, or one whose network is pruned."""
    if isinstance(run, Pruned):
        return train_and_prune(run, device, checkpoint)
    return classify(run, device, checkpoint)


def train_and_prune(run: Pruned, device: torch.device, checkpoint: Checkpoint | None) -> Result:
    """Return what a run measures; of a diverged one nothing is pruned.

    The details are the accuracies by criterion, in the order of the shares, and what the weights
    are.
    """
    data = dataset(run.dataset, run.seed, device.type)
    model = untrained(run, data, device)
    result = train(model, run, data, device, checkpoint, ended=run.ended)
    return result if result.diverged else replace(result, details=prune(model, data, run))


def prune(model: torch.nn.Module, data: Dataset, run: Pruned) -> dict[str, Any]:
    """Return the details of a run."""
    whole = sparsity.merged(model)
    magnitudes = sparsity.magnitude(weights_of(whole))
    relevance = sparsity.relevance(whole, data.train, run.epsilon)
    scores = {"magnitude": magnitudes, "relevance": relevance}
    some = Split(data.test.inputs[: run.examples], data.test.targets[: run.examples])
    return {
        "examples": len(some),
        "accuracy": {
            name: sparsity.curve(whole, scores[by], scope, run.shares, some)
            for name, (by, scope) in CRITERIA.items()
        },
        "layers": [
            {"layer": layer.name, "weights": layer.size, "gini": layer.gini, "small": layer.small}
            for layer in inspect(whole, data.train, data.classes).layers
        ],
        "correlation": asdict(sparsity.correlation(whole, some, run.removed, run.seed)),
    }
