"""Reward-modulated STDP: features learn by STDP, and decisions by rewards and punishments."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import tee
from operator import itemgetter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.activation import Activation
from baselines.rstdp.competition import Competition
from baselines.rstdp.network import (
    CHUNK,
    Bits,
    DenseRSTDPNetwork,
    RSTDPNetwork,
    TunedRSTDPNetwork,
    rounded,
)
from baselines.rstdp.options import (
    DecisionSettings,
    DenseRSTDPSettings,
    RSTDPSettings,
    TunedRSTDPSettings,
)
from baselines.rstdp.recipe import resolution
from baselines.trainer import BasicSettings, Step, Trainer


@dataclass
class AdaptiveRates:
    """How much a reward and a punishment count, which follows the share of errors.

    After every window of images, rewards are scaled by the share of wrong decisions in it and
    punishments by that of right ones; before, they count fully. This keeps the neurons from fitting
    images that they know, and those in doubt from being punished for everything
    (Mozafari et al. 2018, arXiv:1705.09132). Images without any feature are neither right nor
    wrong.

    Attributes:
        reward, punishment: the present factors in [0, 1].
        seen, right, wrong: images and decisions since the window began.
    """

    reward: float = 1.0
    punishment: float = 1.0
    seen: int = 0
    right: int = 0
    wrong: int = 0

    def count(self, seen: int, right: int, wrong: int, window: int) -> None:
        """Count images and decisions; begin a new window if the present one is full."""
        self.seen, self.right, self.wrong = self.seen + seen, self.right + right, self.wrong + wrong
        if self.seen >= window:
            self.reward, self.punishment = self.wrong / self.seen, self.right / self.seen
            self.seen = self.right = self.wrong = 0


class RSTDP(Trainer):
    """R-STDP online, as published: every image changes the weights before the next one is seen.

    The first images that are given train the first layer of features, the next ones the second, and
    so on; all that are left train the decision layer (:class:`FeatureLayer` says how many). A batch
    is only a number of images in a row.

    Of a :class:`~baselines.trainer.Step`, the loss is the share of the batch's images that were not
    decided rightly before their update: 1 while features are learned, as nothing is decided then.
    The feedback norm is the 2-norm of the change of all weights in the step.

    The options (:class:`~baselines.rstdp.options.RSTDPSettings`) come before the recipe of the
    network; settings without them leave it. Those that say what the network is have to be those
    that it was made with. The learning rate multiplies the rates of the decision layer: 1 is
    canonical. Rates that fade need `total_steps`, without which they stay.

    Raises:
        ValueError: the model is not the method's network, or was made with other options.
    """

    Options: ClassVar[type[BasicSettings]] = RSTDPSettings
    name: ClassVar[str] = "rstdp"
    label: ClassVar[str] = "R-STDP"
    #: What tells the method from the others of its kind, briefly.
    kind: ClassVar[str] = "own network"
    numpy: ClassVar[bool] = True
    #: There is nothing to choose: the rates are the recipe's.
    learning_rate: ClassVar[float | None] = 1.0
    #: Images that the decision layer learns from at a time; None takes all of a batch.
    together: ClassVar[int | None] = 1
    #: Builds the network from (input_shape, classes, seed) and, as `settings`, the options.
    network: ClassVar[type[RSTDPNetwork]] = RSTDPNetwork

    @classmethod
    def supports(cls, activation: Activation) -> str | None:
        """Refuse what does not spike, as the neurons of the method's own network do."""
        return None if activation.spiking else "its neurons spike: see lif"

    @classmethod
    def remark(cls, activation: Activation) -> str:
        """Say that the network is the method's own."""
        return cls.kind

    def __init__(self, model: nn.Module, settings: BasicSettings) -> None:
        """Begin with the first layer."""
        if not isinstance(model, RSTDPNetwork) or type(model) is not self.network:
            raise ValueError(
                f"model: {self.name} trains a {self.network.__name__}, not {type(model).__name__}"
            )
        self.model = model
        recipe = model.recipe
        if isinstance(settings, DecisionSettings):
            if settings.built(recipe) != recipe:
                raise ValueError(
                    f"model: the network was made with other options than {self.name} is given"
                )
            recipe = settings.applied(recipe)
        self.recipe = recipe
        self.rate = settings.learning_rate
        self.total_steps = settings.total_steps if recipe.fading else None
        self.steps = self.images = 0
        self.rates = AdaptiveRates()
        self.competitions = [
            Competition(layer, shape)
            for layer, shape in zip(recipe.layers, model.shapes, strict=False)
        ]

    @torch.no_grad()
    def step(self, inputs: Tensor, targets: Tensor) -> Step:
        """Learn from images (N, 1, height, width) in their order; see :class:`RSTDP`.

        Returns:
            The loss, which of no images is not a number, as with gradient descent; and the norm.
        """
        change, right, total = _Change(), 0, len(inputs)
        while len(inputs) > 0:
            depth, seen, left = self._phase()
            images = inputs[:left]
            if depth < len(self.competitions):
                self._learn_features(depth, seen, images, change)
            else:
                right += self._learn_decisions(images, targets[:left].tolist(), change)
            self.images += len(images)
            inputs, targets = inputs[len(images) :], targets[len(images) :]
        self.steps += 1
        loss = 1 - right / total if total else math.nan
        return Step(torch.tensor(loss), change.norm())

    def state_dict(self) -> dict[str, int | float]:
        """Return what the next steps depend on besides the network."""
        return {"steps": self.steps, "images": self.images, **asdict(self.rates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, with a network that was saved with it."""
        state = dict(state)
        self.steps, self.images = state.pop("steps"), state.pop("images")
        self.rates = AdaptiveRates(**state)

    def _rate(self) -> float:
        """Return what the rates of the decision layer are multiplied by in this step."""
        if self.total_steps is None:
            return self.rate
        return self.rate * max(1 - self.steps / self.total_steps, 0)

    def _phase(self) -> tuple[int, int, int | None]:
        """Return which layer learns, from how many images it has, and has still to come.

        The decision layer comes after the last layer of features and learns from all images left.
        """
        seen, layers = self.images, self.recipe.layers
        for depth, layer in enumerate(layers):
            if seen < layer.images:
                return depth, seen, layer.images - seen
            seen -= layer.images
        return len(layers), seen, None

    def _learn_features(self, depth: int, seen: int, images: Tensor, change: "_Change") -> None:
        """Change a layer by STDP, image by image; ``seen`` others came before."""
        competition, weights = self.competitions[depth], self.model.synapses[depth].flatten(1)
        step = resolution(weights.shape[1])
        for image, frames in enumerate(self._frames(images, depth), start=seen):
            winners = competition.winners(frames, weights)
            if not winners:
                continue
            rates = weights.new_tensor(self.recipe.stdp_rates(image))
            spiked = torch.stack([winner.spiked for winner in winners])
            a = torch.where(spiked, rates[0], rates[1])
            maps = [winner.map for winner in winners]
            before = weights[maps]
            after = rounded(before + a * before * (1 - before), step).clamp_(0, 1)
            weights[maps] = after
            for row in zip(maps, before, after, strict=True):
                change.record(depth, *row)

    def _frames(self, images: Tensor, depth: int) -> Iterator[Iterator[Tensor]]:
        """Yield for each image what has spiked so far in the input of a layer, through time.

        The layers below are frozen, and see a chunk of images at once; but only as many time steps
        as the image needs that needs most of them.
        """
        for chunk in images.split(CHUNK):
            frames = self.model.frames(self.model.encode(chunk), depth)
            for image in range(len(chunk)):
                frames, own = tee(frames)
                yield map(itemgetter(image), own)

    def _learn_decisions(self, images: Tensor, targets: list[int], change: "_Change") -> int:
        """Change the decision layer by R-STDP; return how many images were decided rightly."""
        features = self.model.features(images)
        size = len(images) if self.together is None else self.together
        groups = (slice(start, start + size) for start in range(0, len(images), size))
        return sum(self._reinforce(features[g], targets[g], change) for g in groups)

    def _reinforce(self, features: Bits, targets: list[int], change: "_Change") -> int:
        """Learn from decisions about features (N, features) that the same weights make."""
        model, recipe, rates = self.model, self.recipe, self.rates
        updates: dict[int, Tensor] = {}
        right = wrong = 0
        for winner, target in zip(map(model.decide, features), targets, strict=True):
            if winner is None:
                continue
            rewarded = winner.map // recipe.neurons_per_class == target
            right, wrong = right + rewarded, wrong + (not rewarded)
            pair, factor = (
                (recipe.reward, rates.reward) if rewarded else (recipe.punishment, rates.punishment)
            )
            a = model.decisions.new_tensor(pair) * (factor * self._rate())
            update = torch.where(winner.spiked, a[0], a[1])
            updates[winner.map] = updates.get(winner.map, 0) + update
        for neuron, update in updates.items():
            before = model.decisions[:, neuron].clone()
            after = (before + update).clamp_(*recipe.bounds)
            model.decisions[:, neuron] = after
            change.record(len(self.competitions), neuron, before, after)
        rates.count(len(features), right, wrong, recipe.window)
        return right


class BatchedRSTDP(RSTDP):
    """An approximation of R-STDP: the decision layer takes the images of a batch together.

    All decisions about a batch are made by the same weights, with the same rates; the changes are
    summed up and applied, and the weights are clipped once. Features are learned online. With one
    image to a batch this is :class:`RSTDP`.
    """

    name: ClassVar[str] = "rstdp-batched"
    label: ClassVar[str] = "R-STDP, batched"
    kind: ClassVar[str] = "approximation; own network"
    batch_size: ClassVar[int | None] = 32
    together: ClassVar[int | None] = None


class TunedRSTDP(RSTDP):
    """Online R-STDP with :data:`TUNED`; its rates start at five times the published ones."""

    Options: ClassVar[type[BasicSettings]] = TunedRSTDPSettings
    name: ClassVar[str] = "rstdp-tuned"
    label: ClassVar[str] = "R-STDP, tuned"
    kind: ClassVar[str] = "tuned; own network"
    learning_rate: ClassVar[float | None] = 5.0
    network: ClassVar[type[RSTDPNetwork]] = TunedRSTDPNetwork


class DenseRSTDP(RSTDP):
    """Online R-STDP of a dense decision layer on the encoded spikes, without any features."""

    Options: ClassVar[type[BasicSettings]] = DenseRSTDPSettings
    name: ClassVar[str] = "rstdp-dense"
    label: ClassVar[str] = "R-STDP, dense"
    kind: ClassVar[str] = "readout alone"
    network: ClassVar[type[RSTDPNetwork]] = DenseRSTDPNetwork


class _Change:
    """Which neurons changed in a step, and how far."""

    def __init__(self) -> None:
        self.before: dict[tuple[int, int], Tensor] = {}
        self.after: dict[tuple[int, int], Tensor] = {}

    def record(self, depth: int, neuron: int, before: Tensor, after: Tensor) -> None:
        """Take down the weights (inputs,) of a neuron (or map) of a layer."""
        self.before.setdefault((depth, neuron), before)
        self.after[depth, neuron] = after

    def norm(self) -> Tensor:
        """Return the 2-norm of the change of all weights (scalar)."""
        moves = [self.after[key] - before for key, before in self.before.items()]
        return torch.cat([torch.zeros(1), *moves]).norm()
