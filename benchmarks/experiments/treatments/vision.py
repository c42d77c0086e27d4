"""The feedback of networks with gates before they are trained."""

import torch
from torch import nn
from torchvision.models import MaxVit, get_model

from benchmarks.experiments.treatments.arms import CPU, GATES
from benchmarks.experiments.treatments.feedback import compared, descended
from benchmarks.storage.provenance import describe
from benchmarks.storage.records import Record


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


#: torchvision's networks with squeeze and excitation, and the side of their images.
VISION = (("efficientnet_b0", 64), ("regnet_y_400mf", 64), ("maxvit_t", 64))
