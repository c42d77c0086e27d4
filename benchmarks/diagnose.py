"""Why an activation learns or does not: its secant slopes, and how the feedback is distributed.

LFP multiplies the reward by ``f(z) / (z + eps s(z))`` at every unit. Where that is large for a few
units, because f(z) is not small where z is, these decide the whole update; where it is negative,
because f(z) and z differ in sign, the unit is pushed the wrong way. Both are counted here, on one
batch, before and after training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import lfp_core as lfp
from baselines import METHODS, Settings
from benchmarks.data import Dataset
from benchmarks.figure import PALETTE
from benchmarks.models import build
from benchmarks.runner import train_epoch
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


#: For each time, the diagnosis of every hidden layer.
Diagnoses = dict[str, list[LayerDiagnosis]]


def diagnose(
    model: nn.Sequential, inputs: Tensor, targets: Tensor, epsilon: float
) -> list[LayerDiagnosis]:
    """Return a diagnosis of every hidden layer; the model's own gradients are lost.

    Args:
        model: alternates layers with weights and activations, each maybe followed by others.
        inputs: (batch, ...).
        targets: class indices (batch,).
        epsilon: stabiliser of the epsilon rule.
    """
    training = model.training
    model.eval()
    slopes = _slopes(model, inputs, epsilon)
    feedback, gradient = _weight_norms(model, inputs, targets, epsilon)
    model.train(training)
    # The last weights lead to the logits, which have no activation.
    layers = zip(slopes, feedback[:-1], gradient[:-1], strict=True)
    return [
        _diagnosis(number, slope, *norms) for number, (slope, *norms) in enumerate(layers, start=1)
    ]


def before_and_after(
    dataset: Dataset, model: str, activation: str, settings: Settings, epochs: int
) -> Diagnoses:
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
    found = {"before training": diagnose(network, *batch, settings.epsilon)}
    trainer, order = METHODS["lfp"](network, settings), torch.Generator().manual_seed(0)
    for _ in range(epochs):
        train_epoch(trainer, dataset.train, 128, order)
    found["after training"] = diagnose(network, *batch, settings.epsilon)
    return found


@torch.no_grad()
def _slopes(model: nn.Sequential, inputs: Tensor, epsilon: float) -> list[Tensor]:
    """Return the flat secant slopes of every activation."""
    slopes, flow = [], inputs
    for module in model:
        before, flow = flow, module(flow)
        if not list(module.parameters()) and _is_activation(module):
            slopes.append(share(flow, before, epsilon, limit=0.0).flatten())
    return slopes


def _is_activation(module: nn.Module) -> bool:
    return not isinstance(module, (nn.Flatten, nn.MaxPool2d, nn.Dropout))


def _weight_norms(
    model: nn.Sequential, inputs: Tensor, targets: Tensor, epsilon: float
) -> tuple[list[float], list[float]]:
    """Return the norms of feedback and |w|-scaled gradient of every weight; None counts as 0."""
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    model.zero_grad()
    with lfp.feedback(epsilon):
        logits = model(inputs)
    lfp.backward(logits, lfp.rewards.softmax(logits, targets))
    feedback = [0.0 if w.grad is None else float(w.grad.norm()) for w in weights]
    model.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    gradient = [0.0 if w.grad is None else float((w.grad * w).norm().detach()) for w in weights]
    model.zero_grad()
    return feedback, gradient


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
    times = list(next(iter(diagnoses.values())))
    figure = Figure(figsize=(10, 3.1 * len(times)), layout="constrained")
    axes = figure.subplots(len(times), 2, squeeze=False, width_ratios=[2, 1])
    centres = (DECADES[1:] + DECADES[:-1]) / 2
    for (histogram, norms), time in zip(axes, times, strict=True):
        for colour, (activation, of_activation) in zip(PALETTE, diagnoses.items(), strict=False):
            layers = of_activation[time]
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
        norms.set_xticks(range(1, max(len(d[time]) for d in diagnoses.values()) + 1))
        for axis in (histogram, norms):
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
