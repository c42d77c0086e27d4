"""Why an activation learns or does not: its secant slopes, and how the feedback is distributed.

LFP multiplies the reward by ``f(z) / (z + eps s(z))`` at every unit. Where that is large for a few
units, because f(z) is not small where z is, these decide the whole update; where it is negative,
because f(z) and z differ in sign, the unit is pushed the wrong way. Both are counted here, on one
batch, before and after training. So are the parameters that cannot learn at all
(:mod:`lfp_core.dead`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import lfp_core as lfp
from baselines import METHODS, LFPSettings
from benchmarks.data import Dataset
from benchmarks.models import build
from benchmarks.models.transformer import TokenMean
from benchmarks.rendering.style import PALETTE
from benchmarks.rendering.text import Lines
from benchmarks.runs.run import Divergence
from benchmarks.runs.training import divergence_of, train_epoch
from lfp_core.dead import DeadParameters
from lfp_core.slopes import share

#: Edges of the histograms of log10 |slope|; what lies outside is counted in the first or last bin.
DECADES = np.linspace(-6.0, 8.0, 57)


@dataclass(frozen=True)
class LayerDiagnosis:
    """One hidden layer on one batch; slopes are of all units and samples.

    Attributes:
        silent: share of slopes that are 0.
        reversed: share of slopes that are negative.
        median: of |slope|, where it is not 0.
        largest: |slope|.
        concentration: share of the sum of |slope| that the largest 1% of all slopes have.
        histogram: counts of log10 |slope| between the DECADES, where it is not 0.
        feedback_norm: 2-norm of the feedback of the weights that lead into the layer.
        gradient_norm: the same of the |w|-scaled gradient of the cross-entropy.
    """

    layer: int
    silent: float
    reversed: float
    median: float
    largest: float
    concentration: float
    histogram: tuple[int, ...]
    feedback_norm: float
    gradient_norm: float

    def plain(self) -> dict[str, Any]:
        """Return it in JSON types, with None for what is not finite."""
        return {n: None if is_infinite(value) else value for n, value in asdict(self).items()}


#: For each time, the diagnosis of every hidden layer.
Diagnoses = dict[str, list[LayerDiagnosis]]


class Course(NamedTuple):
    """A network before and after training: its hidden layers, and what of it cannot learn.

    There is nothing after training where it diverged.
    """

    layers: Diagnoses
    dead: dict[str, DeadParameters]
    divergence: Divergence | None = None


def diagnose(
    model: nn.Module, inputs: Tensor, targets: Tensor, epsilon: float
) -> list[LayerDiagnosis]:
    """Return a diagnosis of every hidden layer; the model's own gradients are lost.

    Args:
        model: its activations are modules; the layer of each is what had weights and ran before.
        inputs: (batch, ...).
        targets: class indices (batch,).
        epsilon: stabiliser of the epsilon rule.
    """
    training = model.training
    model.eval()
    slopes, weights = _hidden_layers(model, inputs, epsilon)
    feedback, gradient = _weight_norms(model, weights, inputs, targets, epsilon)
    model.train(training)
    layers = zip(slopes, feedback, gradient, strict=True)
    return [
        _diagnosis(number, slope, *norms) for number, (slope, *norms) in enumerate(layers, start=1)
    ]


def dead(model: nn.Module, inputs: Tensor, targets: Tensor, epsilon: float) -> DeadParameters:
    """Return the parameters that LFP cannot train on a batch; the model's gradients are lost."""
    training = model.training
    model.eval()
    _propagate(model, inputs, targets, epsilon)
    found = lfp.dead_parameters(model)
    model.zero_grad()
    model.train(training)
    return found


def before_and_after(
    dataset: Dataset, model: str, activation: str, settings: LFPSettings, epochs: int
) -> Course:
    """Return the diagnoses of a network before and after training it with LFP, on one batch.

    Batches are of 128, the diagnosed one is the first 1000 training samples; all seeds are 0.
    """
    network = build(
        model,
        activation=activation,
        input_shape=dataset.input_shape,
        classes=dataset.classes,
        seed=0,
    )
    assert isinstance(network, nn.Sequential), "neurons have no slopes that this could show"
    batch = dataset.train.inputs[:1000], dataset.train.targets[:1000]
    found = Course({}, {})

    def look(time: str) -> None:
        found.layers[time] = diagnose(network, *batch, settings.epsilon)
        found.dead[time] = dead(network, *batch, settings.epsilon)

    look("before training")
    trainer, order = METHODS["lfp"](network, settings), torch.Generator().manual_seed(0)
    steps = 0
    for _ in range(epochs):
        told = train_epoch(trainer.step, dataset.train, 128, order)
        if (divergence := divergence_of(*told, network, steps)) is not None:
            return found._replace(divergence=divergence)
        steps += len(told[0])
    look("after training")
    return found


def is_infinite(value: Any) -> bool:
    """Return whether a value is a number that JSON does not have."""
    return isinstance(value, float) and not isfinite(value)


@torch.no_grad()
def _hidden_layers(
    model: nn.Module, inputs: Tensor, epsilon: float
) -> tuple[list[Tensor], list[nn.Parameter]]:
    """Return the flat secant slopes of every activation, and the weights that lead into it."""
    slopes: list[Tensor] = []
    weights: list[nn.Parameter] = []
    last: list[nn.Parameter] = []

    def see(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if list(module.parameters()):
            last[:] = [p for name, p in module.named_parameters() if name == "weight"]
        elif last and _is_activation(module):
            slopes.append(share(output, arguments[0], epsilon, limit=0.0).flatten())
            weights.extend(last)

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(see) for leaf in leaves]
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return slopes, weights


def _is_activation(module: nn.Module) -> bool:
    return not isinstance(module, (nn.Flatten, nn.MaxPool2d, nn.Dropout, TokenMean))


def _weight_norms(
    model: nn.Module,
    weights: Sequence[nn.Parameter],
    inputs: Tensor,
    targets: Tensor,
    epsilon: float,
) -> tuple[list[float], list[float]]:
    """Return the norms of feedback and |w|-scaled gradient of the weights; None counts as 0."""
    _propagate(model, inputs, targets, epsilon)
    feedback = [0.0 if w.grad is None else float(w.grad.norm()) for w in weights]
    model.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    gradient = [0.0 if w.grad is None else float((w.grad * w).norm().detach()) for w in weights]
    model.zero_grad()
    return feedback, gradient


def _propagate(model: nn.Module, inputs: Tensor, targets: Tensor, epsilon: float) -> None:
    """Leave the feedback of the batch alone on the model."""
    model.zero_grad()
    with lfp.feedback(epsilon):
        logits = model(inputs)
    lfp.backward(logits, lfp.rewards.softmax(logits, targets))


def _diagnosis(layer: int, slope: Tensor, feedback: float, gradient: float) -> LayerDiagnosis:
    magnitude = np.sort(slope.abs().double().cpu().numpy())
    live = magnitude[magnitude > 0]
    largest_percent = magnitude[-max(len(magnitude) // 100, 1) :]
    with np.errstate(divide="ignore"):
        decades = np.clip(np.log10(live), DECADES[0], DECADES[-1])
    return LayerDiagnosis(
        layer=layer,
        silent=1 - len(live) / len(magnitude),
        reversed=float((slope < 0).double().mean()),
        median=float(np.median(live)) if len(live) else 0.0,
        largest=float(magnitude[-1]),
        concentration=float(largest_percent.sum() / magnitude.sum()) if len(live) else 0.0,
        histogram=tuple(int(count) for count in np.histogram(decades, DECADES)[0]),
        feedback_norm=feedback,
        gradient_norm=gradient,
    )


def png(diagnoses: Mapping[str, Diagnoses]) -> bytes:
    """Return a figure of what was found for each activation: histograms of slopes, norms."""
    times = list(dict.fromkeys(time for found in diagnoses.values() for time in found))
    figure = Figure(figsize=(10, 3.1 * len(times)), layout="constrained")
    axes = figure.subplots(len(times), 2, squeeze=False, width_ratios=[2, 1])
    centres = (DECADES[1:] + DECADES[:-1]) / 2
    for (histogram, norms), time in zip(axes, times, strict=True):
        for colour, (activation, of_activation) in zip(PALETTE, diagnoses.items(), strict=False):
            layers = of_activation.get(time, [])
            if not layers:  # as it diverged
                continue
            counts = np.sum([layer.histogram for layer in layers], axis=0)
            histogram.step(
                centres, counts / max(counts.sum(), 1), where="mid", color=colour, label=activation
            )
            norms.plot(
                [layer.layer for layer in layers],
                [max(layer.feedback_norm, 1e-12) for layer in layers],
                "o-",
                color=colour,
            )
        histogram.set_yscale("log")
        histogram.set_title(f"{time}: secant slopes of all hidden units", fontsize=9)
        histogram.set_xlabel("log10 |f(z) / (z + eps s(z))|")
        histogram.set_ylabel("share of units")
        histogram.legend(frameon=False, fontsize=8)
        norms.set_yscale("log")
        norms.set_title(f"{time}: feedback norm", fontsize=9)
        norms.set_xlabel("hidden layer")
        norms.set_xticks(range(1, max(len(d.get(time, [])) for d in diagnoses.values()) + 1))
        for axis in (histogram, norms):
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def diagnosis_lines(found: Mapping[str, Diagnoses]) -> Lines:
    """Return as text what `lfp-bench diagnose` found, a row for each hidden layer and time."""
    header = (
        "activation",
        "time",
        "layer",
        "silent %",
        "negative %",
        "median slope",
        "largest",
        "top 1% hold %",
        "feedback norm",
        "scaled gradient norm",
    )
    return header, [
        (
            activation,
            time,
            str(layer.layer),
            f"{100 * layer.silent:.1f}",
            f"{100 * layer.reversed:.1f}",
            f"{layer.median:.2g}",
            f"{layer.largest:.2g}",
            f"{100 * layer.concentration:.0f}",
            f"{layer.feedback_norm:.2g}",
            f"{layer.gradient_norm:.2g}",
        )
        for activation, times in found.items()
        for time, layers in times.items()
        for layer in layers
    ]


def dead_notes(found: Mapping[str, Mapping[str, DeadParameters]]) -> Iterator[str]:
    """Say which parameters cannot learn, by activation and time, and what to do."""
    dead = {
        (kind, time): d for kind, times in found.items() for time, d in times.items() if d.names
    }
    for (kind, time), of_kind in dead.items():
        yield f"{kind}, {time}: {of_kind}."
    if not dead:
        yield "No parameter is zero, and feedback reaches all of them."
    elif any(of_kind.zero for of_kind in dead.values()):
        yield "lfp_core.start_parameters sets zeros going, see docs/dead_parameters.md."
