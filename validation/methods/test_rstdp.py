"""R-STDP: fast = the definition, weight for weight; who wins; rates; memory; resuming."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from baselines import METHODS
from baselines.rstdp import (
    CANONICAL,
    DENSE,
    RSTDP,
    AdaptiveRates,
    BatchedRSTDP,
    Competition,
    DenseRSTDP,
    DenseRSTDPNetwork,
    FeatureLayer,
    Recipe,
    RSTDPNetwork,
    RSTDPSettings,
    Winner,
    resolution,
)
from baselines.spike_encoding import Encoding, RankOrderEncoder, rank_order
from baselines.trainer import Settings
from benchmarks.data import load
from validation import rstdp_oracle
from validation.rstdp_oracle import Oracle, Rules
from validation.selection import crossed, example_of

pytestmark = pytest.mark.slow

SETTINGS = Settings(learning_rate=1.0)
CLASSES = 3
#: Two layers of features and a decision, each for 100 of 300 images; rates change often.
SMALL = Recipe(
    encoding=Encoding(windows=(3, 5), radius=2, bins=6),
    layers=(
        FeatureLayer(4, 3, 12.0, pooling=2, winners=2, radius=1, images=100),
        FeatureLayer(6, 3, 12.0, pooling=2, winners=3, radius=0, images=100),
    ),
    kernel=3,
    cutoff=6,
    neurons_per_class=2,
    doubling=20,
    window=20,
)
#: The options that say that the network is that one.
OF_SMALL: dict[str, Any] = {
    "contrast_windows": (3, 5), "contrast_radius": 2, "time_bins": 6, "decision_kernel": 3,
    "cutoff": 6, "neurons_per_class": 2, "feature_maps": (4, 6), "feature_kernels": (3, 3),
    "feature_thresholds": (12, 12), "feature_pooling": (2, 2), "feature_winners": (2, 3),
    "feature_radius": (1, 0), "feature_images": (100, 100),
}  # fmt: skip
SHORT = replace(SMALL, layers=tuple(replace(layer, images=20) for layer in SMALL.layers))


def network(recipe: Recipe = SMALL, seed: int = 0) -> RSTDPNetwork:
    return RSTDPNetwork((1, 8, 8), CLASSES, seed, recipe)


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Return images (count, 1, 8, 8) of the digits 0, 1 and 2, and their classes."""
    train = load("digits").train
    few = train.targets < CLASSES
    return train.inputs[few][:count], train.targets[few][:count]


Weights = dict[str, Tensor]


def weights_of(model: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def different(these: Weights, those: Weights) -> set[str]:
    """Return the names of the weights that are not the same bits."""
    return {name for name, weights in these.items() if not weights.equal(those[name])}


def train(trainer: RSTDP, images: Tensor, targets: Tensor, batch: int = 7) -> Weights:
    """Train in batches, the last of which may be smaller; return the weights."""
    for x, y in zip(images.split(batch), targets.split(batch), strict=True):
        trainer.step(x, y)
    return weights_of(trainer.model)


@contextmanager
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


# --- training = the definition --------------------------------------------------------------------


def disagreements(recipe: Recipe, count: int, rules: Rules | None, rate: float = 1.0) -> set[str]:
    """Return which weights differ from the oracle's after training with so many images."""
    model = network(recipe)
    oracle = Oracle(model, rate, rules)
    images, targets = digits(count)
    found = train(RSTDP(model, Settings(rate)), images, targets)
    for image, target in zip(images[:, 0].numpy(), targets.tolist(), strict=True):
        oracle.learn(image, target)
    expected = {f"synapses.{i}": torch.from_numpy(w) for i, w in enumerate(oracle.synapses)}
    return different(found, {**expected, "decisions": torch.from_numpy(oracle.decisions)})


def test_300_images_change_every_weight_as_defined() -> None:
    assert disagreements(SMALL, 300, None) == set()


def test_all_layers_learn_from_300_images() -> None:
    model = network()
    before = weights_of(model)
    after = train(RSTDP(model, SETTINGS), *digits(300))
    for name, was in before.items():
        assert (was != after[name]).float().mean() > 0.3, name


@pytest.mark.parametrize("rate", [0.5, 3.0])
def test_the_learning_rate_is_a_factor_of_the_decision_layers_rates(rate: float) -> None:
    assert disagreements(SHORT, 100, None, rate) == set()


@pytest.mark.parametrize(
    "recipe",
    [
        replace(SHORT, cutoff=3),
        replace(SHORT, kernel=None),
        replace(SHORT, layers=SHORT.layers[:1], kernel=1),
        replace(SHORT, layers=(), kernel=None, cutoff=3),
    ],
    ids=["cut off", "dense decision", "one layer", "dense"],
)
def test_other_networks_learn_as_defined(recipe: Recipe) -> None:
    assert disagreements(recipe, 100, None) == set()


@pytest.mark.parametrize(
    ("wrong", "layers"),
    [
        (Rules(inclusive=False), ("synapses.0", "synapses.1")),
        (Rules(radius=1), ("synapses.0", "synapses.1")),
        (Rules(radius=-1), ("synapses.0",)),  # a radius of 0 silences but the place of the winner
        (Rules(pointwise=False), ("synapses.1",)),
        (Rules(own_map=False), ("synapses.0",)),
        (Rules(stabilised=False), ("synapses.0", "synapses.1")),
        (Rules(swapped=True), ("decisions",)),
        (Rules(adaptive=False), ("decisions",)),
    ],
    ids=str,
)
def test_a_wrong_rule_gives_other_weights(wrong: Rules, layers: tuple[str, ...]) -> None:
    assert set(layers) <= disagreements(SHORT, 75, wrong)


# --- encoding -------------------------------------------------------------------------------------


def cross(height: int, width: int) -> Tensor:
    """Return an image (1, 1, height, width) of a grey cross: by symmetry, many contrasts tie."""
    image = -torch.ones(1, 1, height, width)
    image[..., height // 2, 2:-2] = 0.7
    image[..., 2:-2, width // 2] = 0.7
    return image


PICTURES = {
    "digit": (digits(1)[0], Encoding()),
    "small filters": (digits(2)[0][1:], SMALL.encoding),
    "cross": (cross(9, 9), Encoding()),
    "not square": (cross(7, 12), SMALL.encoding),
    "black": (-torch.ones(1, 1, 6, 6), Encoding()),
    "white": (torch.ones(1, 1, 6, 6), Encoding()),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_encoder_is_the_oracles(name: str) -> None:
    image, encoding = PICTURES[name]
    found = RankOrderEncoder(encoding, *image.shape[2:])(image)
    assert np.array_equal(found[0].numpy(), rstdp_oracle.encode(image[0, 0].numpy(), encoding))


@pytest.mark.parametrize(
    "change", [{"windows": (3, 7)}, {"threshold": 100.0}, {"radius": 1}, {"bins": 5}], ids=str
)
def test_another_encoding_gives_other_times(change: dict[str, Any]) -> None:
    image, _ = digits(1)
    found = RankOrderEncoder(replace(SMALL.encoding, **change), 8, 8)(image)
    expected = rstdp_oracle.encode(image[0, 0].numpy(), SMALL.encoding)
    assert not np.array_equal(found[0].numpy(), expected)


def test_encoding_does_not_depend_on_the_batch() -> None:
    images, _ = digits(200)
    encoder = RankOrderEncoder(SMALL.encoding, 8, 8)
    together = encoder(images)
    assert together.equal(torch.cat([encoder(image[None]) for image in images]))
    assert len(together.flatten(1).unique(dim=0)) > 190


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 2.5, 7.0]), min_size=1, max_size=40),
    st.integers(1, 9),
)
def test_ranks_fill_the_time_bins_evenly(contrasts: list[float], bins: int) -> None:
    times = rank_order(torch.tensor([contrasts], dtype=torch.float64), bins)[0].tolist()
    for (a, s), (b, t) in combinations(zip(contrasts, times, strict=True), 2):
        assert s <= t if a >= b else s >= t  # in the order of contrast, and then of place
    assert [t == bins for t in times] == [c == 0 for c in contrasts]
    sizes = [times.count(t) for t in range(bins)]
    assert max(sizes) - min(sizes) <= 1


# --- competition ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contest:
    """Spike times of the inputs, weights, and the layer whose neurons compete."""

    times: Tensor
    weights: Tensor
    layer: FeatureLayer
    bins: int

    def found(self) -> list[Winner]:
        """Return the winners."""
        competition = Competition(self.layer, tuple(self.times.shape))  # type: ignore[arg-type]
        frames = ((self.times <= t).float() for t in range(self.bins))
        return competition.winners(frames, self.weights.flatten(1))

    def fired(self) -> dict[rstdp_oracle.Neuron, tuple[int, float]]:
        """Return when neurons would fire without inhibition, and their potentials."""
        arrays = self.times.numpy(), self.weights.numpy()
        return rstdp_oracle.fire(*arrays, self.layer.threshold, self.bins)

    def agrees(self, rules: Rules) -> bool:
        """Return whether the winners are those of an oracle."""
        width = self.times.shape[2]
        expected = [
            (f, y * width + x, time)
            for (f, y, x), time in rstdp_oracle.compete(self.fired(), self.layer, rules)
        ]
        return [winner[:3] for winner in self.found()] == expected


@st.composite
def contests(draw: st.DrawFn) -> Contest:
    """Draw a contest; weights have few values, so that there are ties."""
    channels, height, width = (draw(st.integers(1, n)) for n in (2, 5, 4))
    maps, kernel, bins = draw(st.integers(1, 4)), draw(st.sampled_from([1, 3])), 4
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    weights = torch.randint(0, 5, (maps, channels, kernel, kernel), generator=random) / 4
    layer = FeatureLayer(
        maps,
        kernel,
        draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
        pooling=1,
        winners=draw(st.integers(1, 4)),
        radius=draw(st.integers(0, 2)),
        images=1,
    )
    times = torch.randint(0, bins + 1, (channels, height, width), generator=random)
    return Contest(times.to(torch.uint8), weights, layer, bins)


@given(contests())
def test_the_winners_are_the_oracles(contest: Contest) -> None:
    assert contest.agrees(Rules())


@pytest.mark.parametrize(
    "wrong", [Rules(radius=1), Rules(radius=-1), Rules(pointwise=False), Rules(own_map=False)]
)
def test_a_wrong_competition_has_other_winners(wrong: Rules) -> None:
    example_of(contests(), lambda contest: not contest.agrees(wrong))


def broken_laws(contest: Contest, winners: list[Winner], radius: int) -> set[str]:
    """Return what is wrong with the winners, for a radius of inhibition."""
    width, fired, broken = contest.times.shape[2], contest.fired(), set()
    places = [divmod(winner.place, width) for winner in winners]
    if len(winners) > contest.layer.winners:
        broken.add("too many")
    if len({winner.map for winner in winners}) < len(winners):
        broken.add("a map twice")
    if any(max(abs(a - c), abs(b - d)) <= radius for (a, b), (c, d) in combinations(places, 2)):
        broken.add("too close")
    if [winner.time for winner in winners] != sorted(winner.time for winner in winners):
        broken.add("not in order")
    for winner, (y, x) in zip(winners, places, strict=True):
        time, potential = fired[winner.map, y, x]
        here = [spike for neuron, spike in fired.items() if neuron[1:] == (y, x)]
        if time != winner.time or (time, -potential) > min((t, -p) for t, p in here):
            broken.add("not the first at its place")
    if bool(fired) != bool(winners):
        broken.add("nobody")
    return broken


@given(contests())
def test_winners_obey_the_laws_of_inhibition(contest: Contest) -> None:
    assert not broken_laws(contest, contest.found(), contest.layer.radius)


def test_the_laws_can_be_broken() -> None:
    def breaks(contest: Contest, law: str) -> bool:
        winners = contest.found()
        late = [winner._replace(time=winner.time + 1) for winner in winners]
        return (
            law in broken_laws(contest, winners, contest.layer.radius + 1)
            or law in broken_laws(contest, winners[::-1], contest.layer.radius)
            or law in broken_laws(contest, late, contest.layer.radius)
            or law in broken_laws(contest, winners + winners, contest.layer.radius)
            or law in broken_laws(contest, [], contest.layer.radius)
        )

    laws = "too many", "a map twice", "too close", "not in order", "nobody"
    for law in (*laws, "not the first at its place"):
        example_of(contests(), lambda contest, law=law: breaks(contest, law))  # type: ignore[misc]


@given(contests())
def test_winners_know_what_made_them_fire(contest: Contest) -> None:
    for winner in contest.found():
        potential = float(contest.weights[winner.map].flatten()[winner.spiked].sum())
        y, x = divmod(winner.place, contest.times.shape[2])
        assert contest.fired()[winner.map, y, x] == (winner.time, potential)


# --- decisions without time -----------------------------------------------------------------------


@pytest.mark.parametrize("cutoff", [5, 6])
def test_features_and_decisions_need_no_time(cutoff: int) -> None:
    model = network(replace(SMALL, cutoff=cutoff))
    train(RSTDP(model, SETTINGS), *digits(230))
    oracle, (images, _) = Oracle(model), digits(260)
    features = model.features(images[230:])
    for spiked, image in zip(features, images[230:, 0].numpy(), strict=True):
        times = oracle.times(image)[-1]
        assert np.array_equal(spiked.reshape(times.shape), times < cutoff)
        decision, expected = model.decide(spiked), oracle.decide(times)
        if decision is None or expected is None:
            assert decision is None
            assert expected is None
            continue
        potential, neuron, (_, y, x) = expected
        assert (decision.map, decision.place) == (neuron, 2 * y + x)
        found = model(torch.from_numpy(image)[None, None])[0]
        assert found.argmax() == neuron // SMALL.neurons_per_class
        assert found.max() == pytest.approx(potential, rel=1e-6)
    assert features.any()
    assert not features.all()


def test_features_of_another_time_are_others() -> None:
    model = network()
    images, _ = digits(50)
    frames = list(model.frames(model.encode(images), depth=2))
    assert [
        np.array_equal(frame.flatten(1).bool().numpy(), model.features(images)) for frame in frames
    ] == [False] * 5 + [True]


def test_the_canonical_network_has_the_published_sizes() -> None:
    model = RSTDPNetwork((1, 28, 28), 10, seed=0)
    assert sum(p.numel() for p in model.parameters()) == 1_322_000
    assert model.shapes == [(6, 28, 28), (30, 14, 14), (250, 4, 4)]
    assert model(cross(28, 28)).shape == (1, 10)
    images = cross(28, 28).expand(2, -1, -1, -1)
    *_, last = model.frames(model.encode(images), depth=2)
    assert np.array_equal(last.flatten(1).bool().numpy(), model.features(images))
    dense = DenseRSTDPNetwork((1, 28, 28), 10, seed=0)
    assert dense.decisions.shape == (4704, 200)


@given(st.integers(0, 2**32 - 1))
def test_rounding_does_not_decide(seed: int) -> None:
    model = network()
    random = torch.Generator().manual_seed(seed)
    features = (torch.rand(24, generator=random) < 0.5).numpy()
    # Two neurons whose exact potentials are the same, or differ by the last digit of a weight.
    model.decisions[:, 3] = model.decisions[:, 1].flip(0)
    exact = model.decide(features)
    assert exact is not None
    potentials = model.potentials(features)
    noise = 1 + 2.0**-23 * (2 * torch.rand(potentials.shape, generator=random) - 1)
    decision = model.first_of_largest(potentials * noise, features)
    assert decision is not None
    assert decision[:3] == exact[:3]


def test_more_than_rounding_does_decide() -> None:
    model, features = network(), np.ones(24, dtype=np.bool_)
    potentials = model.potentials(features)
    place, neuron = divmod(int(potentials.argmax()), potentials.shape[1])
    smaller = potentials.clone()
    smaller[place, neuron] *= 0.9
    decision = model.decide(features), model.first_of_largest(smaller, features)
    assert decision[0] is not None
    assert decision[1] is not None
    assert decision[0][:3] != decision[1][:3]


def test_without_spikes_nothing_is_decided_or_learned() -> None:
    recipe = replace(SMALL, layers=())
    model, black = network(recipe), -torch.ones(3, 1, 8, 8)
    before, trainer = weights_of(model), RSTDP(model, SETTINGS)
    step = trainer.step(black, torch.zeros(3, dtype=torch.long))
    assert model.decide(model.features(black)[0]) is None
    assert not different(weights_of(model), before)
    assert (float(step.loss), float(step.feedback_norm)) == (1.0, 0.0)
    assert trainer.rates == AdaptiveRates(seen=3)


@pytest.mark.parametrize("cutoff", [3, 6])
def test_spikes_are_counted_as_the_oracle_does(cutoff: int) -> None:
    model = network(replace(SMALL, cutoff=cutoff))
    images, targets = digits(240)
    train(RSTDP(model, SETTINGS), images[:200], targets[:200])
    some = torch.cat([images[200:210], -torch.ones(1, 1, 8, 8)])
    expected = [Oracle(model).spike_count(image) for image in some[:, 0].numpy()]
    assert model.spike_count(some).tolist() == expected
    assert expected[-1] == 0
    assert len(set(expected)) > 5


# --- weights and rates ----------------------------------------------------------------------------


def test_weights_stay_within_their_bounds_and_on_their_grid() -> None:
    model = network(replace(SMALL, rate=0.15))
    trainer = RSTDP(model, Settings(learning_rate=20.0))
    for _ in range(3):
        weights = train(trainer, *digits(300))
    decisions = weights.pop("decisions")
    assert ((decisions >= 0.2) & (decisions <= 0.8)).all()
    assert (decisions == torch.tensor(0.2)).any()
    assert (decisions == torch.tensor(0.8)).any()
    for synapses in weights.values():
        assert ((synapses >= 0) & (synapses <= 1)).all()
        steps = synapses / resolution(synapses[0].numel())
        assert steps.equal(steps.round())


@given(st.lists(st.integers(0, 2**16), min_size=1, max_size=300), st.randoms())
def test_sums_of_multiples_of_the_resolution_are_exact(steps: list[int], random: Any) -> None:
    step = resolution(max(len(steps), 256))
    weights = [min(n * step, 1.0) for n in steps]
    exact = sum(weights)  # float64 has digits to spare
    random.shuffle(weights)
    total = np.float32(0)
    for weight in weights:
        total += np.float32(weight)
    assert float(total) == exact


def test_a_finer_grid_would_not_be_exact() -> None:
    step = resolution(256) / 4
    total = np.float32(0)
    for _ in range(255):
        total += np.float32(1 - step)
    assert float(total) != 255 * (1 - step)


STILL = {"rate": 0.0, "reward": (0.0, 0.0), "punishment": (0.0, 0.0)}


@pytest.mark.parametrize("missing", [None, *STILL])
def test_learning_stops_exactly_where_rates_are_zero(missing: str | None) -> None:
    rates = {name: value for name, value in STILL.items() if name != missing}
    model = network(replace(SMALL, **rates))  # type: ignore[arg-type]
    before, trainer, (images, targets) = weights_of(model), RSTDP(model, SETTINGS), digits(300)
    norms = [
        float(trainer.step(x, y).feedback_norm)
        for x, y in zip(images.split(50), targets.split(50), strict=True)
    ]
    moved = {
        None: set(),
        "rate": {"synapses.0", "synapses.1"},
        "reward": {"decisions"},
        "punishment": {"decisions"},
    }[missing]
    assert different(weights_of(model), before) == moved
    features, decision = missing == "rate", missing in ("reward", "punishment")
    assert [norm > 0 for norm in norms] == [features] * 4 + [decision] * 2


def test_the_rate_of_stdp_doubles_up_to_its_limit() -> None:
    found = [CANONICAL.stdp_rates(image)[0] for image in (0, 499, 500, 1000, 2500, 3000, 10**9)]
    assert found == pytest.approx([0.004, 0.004, 0.008, 0.016, 0.128, 0.15, 0.15])
    assert CANONICAL.stdp_rates(0)[1] == pytest.approx(-0.003)
    assert CANONICAL.stdp_rates(10**9)[1] == pytest.approx(-0.1125)


@pytest.mark.parametrize("fading", [True, False])
def test_fading_rates_are_those_of_a_trainer_for_each_step(fading: bool) -> None:
    """Ten steps, of which each is repeated by a new trainer with the rate that it is to have."""
    images, targets = digits(300)
    recipe = replace(SMALL, layers=(), fading=fading, window=10**6)
    model, other = network(recipe), network(replace(recipe, fading=False))
    trainer = RSTDP(model, Settings(learning_rate=3.0, total_steps=10))
    for i, (x, y) in enumerate(zip(images.split(30), targets.split(30), strict=True)):
        trainer.step(x, y)
        RSTDP(other, Settings(learning_rate=3.0 * (1 - i / 10))).step(x, y)
    assert (different(weights_of(model), weights_of(other)) == set()) == fading
    before = weights_of(model)
    trainer.step(images, targets)
    assert (different(weights_of(model), before) == set()) == fading, "nothing is left to learn"


def test_options_come_before_the_recipe_of_the_network_and_other_settings_leave_it() -> None:
    doubled = replace(SMALL, reward=(0.2, -0.1), punishment=(-0.3, 0.05), window=7, depression=0.5)
    own = RSTDPSettings(
        1.0, reward_plus=0.2, reward_minus=0.1, punish_minus=0.3, punish_plus=0.05, window=7,
        depression=0.5, feature_rate=SMALL.rate, feature_rate_limit=SMALL.rate_limit,
        doubling=SMALL.doubling, fading=SMALL.fading, **OF_SMALL,
    )  # fmt: skip
    assert own.applied(SMALL) == doubled
    ways = [
        train(RSTDP(network(recipe), settings), *digits(200))
        for recipe, settings in ((SMALL, own), (doubled, SETTINGS), (SMALL, SETTINGS))
    ]
    assert not different(ways[0], ways[1])
    assert different(ways[1], ways[2])


@pytest.mark.parametrize("name", [name for name in METHODS if issubclass(METHODS[name], RSTDP)])
def test_the_defaults_of_the_options_are_the_recipe_of_the_network(name: str) -> None:
    method: Any = METHODS[name]
    options, recipe = method.Options(1.0), method.network.recipe
    assert options.applied(recipe) == options.built(recipe) == recipe
    assert method.network((1, 12, 12), 10, 0, settings=options).recipe == recipe


def test_a_network_is_made_as_its_options_say() -> None:
    """From any recipe, as the options say all of it, and with the weights of this recipe."""
    own = RSTDPSettings(1.0, **OF_SMALL)
    made = RSTDPNetwork((1, 8, 8), CLASSES, 3, settings=own)
    assert own.built(CANONICAL) == made.recipe
    assert replace(made.recipe, doubling=SMALL.doubling, window=SMALL.window) == SMALL
    assert not different(weights_of(made), weights_of(network(seed=3)))
    others: dict[str, Any] = {
        "contrast_windows": (3, 7), "contrast_threshold": 20.0, "contrast_radius": 3,
        "time_bins": 9, "cutoff": 5, "decision_kernel": None, "neurons_per_class": 3,
        "weight_mean": 0.5, "weight_deviation": 0.1, "lowest_weight": 0.1, "highest_weight": 0.9,
        "feature_maps": (5, 6), "feature_kernels": (5, 3), "feature_thresholds": (11, 12),
        "feature_pooling": (2, 1), "feature_winners": (1, 3), "feature_radius": (1, 1),
        "feature_images": (100, 50),
    }  # fmt: skip
    assert others.keys() >= OF_SMALL.keys()
    for option, value in others.items():
        assert replace(own, **{option: value}).built(SMALL) != SMALL, option
        with pytest.raises(ValueError, match="made with other options than rstdp is given"):
            RSTDP(made, replace(own, **{option: value}))
    fewer = replace(own, **{name: OF_SMALL[name][:1] for name in OF_SMALL if "feature" in name})
    assert len(RSTDPNetwork((1, 8, 8), CLASSES, 0, settings=fewer).synapses) == 1


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("contrast_windows", (3, 4), "contrast_windows: must be odd, not 4"),
        ("contrast_windows", (), r"contrast_windows must list values, each of which must be >= 3"),
        (
            "feature_maps",
            (0, 6),
            "feature_maps must list values, each of which must be >= 1, not 0",
        ),
        ("feature_kernels", (2, 3), "feature_kernels: must be odd, not 2"),
        ("decision_kernel", 2, "decision_kernel: must be odd, not 2"),
        ("time_bins", 256, r"time_bins must lie in \[1, 255\], not 256"),
        ("cutoff", 16, r"cutoff must lie in 1 ... 6 \(bins\), not 16"),
        ("lowest_weight", 0.9, "lowest_weight must be <= highest_weight, which is 0.8, not 0.9"),
        (
            "feature_maps",
            (4,),
            "need a value of each option, not: feature_maps 1, feature_kernels 2",
        ),
    ],
)
def test_an_option_of_the_network_out_of_range_is_refused(
    option: str, value: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        RSTDPSettings(1.0, **{**OF_SMALL, option: value}).built(SMALL)


def test_without_a_number_of_steps_rates_do_not_fade() -> None:
    recipe = replace(SMALL, layers=())
    ways = [
        train(RSTDP(network(replace(recipe, fading=fading)), SETTINGS), *digits(100))
        for fading in (True, False)
    ]
    assert not different(*ways)


def test_the_rates_of_rstdp_follow_the_share_of_errors() -> None:
    rates = AdaptiveRates()
    rates.count(6, right=1, wrong=4, window=10)  # and one without any feature
    assert (rates.reward, rates.punishment) == (1.0, 1.0)
    rates.count(4, right=2, wrong=2, window=10)
    assert rates == AdaptiveRates(reward=0.6, punishment=0.3)


@pytest.mark.parametrize(("right", "pair"), [(True, (0.004, -0.003)), (False, (-0.004, 0.0005))])
def test_one_update_by_hand(right: bool, pair: tuple[float, float]) -> None:
    model = network(replace(SMALL, layers=(), kernel=None, mean=0.5))
    (images, _), trainer = digits(1), RSTDP(model, Settings(learning_rate=0.5))
    trainer.rates = AdaptiveRates(reward=0.25, punishment=0.25)
    (features,), before = model.features(images), model.decisions.clone()
    winner = model.decide(features)
    assert winner is not None
    decided = winner.map // SMALL.neurons_per_class
    step = trainer.step(images, torch.tensor([decided if right else (decided + 1) % CLASSES]))
    expected = before.clone()
    expected[:, winner.map] += torch.where(torch.from_numpy(features), *pair) / 8
    torch.testing.assert_close(model.decisions.data, expected, rtol=0, atol=1e-7)
    assert float(step.loss) == (0.0 if right else 1.0)
    assert float(step.feedback_norm) == pytest.approx(float((expected - before).norm()), rel=1e-4)


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 16, 300])
def test_online_a_batch_is_only_a_number_of_images(batch: int) -> None:
    expected = train(RSTDP(network(), SETTINGS), *digits(300), batch=1)
    found = train(RSTDP(network(), SETTINGS), *digits(300), batch=batch)
    assert not different(found, expected)


def test_batched_by_one_is_online() -> None:
    online = train(RSTDP(network(), SETTINGS), *digits(300))
    by_one, by_eight = (
        train(BatchedRSTDP(network(), SETTINGS), *digits(300), batch=batch) for batch in (1, 8)
    )
    assert not different(by_one, online)
    assert different(by_eight, online) == {"decisions"}


def test_batched_updates_are_summed_up_from_the_same_weights() -> None:
    recipe = replace(SMALL, layers=(), mean=0.5)  # far from the bounds
    images, targets = digits(8)
    start = network(recipe).decisions
    total = start.clone()
    for x, y in zip(images.split(1), targets.split(1), strict=True):
        alone = network(recipe)
        RSTDP(alone, SETTINGS).step(x, y)
        total += alone.decisions - start
    together = network(recipe)
    BatchedRSTDP(together, SETTINGS).step(images, targets)
    torch.testing.assert_close(together.decisions.data, total, rtol=0, atol=1e-6)
    online = network(recipe)
    RSTDP(online, SETTINGS).step(images, targets)
    assert (online.decisions - total).abs().max() > 1e-4


# --- the same again -------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "done"), crossed([RSTDP, BatchedRSTDP], [49, 133, 210, 287]))
def test_an_interrupted_run_goes_on_bit_for_bit(method: type[RSTDP], done: int) -> None:
    images, targets = digits(300)
    fading = replace(SMALL, fading=True)
    settings = replace(SETTINGS, total_steps=45)
    expected = train(method(network(fading), settings), images, targets)
    first = method(network(fading), settings)
    train(first, images[:done], targets[:done])
    file = io.BytesIO()
    torch.save({"model": first.model.state_dict(), "trainer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = method(network(fading, seed=1), settings)
    second.model.load_state_dict(saved["model"])
    second.load_state_dict(saved["trainer"])
    assert not different(train(second, images[done:], targets[done:]), expected)
    forgetful = method(network(fading, seed=1), settings)
    forgetful.model.load_state_dict(saved["model"])
    assert different(train(forgetful, images[done:], targets[done:]), expected)


def test_a_run_depends_on_its_seed_alone() -> None:
    state = torch.random.get_rng_state()
    with deterministic():
        runs = [train(RSTDP(network(seed=seed), SETTINGS), *digits(300)) for seed in (3, 3, 4)]
    assert not different(runs[0], runs[1])
    assert different(runs[0], runs[2]) == {"synapses.0", "synapses.1", "decisions"}
    assert torch.random.get_rng_state().equal(state)


def test_features_are_remembered_until_weights_change() -> None:
    model, (images, _) = network(), digits(20)
    calls: list[int] = []
    compute = model._features

    def counted(images: Tensor) -> Any:
        calls.append(len(images))
        return compute(images)

    model._features = counted  # type: ignore[method-assign]
    first = model.features(images[:10])
    assert np.array_equal(model.features(images), compute(images))
    assert np.array_equal(model.features(images.flip(0))[10:], first[::-1])
    assert calls == [10, 10]
    with torch.no_grad():
        model.synapses[0].mul_(0.5)
    assert np.array_equal(model.features(images[:10]), compute(images[:10]))
    assert not np.array_equal(model.features(images[:10]), first)
    assert calls == [10, 10, 10]
    model.memory.limit = 4
    assert np.array_equal(model.features(images), compute(images))
    assert len(model.memory.bits) == 4


# --- learning -------------------------------------------------------------------------------------


def test_it_learns_digits() -> None:
    # One layer: the canonical two, made for 28 x 28, see all of an image of 8 x 8.
    layer = replace(CANONICAL.layers[0], images=300)
    recipe = replace(CANONICAL, layers=(layer,), doubling=30, cutoff=8)
    model = RSTDPNetwork((1, 8, 8), CLASSES, 0, recipe)
    trainer, (images, targets) = RSTDP(model, SETTINGS), digits(450)
    losses = [
        float(trainer.step(x, y).loss)
        for _ in range(8)  # after four, seeds differ too much
        for x, y in zip(images.split(50), targets.split(50), strict=True)
    ]
    assert losses[:6] == [1.0] * 6
    assert np.mean(losses[-9:]) < 0.2
    right = model(images).argmax(dim=1) == targets
    assert right.float().mean() > 0.8


def test_the_dense_readout_learns_digits() -> None:
    model, (images, targets) = DenseRSTDPNetwork((1, 8, 8), CLASSES, seed=0), digits(450)
    trainer = DenseRSTDP(model, SETTINGS)
    first = float(trainer.step(images, targets).loss)
    last = [float(trainer.step(images, targets).loss) for _ in range(2)][-1]
    assert last < 0.5 * first
    assert (model(images).argmax(dim=1) == targets).float().mean() > 0.9


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((3, 28, 28), 10, "input_shape"),
        ((28, 28), 10, "input_shape"),
        ((1, 5, 28), 10, "at least 6"),
        ((1, 28, 28), 1, "classes: 1"),
    ],
)
def test_a_network_that_cannot_be_is_refused(
    shape: tuple[int, ...], classes: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RSTDPNetwork(shape, classes, seed=0)


def test_the_smallest_image_will_do() -> None:
    assert RSTDPNetwork((1, 6, 6), 2, seed=0)(torch.ones(2, 1, 6, 6)).shape == (2, 2)


@pytest.mark.parametrize("images", [torch.ones(2, 1, 8, 9), torch.ones(1, 8, 8)], ids=str)
def test_images_of_another_shape_are_refused(images: Tensor) -> None:
    model = network()
    for method in (model, model.features, model.encode, model.spike_count):
        with pytest.raises(ValueError, match=r"images: shape .* does not fit"):
            method(images)


def test_images_elsewhere_are_refused() -> None:
    with pytest.raises(ValueError, match="CPU"):
        network()(torch.ones(2, 1, 8, 8, device="meta"))


@pytest.mark.parametrize("method", [RSTDP, BatchedRSTDP, DenseRSTDP])
def test_another_model_is_refused(method: type[RSTDP]) -> None:
    other = network() if method is DenseRSTDP else DenseRSTDPNetwork((1, 8, 8), CLASSES, 0)
    for model in (other, nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))):
        with pytest.raises(ValueError, match=f"model: {method.name} trains a"):
            method(model, SETTINGS)
    method(method.network((1, 8, 8), CLASSES, 0), SETTINGS)


@pytest.mark.parametrize(
    ("start", "change"),
    [
        (CANONICAL.encoding, {"windows": (3, 4)}),
        (CANONICAL.encoding, {"windows": ()}),
        (CANONICAL.encoding, {"threshold": float("nan")}),
        (CANONICAL.encoding, {"radius": -1}),
        (CANONICAL.encoding, {"bins": 256}),
        (CANONICAL.layers[0], {"maps": 0}),
        (CANONICAL.layers[0], {"kernel": 4}),
        (CANONICAL.layers[0], {"threshold": -1.0}),
        (CANONICAL.layers[0], {"images": -1}),
        (CANONICAL, {"kernel": 2}),
        (CANONICAL, {"cutoff": 16}),
        (CANONICAL, {"window": 0}),
        (CANONICAL, {"bounds": (0.8, 0.2)}),
        (DENSE, {"neurons_per_class": 0}),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(start: Any, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))} must"):
        replace(start, **change)
