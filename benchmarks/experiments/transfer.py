"""Transfer: networks with weights from ImageNet, fine-tuned by LFP and its rivals.

The experiment `transfer` of study files. A network of torchvision gets the weights of a file, or
those that torchvision publishes under a name; its last layer is replaced by a new one, and its
ReLUs by another activation, if that is asked for. The paper does it with VGG-16 and ResNet-18 on
CUB-200, ISIC 2019 and Food-11, at largest rates of 1e-3 and 5e-3 of a one-cycle schedule (arXiv
2308.12053).

Images are of a data set of :mod:`benchmarks.data`, or of a folder with ``train/CLASS/*`` and
``test/CLASS/*``; they are scaled to one size and by ImageNet's mean and standard deviation. Unlike
the authors, no images are made up by flips, noise or colours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.error import URLError

import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from baselines import METHODS
from baselines.methods import refusal
from baselines.registry import pick
from benchmarks.analysis import paired
from benchmarks.data import DATASETS, SILENCE, DataError, Dataset, Split, load, socket_timeout
from benchmarks.experiments.base import Experiment, Found, Results
from benchmarks.experiments.options import MethodOptions, Whole, chosen
from benchmarks.models import ACTIVATIONS, replace_relus
from benchmarks.rendering import curves
from benchmarks.rendering.curves import Curve
from benchmarks.rendering.document import Figure, Section, Table
from benchmarks.rendering.text import Lines, seeds_of, spread
from benchmarks.runs.run import Result, Run, Task, of_methods
from benchmarks.runs.training import train
from benchmarks.storage.checkpoint import Checkpoint

#: Names in torchvision, and the name of the layer that is replaced.
HEADS = {
    "vgg16": "classifier.6",
    "vgg16_bn": "classifier.6",
    "resnet18": "fc",
    "resnet34": "fc",
}
#: Mean and deviation of ImageNet's pixels in [0, 1], by channel.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VALIDATION_SHARE = 0.15
PAIRS = (("lfp", "sgd"), ("wsgd", "sgd"), ("lfp", "wsgd"))


# --- networks -------------------------------------------------------------------------------------


def network(
    name: str, *, weights: str, activation: str, classes: int, seed: int
) -> models.VGG | models.ResNet:
    """Return a network for images (N, 3, height, width) with a new last layer.

    Args:
        name: in :data:`HEADS`.
        weights: the path of a file that `torch.save` wrote of the network's state; or a name that
            torchvision has for it, such as DEFAULT; or "" to draw all weights.
        activation: in :data:`benchmarks.models.ACTIVATIONS`; it takes the place of every ReLU.
        classes: of the new last layer.
        seed: of the weights that are drawn.

    Raises:
        ValueError: an unknown name, or a file that does not hold weights of this network.
        DataError: the weights cannot be fetched.
    """
    head = pick("model", name, HEADS)
    kind = pick("activation", activation, ACTIVATIONS)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model: models.VGG | models.ResNet = models.get_model(name, weights=None)
        if weights:
            model.load_state_dict(state(name, weights))
        old = model.get_submodule(head)
        assert isinstance(old, nn.Linear)
        model.set_submodule(head, nn.Linear(old.in_features, classes))
    replace_relus(model, kind)
    return model


def state(name: str, weights: str) -> dict[str, Tensor]:
    """Return weights of the network in torchvision, of a file or of torchvision's collection.

    Raises:
        DataError: the weights cannot be fetched.
        ValueError: the file holds no weights of this network, or there is none.
    """
    named = models.get_model_weights(name)
    if weights in named.__members__:
        try:
            with socket_timeout(SILENCE):
                return dict(named[weights].get_state_dict(progress=False, check_hash=True))
        except (OSError, URLError) as error:
            raise DataError(
                f"weights: {weights} of {name} could not be fetched ({error}); give the path of a "
                "file, or from_scratch: true"
            ) from None
    try:
        found = torch.load(weights, map_location="cpu", weights_only=True)
        models.get_model(name, weights=None).load_state_dict(found)
    except FileNotFoundError:
        names = ", ".join(named.__members__)
        raise ValueError(f"weights: no file {weights!r}; allowed: a path, or {names}") from None
    except Exception as error:  # what unpickling rubbish may raise is not documented
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"weights: {weights!r} is not of {name} ({reason})") from None
    return dict(found)


# --- images ---------------------------------------------------------------------------------------


def scaled(pixels: Tensor, side: int) -> Tensor:
    """Return (N, 3, side, side) of pixels (N, 1 or 3, height, width) in [0, 1], as for ImageNet."""
    sized = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    mean, deviation = (torch.tensor(c).view(3, 1, 1) for c in (MEAN, DEVIATION))
    return (sized.expand(-1, 3, -1, -1) - mean) / deviation


def images(name: str, side: int) -> Dataset:
    """Return a data set of images with three channels; the name is one, or a folder's path.

    Raises:
        ValueError: neither a data set of images nor a folder with ``train`` and ``test`` in it.
        DataError: the data cannot be fetched.
    """
    if name not in DATASETS:
        return _folder(Path(name), side)
    data = load(name)
    if len(data.input_shape) != 3:
        raise ValueError(f"dataset: {name!r} does not consist of images")

    def prepared(split: Split) -> Split:
        return Split(scaled(split.inputs / 2 + 0.5, side), split.targets)  # from [-1, 1]

    return replace(
        data,
        train=prepared(data.train),
        validation=prepared(data.validation),
        test=prepared(data.test),
    )


def _folder(folder: Path, side: int) -> Dataset:
    """Return the images in a folder; 15% of those to train on, stratified, are for validation."""
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise ValueError(
                f"dataset: {str(folder)!r} is no data set, nor a folder with train and test in it; "
                f"allowed: such a folder, {', '.join(DATASETS)}"
            )
    pixels = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    found = {}
    for part in ("train", "test"):
        files = ImageFolder(str(folder / part), transform=pixels)
        inputs = torch.cat([scaled(image[None], side) for image, _ in files])
        found[part] = Split(inputs, torch.tensor(files.targets)), files.classes
    (both, classes), (test, of_test) = found["train"], found["test"]
    if classes != of_test:
        raise ValueError(f"dataset: train and test in {folder} do not have the same classes")
    train_rows, rows = train_test_split(
        range(len(both)), test_size=VALIDATION_SHARE, stratify=both.targets, random_state=0
    )
    training = Split(both.inputs[train_rows], both.targets[train_rows])
    validation = Split(both.inputs[rows], both.targets[rows])
    return Dataset(folder.name, training, validation, test, len(classes))


# --- the experiment -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TransferRun(Run):
    """A run that begins with weights of another data set.

    Attributes:
        side: of the images, in pixels.
        weights: a path or a name; "" if all weights are drawn.
    """

    task: ClassVar[Task] = Task("transfer", "cross-entropy", "accuracy")

    side: int
    weights: str


class Options(MethodOptions):
    """Fine-tune networks of torchvision on other images.

    Attributes:
        dataset: the name of a data set, or the path of a folder of images.
        side: height and width of the images, in pixels.
        model: "vgg16", "vgg16_bn", "resnet18" or "resnet34".
        weights: the path of a file that `torch.save` wrote of the state of the network, or a name
            of torchvision's weights such as DEFAULT.
        from_scratch: draw all weights at random instead of taking `weights`.
        activation: the name of the activation that takes the place of every ReLU.
        methods: names of methods.
        seeds: how many runs there are for each method.
        epochs: epochs of each run.
        batch_size: images in a batch.
        learning_rate: a learning rate by the name of each method.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"clip_norm": None, "schedule": "one-cycle"}

    dataset: str
    side: Annotated[int, Field(ge=32)] = 224
    model: str = "resnet18"
    weights: str = ""
    from_scratch: bool = False
    activation: str = "relu"
    methods: Annotated[list[str], Field(min_length=1)] = Field(default=["lfp", "sgd", "wsgd"])
    seeds: Whole = 3
    epochs: Whole = 100
    batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: dict[str, float]

    def finals(self) -> list[TransferRun]:
        """Return all runs; raises `ValueError` naming a field that is wrong."""
        pick("model", self.model, HEADS)
        activation = pick("activation", self.activation, ACTIVATIONS)
        if activation.spiking:
            raise ValueError(f"activation: {self.activation!r} has no network in torchvision")
        if bool(self.weights) == self.from_scratch:
            raise ValueError(
                f"weights: {self.weights!r}, from_scratch: {self.from_scratch}; allowed: the path "
                f"of a file or a name that torchvision has for {self.model}, or from_scratch: true"
            )
        runs: list[TransferRun] = []
        methods = chosen("methods", self.methods, METHODS)
        self.settings_by_method(methods)
        for method in methods:
            if refusal(method, activation) or METHODS[method].network is not None:
                raise ValueError(f"methods: {method!r} does not go with {self.activation}")
            rate = pick("learning_rate", method, self.learning_rate)
            settings = self.settings(method, rate)
            runs += [
                TransferRun(
                    kind="final",
                    dataset=self.dataset,
                    model=self.model,
                    method=method,
                    activation=self.activation,
                    seed=seed,
                    epochs=self.epochs,
                    batch_size=self.batch_size,
                    settings=settings,
                    side=self.side,
                    weights=self.weights,
                )
                for seed in range(self.seeds)
            ]
        return runs


def fine_tune(run: TransferRun, device: torch.device, checkpoint: Checkpoint | None) -> Result:
    """Return what a run measures: accuracies before training and after each epoch."""
    data = images_on(run.dataset, run.side, device.type)
    model = network(
        run.model,
        weights=run.weights,
        activation=run.activation,
        classes=data.classes,
        seed=run.seed,
    ).to(device)
    return train(model, run, data, device, checkpoint)


@cache
def images_on(name: str, side: int, device: str) -> Dataset:
    """Return the images on the device; a process loads nothing twice."""
    return images(name, side).to(device)


class Transfer(Experiment[Options]):
    """See the module."""

    schema = Options
    make = staticmethod(fine_tune)

    def runs(self, options: Options) -> int:
        """See :class:`Experiment`."""
        return len(options.finals())

    def check(self, options: Options) -> None:
        """See :class:`Experiment`; fetches data and weights."""
        if options.weights:
            state(options.model, options.weights)
        images(options.dataset, options.side)

    def plan(self, options: Options, results: Results) -> Sequence[Run]:
        """See :class:`Experiment`."""
        return [*options.finals()]

    def sections(self, options: Options, found: Found) -> list[Section]:
        """See :class:`Experiment`."""
        return report(options, [stored.result for stored in found.runs.values()])


def accuracies(result: Result) -> list[float]:
    """Return the test accuracies of a run before training and after each epoch it finished."""
    return [epoch.test for epoch in result.history if epoch.test is not None]


def accuracy_lines(results: Sequence[Result]) -> Lines:
    """Return the accuracies as text, a row for each method."""
    header = ("method", "learning rate", "test accuracy %", "training s", "diverged")
    found = []
    for method, of_method in of_methods(results).items():
        found.append(
            (
                method,
                f"{of_method[0].run.settings.learning_rate:g}",
                spread([100 * accuracies(r)[-1] for r in of_method], 1),
                spread([r.seconds for r in of_method], 1),
                f"{sum(r.diverged for r in of_method)}/{len(of_method)}",
            )
        )
    return header, found


def report(options: Options, results: Sequence[Result]) -> list[Section]:
    """Return the accuracies by epoch, and the differences between methods at the end."""
    if not results:
        return []
    frame = pd.DataFrame(
        {
            "quantity": "test accuracy %",
            "method": result.run.method,
            "seed": result.run.seed,
            "epoch": epoch,
            "value": 100 * accuracy,
        }
        for result in results
        for epoch, accuracy in enumerate(accuracies(result))
    )
    last = frame.groupby(["method", "seed"], sort=False).tail(1)
    origin = f"weights: {options.weights}" if options.weights else "all weights drawn"
    remarks = [
        f"{options.dataset}, {options.side} pixels, {options.model} with {options.activation} "
        f"({origin}): {options.epochs} epochs, batches of {options.batch_size}, "
        f"{options.told('schedule', options.methods)} rates, mean ± sample standard deviation "
        f"over the seeds 0 to {options.seeds - 1}. A diverged run counts with the last accuracy "
        "it reached.",
    ]
    panels = {
        options.dataset: {
            method: Curve.of(
                range(options.epochs + 1), [[100 * a for a in accuracies(r)] for r in runs]
            )
            for method, runs in of_methods(results).items()
        }
    }
    by_epoch = Figure(
        "Test accuracy by epoch." + curves.left_out(panels, curves.highest_end),
        partial(
            curves.png,
            panels,
            curves.highest_end,
            across="epoch",
            up="test accuracy (%)",
            title=f"{options.model}, {origin}: {seeds_of(options.seeds, 'mean and range')}",
        ),
        "png",
        "test-accuracy-by-epoch",
    )
    note = "Tested is the accuracy at the end, for all pairs."
    return [
        Section(
            "Fine-tuning",
            tables=[Table("accuracies", "Test accuracy", accuracy_lines(results), frame, remarks)],
            figures=[by_epoch],
        ),
        *paired.sections(paired.differences(last, PAIRS), digits=1, note=note, unit="points"),
    ]
