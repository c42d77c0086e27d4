"""Sparsity: which weights go, in which order, what is left; relevance against the oracle."""

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.analysis import sparsity
from benchmarks.analysis.importance import weights_of
from benchmarks.analysis.sparsity import (
    correlation,
    curve,
    magnitude,
    merged,
    pruned,
    relevance,
    without,
)
from benchmarks.data import Split
from validation import oracle
from validation.selection import example_of, examples
from validation.strategies import randomized

SCOPES: tuple[sparsity.Scope, ...] = ("global", "layer")


@st.composite
def scores(draw: st.DrawFn) -> dict[str, Tensor]:
    """Up to three layers of scores, with many ties."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=3))
    number = st.integers(0, 3).map(float)
    return {
        f"layer {i}": torch.tensor(
            draw(st.lists(number, min_size=rows * columns, max_size=rows * columns))
        ).view(rows, columns)
        for i, (rows, columns) in enumerate(sizes)
    }


def network() -> nn.Sequential:
    """Return a small network without zeros among its weights."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 7), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(7, 3)).double().eval()


def images(count: int = 9) -> Split:
    torch.manual_seed(1)
    return Split(torch.randn(count, 1, 4, 4).double(), torch.arange(count) % 3)


# --- which weights go -----------------------------------------------------------------------------


def groups(scores: dict[str, Tensor], share: float) -> Iterator[tuple[list[float], list[bool]]]:
    """Yield scores and what goes of them: of all layers together, and of each layer."""
    everything, each = (pruned(scores, share, scope) for scope in SCOPES)
    for masks, groups in ((everything, [list(scores)]), (each, [[name] for name in scores])):
        assert {n: m.shape for n, m in masks.items()} == {n: s.shape for n, s in scores.items()}
        for names in groups:
            yield (
                torch.cat([scores[name].flatten() for name in names]).tolist(),
                torch.cat([masks[name].flatten() for name in names]).tolist(),
            )


def as_many_go_as_the_share_says(scores: dict[str, Tensor], share: float) -> bool:
    return all(sum(gone) == round(share * len(gone)) for _, gone in groups(scores, share))


def the_lowest_go_and_of_equals_the_first(scores: dict[str, Tensor], share: float) -> bool:
    right = True
    for score, gone in groups(scores, share):
        ranking = sorted(range(len(score)), key=lambda place: (score[place], place))
        right &= {i for i, goes in enumerate(gone) if goes} == set(ranking[: sum(gone)])
    return right


@given(scores(), st.floats(0, 1))
def test_as_many_go_as_the_share_says(scores: dict[str, Tensor], share: float) -> None:
    assert as_many_go_as_the_share_says(scores, share)


@given(scores(), st.floats(0, 1))
def test_the_lowest_go_and_of_equals_the_first(scores: dict[str, Tensor], share: float) -> None:
    assert the_lowest_go_and_of_equals_the_first(scores, share)


def threshold(scores: Tensor, share: float) -> Tensor:
    """Everything up to the k-th lowest score: with ties, more than k weights."""
    count = round(share * len(scores))
    return scores <= (scores.sort().values[count - 1] if count else -1.0)


def highest(scores: Tensor, share: float) -> Tensor:
    """The wrong end of the ranking."""
    return LOWEST(-scores, share)


def last(scores: Tensor, share: float) -> Tensor:
    """Of equals, the last."""
    return LOWEST(scores.flip(0), share).flip(0)


LOWEST = sparsity._lowest


@pytest.mark.parametrize(
    ("wrong", "property_"),
    [
        (threshold, as_many_go_as_the_share_says),
        (highest, the_lowest_go_and_of_equals_the_first),
        (last, the_lowest_go_and_of_equals_the_first),
    ],
)
def test_a_wrong_choice_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[[Tensor, float], Tensor],
    property_: Callable[[dict[str, Tensor], float], bool],
) -> None:
    monkeypatch.setattr(sparsity, "_lowest", wrong)
    example_of(
        st.tuples(scores(), st.floats(0, 1)),
        lambda case: not property_(*case),
    )


@pytest.mark.parametrize("scope", SCOPES)
@given(scores(), st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_what_is_gone_stays_gone(
    scope: sparsity.Scope, scores: dict[str, Tensor], shares: list[float]
) -> None:
    steps = [pruned(scores, share, scope) for share in sorted(shares)]
    for fewer, more in pairwise(steps):
        assert all(bool((more[name] | ~fewer[name]).all()) for name in scores)


def test_ranking_anew_at_random_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def anew(scores: Tensor, share: float) -> Tensor:
        order = torch.randperm(
            len(scores), generator=torch.Generator().manual_seed(int(99 * share))
        )
        return torch.zeros_like(scores, dtype=torch.bool).index_fill_(
            0, order[: round(share * len(scores))], True
        )

    monkeypatch.setattr(sparsity, "_lowest", anew)
    scores = {"a": torch.arange(20.0)}
    fewer, more = (pruned(scores, share, "layer")["a"] for share in (0.4, 0.5))
    assert not bool((more | ~fewer).all())


def test_what_cannot_be_ranked_is_refused() -> None:
    scores = {"a": torch.tensor([1.0, float("nan")])}
    with pytest.raises(ValueError, match="scores: a has one that is not a number"):
        pruned(scores, 0.5, "global")
    with pytest.raises(ValueError, match=r"share: 1.5; allowed: 0 to 1"):
        pruned({"a": torch.ones(2)}, 1.5, "layer")


def test_global_and_layers_differ() -> None:
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    everything = pruned(scores, 0.5, "global")
    assert {name: mask.tolist() for name, mask in everything.items()} == {
        "a": [True, True],
        "b": [False, False],
    }
    each = pruned(scores, 0.5, "layer")
    assert {name: mask.tolist() for name, mask in each.items()} == {
        "a": [True, False],
        "b": [True, False],
    }


def test_exactly_these_weights_are_zero_for_a_while() -> None:
    model = network()
    weights, before = weights_of(model), copy.deepcopy(model.state_dict())
    masks = pruned(magnitude(weights), 0.3, "global")
    with without(weights, masks):
        assert all(torch.equal(weights[name] == 0, mask) for name, mask in masks.items())
        biases = {key: value for key, value in model.state_dict().items() if "bias" in key}
        assert all(torch.equal(value, before[key]) for key, value in biases.items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("scope", SCOPES)
def test_a_curve_begins_with_the_whole_network_and_ends_with_chance(scope: sparsity.Scope) -> None:
    model, split = network(), images()
    with torch.no_grad():
        split = Split(split.inputs, model(split.inputs).argmax(dim=1))  # right about everything
    found = curve(model, magnitude(weights_of(model)), scope, [0.0, 0.5, 1.0], split)
    assert found[0] == 1
    alone = int(model.state_dict()["5.bias"].argmax())  # all that is left when all weights are gone
    assert found[-1] == float((split.targets == alone).double().mean())


# --- merging --------------------------------------------------------------------------------------


class Normalised(nn.Module):
    """A residual network with normalisations after convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(16, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 3) of x (batch, 1, 4, 4)."""
        x = torch.relu(self.first(x))
        found: Tensor = self.head((x + self.body(x)).flatten(1))
        return found


def trained() -> Normalised:
    """Return the network with the statistics and scales that training would leave."""
    torch.manual_seed(0)
    model: Normalised = randomized(Normalised().double()).eval()  # type: ignore[assignment]
    return model


def test_merging_keeps_the_function() -> None:
    model, inputs = trained(), images().inputs
    whole = merged(model)
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in whole.modules())
    assert len(weights_of(whole)) == 4
    with torch.no_grad():
        torch.testing.assert_close(whole(inputs), model(inputs), rtol=1e-10, atol=1e-10)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules()), "a copy is merged"


def test_leaving_a_normalisation_out_does_not() -> None:
    model, inputs = trained(), images().inputs
    bare = copy.deepcopy(model)
    bare.first[1] = nn.Identity()
    with torch.no_grad():
        assert float((bare(inputs) - model(inputs)).abs().max()) > 1e-3


def test_a_network_without_normalisations_is_copied() -> None:
    model = network().train()
    copied = merged(model)
    assert not copied.training
    assert model.training
    assert torch.equal(copied(images().inputs), model(images().inputs))
    assert all(a is not b for a, b in zip(model.parameters(), copied.parameters(), strict=True))


# --- relevance ------------------------------------------------------------------------------------


def by_the_oracle(model: nn.Module, split: Split, epsilon: float) -> dict[str, Tensor]:
    """Return |sum of the samples' feedback|, connection by connection."""

    def reward(outputs: Tensor) -> Tensor:
        return outputs * nn.functional.one_hot(split.targets, 3)

    trace = oracle.run(model, split.inputs, reward, epsilon)
    return {
        name: torch.from_numpy(trace.feedback[w]).abs() for name, w in weights_of(model).items()
    }


def largest_error(epsilon: float) -> float:
    model, split = network(), images()
    found, expected = relevance(model, split, epsilon), by_the_oracle(model, split, epsilon)
    return max(float((found[n] - expected[n]).norm() / expected[n].norm()) for n in expected)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_relevance_is_what_connections_hand_down(
    epsilon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparsity, "RELEVANCE_BATCH", 4)  # several batches
    assert largest_error(epsilon) < 1e-9


def test_relevance_of_other_classes_is_another_one() -> None:
    model, split = network(), images()
    others = Split(split.inputs, (split.targets + 1) % 3)
    found, expected = relevance(model, others, 1e-6), by_the_oracle(model, split, 1e-6)
    assert all(float((found[n] - expected[n]).norm() / expected[n].norm()) > 0.1 for n in found)


def test_relevance_is_of_the_sum_not_the_sum_of_magnitudes() -> None:
    model, split = network(), images()
    found, one_by_one = relevance(model, split, 1e-6), dict.fromkeys(weights_of(model), 0.0)
    for example in zip(split.inputs.split(1), split.targets.split(1), strict=True):
        for name, share in relevance(model, Split(*example), 1e-6).items():
            one_by_one[name] += share  # type: ignore[assignment]
    # In the last layer all shares of a weight have its sign, as no activation is negative.
    assert any(float((one_by_one[n] - found[n]).norm() / found[n].norm()) > 0.1 for n in found)


def test_relevance_leaves_no_gradients() -> None:
    model = network()
    relevance(model, images(), 1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())


# --- whether |w| tells what is lost ---------------------------------------------------------------


def chain(values: tuple[float, ...]) -> nn.Sequential:
    """One linear layer of two classes, the first of which sees the inputs through `values`."""
    model = nn.Sequential(nn.Linear(len(values), 2, bias=False)).double()
    model[0].weight.data = torch.tensor([values, [0.0] * len(values)], dtype=torch.float64)
    return model


@examples(20)
@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=6, unique=True))
def test_where_every_weight_counts_by_its_magnitude_they_correlate(values: list[float]) -> None:
    model = chain(tuple(values))
    split = Split(torch.ones(1, len(values)), torch.zeros(1, dtype=torch.int64))
    # The zeros of the other class cost nothing, and they are the smallest.
    found = correlation(model, split, sample=2 * len(values), seed=0)
    assert found.loss == pytest.approx(1)
    assert found.accuracy is None, "one weight alone costs no example here"
    opposite = Split(torch.ones(1, len(values)), torch.ones(1, dtype=torch.int64))
    reversed_ = correlation(model, opposite, sample=2 * len(values), seed=0)
    assert reversed_.loss == pytest.approx(-1)


def test_the_correlation_leaves_the_model_as_it_was() -> None:
    model = network().float()
    before: dict[str, Tensor] = copy.deepcopy(model.state_dict())
    split = Split(images().inputs.float(), images().targets)
    correlation(model, split, sample=5, seed=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
