"""Every model of torchvision, with random weights, few classes and images as small as it takes.

Classification, segmentation and video models, detectors and optical flow. The quantised twins of
classification models are left out: quantised weights are integers, and are not trained.
"""

import gc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from validation.coverage.check import Net, examine
from validation.coverage.records import Record
from validation.verify import LINEAR

BATCH, CLASSES = 2, 5
EPSILONS = (1e-6,)
THEOREM = "float64, epsilon 0"
#: What is linear on each side of 0 besides the layers of `validation.verify`.
PIECEWISE_LINEAR = (*LINEAR, nn.AdaptiveMaxPool2d, nn.ZeroPad2d, torchvision.ops.FrozenBatchNorm2d)
SIDE = 64
#: Models that need larger images than most, or images of a size that they are told.
SIDES = {
    "inception_v3": 299,  # for its second head, which it has in training
    "maxvit_t": 224,  # windows of 7 after five halvings
}


# --- how a model of each kind is built and run ----------------------------------------------------


def classifier(name: str) -> Net:
    """Return a model of images, which gives logits."""
    side = SIDES.get(name, SIDE)
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        side = options["image_size"] = 56 if name.endswith("_14") else SIDE
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # as is the default, which warns
    return _net(name, lambda inputs: inputs, (BATCH, 3, side, side), **options)


def segmentation(name: str) -> Net:
    """Return a model that gives logits for every pixel."""
    return _net(name, lambda inputs: inputs, (BATCH, 3, SIDE, SIDE), weights_backbone=None)


def video(name: str) -> Net:
    """Return a model of frames, which gives logits."""
    frames, side = 8, SIDE
    if name.startswith("mvit") or name == "s3d":
        frames, side = 16, 224  # as it is told, and as its pooling needs
    return _net(name, lambda inputs: inputs, (BATCH, 3, frames, side, side))


def flow(name: str) -> Net:
    """Return a model that moves one image to another, step by step; the last step is used."""
    net = _net(name, lambda inputs: inputs, (BATCH, 3, 128, 128), classes=None)
    images = torch.randn(2, BATCH, 3, 128, 128)
    return replace(net, call=lambda model: model(*images, num_flow_updates=2)[-1])


def detector(name: str) -> Net:
    """Return a detector: in training it gives losses, else boxes with scores."""
    options: dict[str, Any] = {"weights_backbone": None}
    if not name.startswith("ssd"):
        options |= {"min_size": 2 * SIDE, "max_size": 2 * SIDE}
    if "rcnn" in name:
        options |= {"box_score_thresh": 0.0, "rpn_pre_nms_top_n_test": 20}
    else:
        options |= {"score_thresh": 0.0}
    if name.startswith("keypoint"):
        options |= {"num_keypoints": 3}
    net = _net(name, list, (BATCH, 3, 2 * SIDE, 2 * SIDE), **options)
    images = list(torch.rand(BATCH, 3, 2 * SIDE, 2 * SIDE))
    targets = [_target() for _ in images]

    def call(model: nn.Module) -> Any:
        if model.training:
            return torch.stack(list(model(images, targets).values())).sum()
        return [found["scores"] for found in model(images)]

    return replace(net, call=call)


def _target() -> dict[str, Tensor]:
    """Return what is to be seen in an image: one thing, with its mask and three points of it."""
    mask = torch.zeros(1, 2 * SIDE, 2 * SIDE, dtype=torch.uint8)
    mask[:, 20:80, 10:70] = 1
    return {
        "boxes": torch.tensor([[10.0, 20.0, 70.0, 80.0]]),
        "labels": torch.tensor([1]),
        "masks": mask,
        "keypoints": torch.tensor([[[20.0, 30.0, 1.0], [40.0, 50.0, 1.0], [60.0, 70.0, 1.0]]]),
    }


def _net(
    name: str,
    change: Callable[[Tensor], Any],
    shape: tuple[int, ...],
    classes: int | None = CLASSES,
    **options: Any,
) -> Net:
    if classes is not None:
        options["num_classes"] = classes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, weights=None, **options)
    inputs = torch.randn(shape)

    def call(model: nn.Module) -> Any:
        return model(change(inputs.to(next(model.parameters()).dtype)))

    return Net(model, call)


@dataclass(frozen=True)
class Kind:
    """Models for one task.

    Attributes:
        module: where torchvision keeps them.
        build: makes one by its name.
    """

    module: ModuleType
    build: Callable[[str], Net]

    def names(self) -> list[str]:
        """Return the names of all of them."""
        return list(torchvision.models.list_models(module=self.module))


KINDS = {
    "torchvision classification": Kind(torchvision.models, classifier),
    "torchvision segmentation": Kind(torchvision.models.segmentation, segmentation),
    "torchvision video": Kind(torchvision.models.video, video),
    "torchvision detection": Kind(torchvision.models.detection, detector),
    "torchvision optical flow": Kind(torchvision.models.optical_flow, flow),
}

# --- all of them ----------------------------------------------------------------------------------


def names() -> list[str]:
    """Return the names of all models of all kinds."""
    return [name for kind in KINDS.values() for name in kind.names()]


def examine_model(name: str) -> list[Record]:
    """Examine one model in both modes, and by Theorem 1 if it has ReLU alone."""
    group = next(group for group, kind in KINDS.items() if name in kind.names())
    return examine_net(group, name, partial(KINDS[group].build, name))


def examine_net(
    group: str, name: str, build: Callable[[], Net], *, theorem: bool = True
) -> list[Record]:
    """Build a net once, and examine it in both modes, and by Theorem 1 if that applies.

    Args:
        group: of the records.
        name: of the records.
        build: makes the net.
        theorem: whether the model's modules tell if Theorem 1 applies. They do not where a model
            calls functions that are not linear, such as softmax for a gate.

    Returns:
        The records of both modes, and of Theorem 1 if that applies.
    """
    made: list[Net] = []

    def built() -> Net:
        if not made:
            made.append(build())
        return made[0]

    def doubled() -> Net:
        return replace(built(), model=built().model.double(), theorem=True)

    modes = (True, False)
    found = [examine(group, name, built, training=mode, epsilons=EPSILONS) for mode in modes]
    checked = theorem and made and found[0].verdict != "not counted"
    if checked and is_piecewise_linear(made[0].model):
        found += [
            examine(group, name, doubled, training=mode, epsilons=(0.0,), variant=THEOREM)
            for mode in modes
        ]
    made.clear()
    gc.collect()  # the next model may need the memory
    return found


def is_piecewise_linear(model: nn.Module) -> bool:
    """Return whether every layer is linear on each side of 0, as far as its modules tell."""
    leaves = [module for module in model.modules() if not list(module.children())]
    return all(isinstance(leaf, PIECEWISE_LINEAR) for leaf in leaves)
