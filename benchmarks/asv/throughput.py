"""How much the other methods and spiking LFP get done in a second."""

from dataclasses import replace

import torch
from torch import Tensor

from baselines import METHODS

from .common import (
    DEVICES,
    PROFILE,
    SETTINGS,
    Step,
    applicable,
    batch,
    device_of,
    network,
    seconds_of,
    shape_of,
)
from .spiking import SAMPLES, spiking_step

SWARM_SAMPLES = 64
IMAGES = 20  # of a round of R-STDP


class Swarm:
    """Particle swarms on the MLP."""

    param_names = ("device", "particles")
    params = (DEVICES, PROFILE.particles)

    def setup(self, device: str, particles: int) -> None:
        """Make a swarm."""
        self.device = device_of(device)
        with applicable():
            method = METHODS["pso-torch-stable"]
            recipe = replace(method.recipe, particles=particles)  # type: ignore[attr-defined]
            model = network("mlp").to(self.device)
            trainer = method(model, SETTINGS, recipe)  # type: ignore[call-arg]
        data = batch(SWARM_SAMPLES, shape_of("mlp"), self.device)
        self.step: Step = lambda: trainer.step(*data)

    def track_evaluations(self, device: str, particles: int) -> float:
        """Return how many particles are evaluated on a sample, and moved, in a second."""
        return particles * SWARM_SAMPLES / seconds_of(self.step, self.device)

    track_evaluations.unit = "particles x samples / s"  # type: ignore[attr-defined]


class RSTDP:
    """The first layer of R-STDP's network, which learns online, on handwritten digits."""

    param_names = ("method",)
    params = (("rstdp", "rstdp-batched"),)

    def setup(self, method: str) -> None:
        """Make a network, and images of the size it is meant for."""
        self.device = device_of("cpu")
        with applicable():
            own = METHODS[method].network
            assert own is not None
            trainer = METHODS[method](own((1, 28, 28), 10, 0), replace(SETTINGS, learning_rate=1.0))
        images, targets = digits()
        self.seen = 0

        def step() -> None:
            rows = torch.arange(self.seen, self.seen + IMAGES) % len(images)
            self.seen += IMAGES
            trainer.step(images[rows], targets[rows])

        self.step = step

    def track_images(self, method: str) -> float:
        """Return how many images are learned from in a second."""
        return IMAGES / seconds_of(self.step, self.device)

    track_images.unit = "images / s"  # type: ignore[attr-defined]


def digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits (1797, 1, 28, 28) in [-1, 1], enlarged, and their classes."""
    from sklearn.datasets import load_digits  # noqa: PLC0415

    data = load_digits()
    images = torch.as_tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    large = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear")
    return large, torch.as_tensor(data.target)


class Spiking:
    """A network of leaky integrate-and-fire neurons, trained by LFP."""

    param_names = ("device", "T")
    params = (DEVICES, PROFILE.time_steps)

    def setup(self, device: str, steps: int) -> None:
        """Make a step."""
        self.device = device_of(device)
        self.step = spiking_step("lfp", steps, self.device)

    def track_samples(self, device: str, steps: int) -> float:
        """Return how many samples are learned from in a second."""
        return SAMPLES / seconds_of(self.step, self.device)

    track_samples.unit = "samples / s"  # type: ignore[attr-defined]
