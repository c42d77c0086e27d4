"""Models that begin with zeros: ``python examples/dead_parameters.py``.

LFP never moves a parameter that is exactly 0, and what lies behind a layer of zeros gets no reward
(docs/dead_parameters.md, whose tables this prints). Four models that begin with such layers are
trained by LFP as they are, and after :func:`lfp_core.start_parameters` with several scales; one of
them with two epsilons; and models of our own studies, of which only shifts are 0. Takes about
twenty minutes on a CPU, half of it for the ResNet-50.
"""

import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ConvNeXt, VisionTransformer, resnet18, resnet50
from torchvision.models.convnext import CNBlockConfig

import lfp_core as lfp
from baselines import METHODS, OPTIMIZERS, Settings
from benchmarks.data import Split, load
from benchmarks.experiments import language
from benchmarks.models import build
from benchmarks.rendering.text import spread
from benchmarks.runs.training import accuracy, train_epoch
from lfp_core.dead import DeadParameters

SCALES = (0.01, 0.1, 1.0)


class LoRA(nn.Module):
    """A frozen linear layer, plus two small matrices of which the second is 0 (Hu et al., 2021)."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (batch, features), as the frozen layer does at the start."""
        return self.base(x) + 2 * self.b(self.a(x))


def vit() -> nn.Module:
    """Return torchvision's ViT for images of 8 x 8: its head is 0, and so are many biases."""
    return VisionTransformer(
        **{"image_size": 8, "patch_size": 2, "num_layers": 2, "num_heads": 4},
        **{"hidden_dim": 32, "mlp_dim": 64, "num_classes": 10},
    )


def resnet() -> nn.Module:
    """Return a ResNet-50 in which the last normalisation of each block has weights that are 0."""
    return resnet50(zero_init_residual=True, num_classes=10)


def convnext() -> nn.Module:
    """Return a small ConvNeXt whose LayerScale is 0."""
    stages = [CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)]
    return ConvNeXt(stages, layer_scale=0.0, num_classes=10)


def lora() -> nn.Module:
    """Return an MLP that knows upright digits, with LoRA on each of its layers."""
    layers = [nn.Linear(192, 64), nn.Linear(64, 64), nn.Linear(64, 10)]
    model = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    train(model, digits(8), 300, Task(lora, learning_rate=0.05, feedback=False))
    for index in (1, 3, 5):
        layer = model[index]
        assert isinstance(layer, nn.Linear)
        model[index] = LoRA(layer)
    return model


@dataclass(frozen=True)
class Task:
    """How a model is made and trained, on digits of `side` pixels, `turned` or not."""

    build: Callable[[], nn.Module]
    steps: int = 150
    learning_rate: float = 3e-3
    optimizer: str = "sgd"
    side: int = 8
    turned: bool = False
    feedback: bool = True  # LFP, or the gradient
    epsilon: float = 1e-6


TASKS = {
    "ViT, its head": Task(vit, optimizer="adam"),
    "ResNet-50, last normalisations": Task(resnet, steps=30, learning_rate=0.1, side=32),
    "ConvNeXt, LayerScale": Task(convnext, optimizer="adam", side=32),
    "LoRA, second matrices": Task(lora, learning_rate=0.01, optimizer="adam", turned=True),
}


@dataclass(frozen=True)
class Found:
    """What a training found: what could not learn, by how much the start changed the outputs, loss.

    `change` is relative, in the 2-norm and in training mode; None where outputs were 0. `loss` is
    the mean of the last ten steps.
    """

    dead: DeadParameters
    change: float | None
    loss: float


def digits(side: int, turned: bool = False) -> Split:
    """Return scikit-learn's training digits with three channels, by a quarter turn if wanted."""
    split = load("digits").train
    images = F.interpolate(split.inputs.expand(-1, 3, -1, -1), side)
    return Split(images.rot90(1, (2, 3)) if turned else images, split.targets)


def train(
    model: nn.Module, data: Split, steps: int, task: Task, seed: int = 0
) -> tuple[list[float], DeadParameters]:
    """Return the loss before each step on batches of 32, and what was dead after the first."""
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[task.optimizer]
    options = {"momentum": 0.9} if task.optimizer == "sgd" else {}
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = kind(weights, lr=task.learning_rate, **options)
    draw, losses = torch.Generator().manual_seed(seed), []
    dead = lfp.dead_parameters(model)
    for step in range(steps):
        rows = torch.randint(len(data), (32,), generator=draw)
        optimizer.zero_grad()
        if task.feedback:
            with lfp.feedback(task.epsilon):
                logits = model(data.inputs[rows])
            lfp.backward(logits, lfp.rewards.softmax(logits, data.targets[rows]))
            loss = F.cross_entropy(logits.detach(), data.targets[rows])
        else:
            logits = model(data.inputs[rows])
            loss = F.cross_entropy(logits, data.targets[rows])
            loss.backward()
        if step == 0:
            dead = lfp.dead_parameters(model)
        nn.utils.clip_grad_norm_(weights, 3.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, dead


def run(task: Task, scale: float | None, seed: int) -> Found:
    """Train one model; None does not start its parameters."""
    torch.manual_seed(seed)
    model, data = task.build(), digits(task.side, task.turned)
    with torch.no_grad():
        before = deepcopy(model)(data.inputs[:64])
        if scale is not None:
            lfp.start_parameters(model, scale, generator=torch.Generator().manual_seed(seed))
        after = deepcopy(model)(data.inputs[:64])
    change = float((after - before).norm() / before.norm()) if before.any() else None
    losses, dead = train(model, data, task.steps, task, seed)
    return Found(dead, change, mean(losses[-10:]))


def models(seeds: int = 3) -> None:
    """Print what each model makes of each scale."""
    names = ["as it is", *(f"scale {scale:g}" for scale in SCALES)]
    print("| model | start | zero | without feedback | outputs change | loss at the end |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, task in TASKS.items():
        for label, scale in zip(names, (None, *SCALES), strict=True):
            found = [run(task, scale, seed) for seed in range(seeds)]
            dead, losses = found[0].dead, [f.loss for f in found]
            changes = [f.change for f in found if f.change is not None]
            change = f"{100 * mean(changes):.0f}%" if changes else "from 0"
            print(
                f"| {name} | {label} | {len(dead.zero)} of {dead.trainable} "
                f"| {len(dead.unreached or ())} | {change} "
                f"| {mean(losses):.2f} ({min(losses):.2f} to {max(losses):.2f}) |",
                flush=True,
            )


def epsilons(seeds: int = 3) -> None:
    """Print the losses of LoRA with SGD by epsilon and scale."""
    scales = (0.001, *SCALES)
    print("| scale |", " | ".join(f"{scale:g}" for scale in scales), "|")
    print("| --- |", " | ".join("---" for _ in scales), "|")
    for epsilon in (1e-6, 0.1):
        task = Task(lora, 200, 0.1, turned=True, epsilon=epsilon)
        losses = (mean(run(task, scale, seed).loss for seed in range(seeds)) for scale in scales)
        print(f"| epsilon {epsilon:g} |", " | ".join(f"{loss:.2g}" for loss in losses), "|")


def vit_tiny(optimizer: str, start: bool, seed: int) -> float:
    """Return the test accuracy in % of the ViT of our study, on digits."""
    data = load("digits")
    model = build("vit-tiny", activation="silu", input_shape=(1, 8, 8), classes=10, seed=seed)
    if start:
        lfp.start_parameters(model, generator=torch.Generator().manual_seed(seed))
    rate = {"sgd": 0.1, "adam": 3e-3}[optimizer]
    trainer = METHODS["lfp"](model, Settings(rate, optimizer=optimizer))
    order = torch.Generator().manual_seed(seed)
    for _ in range(4):
        train_epoch(trainer.step, data.train, 32, order)
    return 100 * accuracy(model, data.test)


def gpt(optimizer: str, start: bool, seed: int) -> float:
    """Return the test loss in nats of the GPT of our study, after 100 steps."""
    text, rate = language.corpus(), {"sgd": 0.5, "adam": 3e-3}[optimizer]
    options = language.Options(learning_rates={"sgd": [rate]}, steps=100)
    torch.manual_seed(seed)
    model = language.GPT(text.characters, options)
    if start:
        lfp.start_parameters(model, generator=torch.Generator().manual_seed(seed))
    descent = OPTIMIZERS[optimizer](model.parameters(), rate, 0.9)
    arm = language.Arm("lfp", "sgd", 1e-6, "uniform")
    draw = torch.Generator().manual_seed(seed)
    for _ in range(options.steps):
        starts = torch.randint(len(text.train) - options.context - 1, (16,), generator=draw)
        descent.zero_grad()
        language.fill_gradients(model, arm, *language.windows(text.train, starts, options.context))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        descent.step()
    return language.loss_on(model, text.test, options.context)


def resnet18_loss(optimizer: str, start: bool, seed: int) -> float:
    """Return the loss of torchvision's ResNet-18 on digits, as :func:`run` does."""
    task = Task(lambda: resnet18(num_classes=10), 60, 0.03, optimizer, side=32)
    return run(task, 0.1 if start else None, seed).loss


def studies(seeds: int = 5) -> None:
    """Print what a start makes of models that are 0 in shifts alone."""
    print("| | as it is | started |")
    print("| --- | --- | --- |")
    arms: list[tuple[str, Callable[[str, bool, int], float], str]] = [
        ("`vit-tiny` on digits, 4 epochs, SGD: test accuracy %", vit_tiny, "sgd"),
        ("the same with Adam", vit_tiny, "adam"),
        ("GPT, 100 steps, SGD: test loss in nats", gpt, "sgd"),
        ("the same with Adam", gpt, "adam"),
        ("ResNet-18 from scratch on digits, 60 steps, SGD: loss", resnet18_loss, "sgd"),
    ]
    for label, measure, optimizer in arms:
        both = [[measure(optimizer, start, s) for s in range(seeds)] for start in (False, True)]
        digits = 1 if measure is vit_tiny else 3
        print(f"| {label} |", " | ".join(spread(found, digits) for found in both), "|", flush=True)


def main(*parts: str) -> None:
    """Print the tables of docs/dead_parameters.md, or those that are named."""
    tables = {"models": models, "epsilons": epsilons, "studies": studies}
    for name in parts or tables:
        tables[name]()
        print()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
