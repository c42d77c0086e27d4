"""Initial rewards against their formulas, one sample and one output at a time, in plain Python."""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lfp_core as lfp
from lfp_core import rewards
from validation.selection import examples

Row = list[float]
Reward = Callable[..., Tensor]
#: The reward of one sample from its outputs o and its target t.
Formula = Callable[[Row, Any], Row]
LOWER, UPPER = 0.2, 0.7


# --- the formulas, slowly -------------------------------------------------------------------------


def sign(x: float) -> float:
    return float((x > 0) - (x < 0))


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def probabilities(o: Row) -> Row:
    weights = [math.exp(x - max(o)) for x in o]
    return [w / sum(weights) for w in weights]


def slow_softmax(o: Row, t: int) -> Row:
    p = probabilities(o)
    return [o[c] * ((c == t) - p[c]) for c in range(len(o))]


def slow_sigmoid(o: Row, t: int) -> Row:
    return [o[c] * ((c == t) - logistic(o[c])) for c in range(len(o))]


def slow_binary(o: Row, t: Row) -> Row:
    return [x * (y - logistic(x)) for x, y in zip(o, t, strict=True)]


def slow_bounded(o: Row, t: int, sign_only: bool) -> Row:
    reward = []
    for c, p in enumerate(probabilities(o)):
        q = 0.0 if p < LOWER else 1.0 if p > UPPER else p
        reward.append((sign(o[c]) if sign_only else o[c]) * ((c == t) - q))
    return reward


def slow_correct(o: Row, t: int) -> Row:
    predicted = max(range(len(o)), key=lambda c: o[c])  # the first of equals, as argmax
    return [sign(o[c]) if c == t == predicted else 0.0 for c in range(len(o))]


def slow_misclassified(o: Row, t: int) -> Row:
    return [-sign(o[c]) if o[c] > o[t] else 0.0 for c in range(len(o))]


def slow_neuron(o: Row, t: Any, push: float) -> Row:
    return [push * sign(x) * (1 - logistic(x)) if c == 0 else 0.0 for c, x in enumerate(o)]


def slow_cubic(o: Row, t: Row) -> Row:
    return [sign(x) * (y - x) ** 3 for x, y in zip(o, t, strict=True)]


bounded = partial(rewards.bounded_softmax, lower=LOWER, upper=UPPER)
CLASSIFICATION: dict[str, tuple[Reward, Formula]] = {
    "softmax": (rewards.softmax, slow_softmax),
    "sigmoid": (rewards.sigmoid, slow_sigmoid),
    "bounded_softmax": (bounded, partial(slow_bounded, sign_only=False)),
    "bounded_softmax sign_only": (
        partial(bounded, sign_only=True),
        partial(slow_bounded, sign_only=True),
    ),
    "correct_classification": (rewards.correct_classification, slow_correct),
    "misclassification": (rewards.misclassification, slow_misclassified),
}
ELEMENTWISE: dict[str, tuple[Reward, Formula]] = {
    "binary_sigmoid": (rewards.binary_sigmoid, slow_binary),
    "cubic_regression": (rewards.cubic_regression, slow_cubic),
}


def neuron_reward(function: Reward) -> Reward:
    """Give a reward of one output the signature of the others."""
    return lambda outputs, targets, reduction="mean": function(outputs, 0, reduction)


NEURON: dict[str, tuple[Reward, Formula]] = {
    "maximize_neuron": (neuron_reward(rewards.maximize_neuron), partial(slow_neuron, push=1.0)),
    "minimize_neuron": (neuron_reward(rewards.minimize_neuron), partial(slow_neuron, push=-1.0)),
}
ALL = CLASSIFICATION | ELEMENTWISE | NEURON


def slowly(formula: Formula, outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    pairs = zip(outputs.tolist(), targets.tolist(), strict=True)
    reward = torch.tensor([formula(o, t) for o, t in pairs], dtype=torch.float64)
    return reward / len(outputs) if reduction == "mean" else reward


def agree(reward: Tensor, expected: Tensor) -> bool:
    return torch.allclose(reward, expected, rtol=1e-12, atol=1e-14)


def example(name: str, dtype: torch.dtype = torch.float64, batch: int = 7) -> tuple[Tensor, Tensor]:
    """Return outputs (batch, 5), of which some are exactly 0 or tied, and targets for a reward."""
    random = torch.Generator().manual_seed(3)
    outputs = 3 * torch.randn(batch, 5, generator=random, dtype=torch.float64)
    outputs[0, :3] = 0.0
    outputs[1] = 1.5
    if name in ELEMENTWISE:
        return outputs.to(dtype), torch.rand(batch, 5, generator=random, dtype=torch.float64)
    # Half of the predictions right, so that no reward is 0 everywhere.
    targets = torch.randint(0, 5, (batch,), generator=random)
    targets[::2] = outputs.argmax(dim=1)[::2]
    return outputs.to(dtype), targets


# --- values ---------------------------------------------------------------------------------------

VALUES = st.one_of(st.just(0.0), st.floats(-30, 30, allow_subnormal=False))
REDUCTIONS: st.SearchStrategy[Literal["mean", "sum"]] = st.sampled_from(["mean", "sum"])


def table(rows: int, columns: int, values: st.SearchStrategy[float]) -> st.SearchStrategy[Tensor]:
    row = st.lists(values, min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows).map(
        lambda cells: torch.tensor(cells, dtype=torch.float64)
    )


@pytest.mark.parametrize("name", CLASSIFICATION | NEURON)
@given(data=st.data(), batch=st.integers(1, 5), classes=st.integers(1, 5), reduction=REDUCTIONS)
@examples(40)
def test_classification_reward_is_its_formula(
    name: str, data: st.DataObject, batch: int, classes: int, reduction: Literal["mean", "sum"]
) -> None:
    outputs = data.draw(table(batch, classes, VALUES))
    labels = st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch)
    targets = torch.tensor(data.draw(labels))
    # At a bound, the last bit of the softmax decides, which no formula promises.
    near = [abs(p - b) for o in outputs.tolist() for p in probabilities(o) for b in (LOWER, UPPER)]
    assume(min(near) > 1e-12)
    function, formula = ALL[name]
    expected = slowly(formula, outputs, targets, reduction)
    assert agree(function(outputs, targets, reduction=reduction), expected)


@pytest.mark.parametrize("name", ELEMENTWISE)
@given(data=st.data(), batch=st.integers(1, 5), width=st.integers(1, 5), reduction=REDUCTIONS)
@examples(40)
def test_elementwise_reward_is_its_formula(
    name: str, data: st.DataObject, batch: int, width: int, reduction: Literal["mean", "sum"]
) -> None:
    outputs = data.draw(table(batch, width, VALUES))
    targets = data.draw(table(batch, width, st.floats(0, 1)))
    function, formula = ALL[name]
    expected = slowly(formula, outputs, targets, reduction)
    assert agree(function(outputs, targets, reduction=reduction), expected)


@pytest.mark.parametrize("name", ALL)
def test_flipped_sign_is_caught(name: str) -> None:
    function, formula = ALL[name]
    outputs, targets = example(name)
    expected = slowly(formula, outputs, targets, "sum")
    assert agree(function(outputs, targets, reduction="sum"), expected)
    assert not agree(-function(outputs, targets, reduction="sum"), expected)


@pytest.mark.parametrize("name", ALL)
def test_forgotten_sample_is_caught(name: str) -> None:
    function, formula = ALL[name]
    outputs, targets = example(name)
    reward = function(outputs, targets, reduction="sum")
    reward[reward.abs().sum(dim=1).argmax()] = 0.0
    assert not agree(reward, slowly(formula, outputs, targets, "sum"))


@pytest.mark.parametrize("neuron", range(5))
def test_only_the_named_neuron_is_rewarded(neuron: int) -> None:
    outputs, _ = example("softmax")
    reward = rewards.maximize_neuron(outputs, neuron)
    others = [c for c in range(5) if c != neuron]
    assert not reward[:, others].any()
    rolled = torch.roll(outputs, -neuron, dims=1)
    assert torch.equal(reward[:, neuron], rewards.maximize_neuron(rolled, 0)[:, 0])


@pytest.mark.parametrize("name", ALL)
def test_default_reduction_divides_the_sum_by_the_batch_size(name: str) -> None:
    function, _ = ALL[name]
    outputs, targets = (whole[:4] for whole in example(name))  # a division by 4 rounds nothing
    assert torch.equal(function(outputs, targets), function(outputs, targets, reduction="sum") / 4)


def test_elementwise_rewards_take_any_shape() -> None:
    outputs, targets = torch.randn(3, 2, 4, 5), torch.rand(3, 2, 4, 5)
    for function in (rewards.binary_sigmoid, rewards.cubic_regression):
        flat = function(outputs.flatten(1), targets.flatten(1))
        assert torch.equal(function(outputs, targets), flat.view_as(outputs))


def test_softmax_reward_stays_finite_for_huge_logits() -> None:
    outputs = torch.tensor([[1e30, -1e30, 0.0], [3e38, 3e38, -3e38]])
    assert rewards.softmax(outputs, torch.tensor([0, 1])).isfinite().all()


# --- logits that a mask made infinite -------------------------------------------------------------

INFINITE = math.inf
MASKS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "added": lambda o, mask, low: o + torch.zeros_like(mask, dtype=o.dtype).masked_fill(mask, low),
    "filled": lambda o, mask, low: o.masked_fill(mask, low),
    "chosen": lambda o, mask, low: torch.where(mask, low, o),
}


def masked_example(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs, targets, and which outputs (batch, 5) may be masked out: no target's."""
    outputs, targets = example(name)
    random = torch.Generator().manual_seed(5)
    mask = torch.rand(outputs.shape, generator=random) < 0.4
    if name in ELEMENTWISE:
        targets[mask] = 0.0
    else:
        mask.scatter_(1, targets[:, None], False)
    assert mask.any()
    return outputs, targets, mask


@pytest.mark.parametrize("name", [*CLASSIFICATION, "binary_sigmoid"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_masked_logit_gets_the_limit_of_its_formula(name: str, reduction: str) -> None:
    function, formula = ALL[name]
    outputs, targets, mask = masked_example(name)
    # Of a logit of -700 a probability is 1e-304.
    expected = slowly(formula, outputs.masked_fill(mask, -700.0), targets, reduction)
    found = function(outputs.masked_fill(mask, -INFINITE), targets, reduction=reduction)
    assert agree(found, expected)
    assert not found[mask].any()
    assert found.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*CLASSIFICATION, "binary_sigmoid"])
def test_a_masked_logit_gets_nothing_in_any_dtype(name: str, dtype: torch.dtype) -> None:
    outputs, targets, mask = masked_example(name)
    spoiled = outputs.to(dtype).masked_fill(mask, -INFINITE)
    found = ALL[name][0](spoiled, targets)
    assert found.dtype == dtype
    assert not found[mask].any()
    finite = ALL[name][0](spoiled.masked_fill(mask, -1e4), targets)
    assert torch.equal(found, finite)


@pytest.mark.parametrize("soft", [False, True])
def test_a_masked_logit_gets_nothing_by_cross_entropy(soft: bool) -> None:
    outputs, targets, mask = masked_example("softmax")
    outputs = outputs.masked_fill(mask, -INFINITE)
    given = F.one_hot(targets, 5).double() if soft else targets
    expected = rewards.softmax(outputs, targets)
    assert agree(rewards.from_loss(F.cross_entropy)(outputs, given), expected)
    assert agree(rewards.softmax(outputs, given), expected)
    naive = outputs * (F.one_hot(targets, 5) - outputs.softmax(1)) / len(outputs)
    assert naive[mask].isnan().all()
    assert agree(naive.nan_to_num(0), expected)


def test_a_logit_that_is_decided_beyond_all_bounds_gets_nothing() -> None:
    """The limit of o (1 - sigmoid(o)) for a large o is 0 as well."""
    outputs, targets = torch.tensor([[INFINITE, -INFINITE, 2.0]]).double(), torch.tensor([0])
    found = rewards.sigmoid(outputs, targets)
    assert found.tolist() == [[0.0, 0.0, pytest.approx(-2 * logistic(2), rel=1e-12)]]
    assert agree(found, rewards.binary_sigmoid(outputs, torch.tensor([[1.0, 0.0, 0.0]])))


def test_what_is_wrong_without_bounds_is_not_hidden() -> None:
    """The loss is infinite where a target is masked out, and nothing is known of a NaN."""
    outputs = torch.tensor([[-INFINITE, 1.0, 0.0], [math.nan, 1.0, 0.0]])
    found = rewards.softmax(outputs, torch.tensor([0, 1]))
    assert found[0, 0] == -INFINITE
    assert found[1].isnan().all()
    assert rewards.sigmoid(outputs, torch.tensor([1, 1]))[1, 0].isnan()


MASKED: dict[str, Reward] = {
    **{name: function for name, (function, _) in CLASSIFICATION.items()},
    "cross-entropy": rewards.from_loss(F.cross_entropy),
}


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", MASKED)
def test_masked_logits_leave_the_feedback_of_the_others(
    name: str, mask: str, epsilon: float
) -> None:
    torch.manual_seed(0)
    out = torch.tensor([True, False, False, True])
    x, targets = torch.randn(6, 5).double(), torch.tensor([1, 2, 1, 2, 2, 1])
    first, last = torch.nn.Linear(5, 7).double(), torch.nn.Linear(7, 4).double()
    found = []
    for low in (-INFINITE, -700.0):
        first.zero_grad()
        last.zero_grad()
        with lfp.feedback(epsilon):
            logits = MASKS[mask](last(first(x).relu()), out, low)
        lfp.backward(logits, MASKED[name](logits, targets))
        found.append([p.grad for p in (*first.parameters(), *last.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    *_, weight, bias = found[0]
    assert weight is not None
    assert bias is not None
    assert not weight[out].any()
    assert not bias[out].any()
    assert weight[~out].any()


# --- sequences, pictures, and all that F.cross_entropy can be asked for ---------------------------

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)


def cross_entropy_reward(outputs: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """Return the reward from torch's own loss, whose classes stand second."""
    turn = outputs.dim() > 1
    o = outputs.movedim(-1, 1) if turn else outputs
    t = targets.movedim(-1, 1) if turn and targets.is_floating_point() else targets
    reward = rewards.from_loss(F.cross_entropy)(o, t, **options)
    return reward.movedim(1, -1) if turn else reward


@st.composite
def asked(draw: st.DrawFn, soft: bool) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return outputs, targets and options, where at least one target is not ignored."""
    shape, classes = draw(SHAPES), draw(st.integers(2, 4))
    cells = math.prod(shape)
    outputs = draw(table(cells, classes, VALUES)).view(*shape, classes)
    options: dict[str, Any] = {"reduction": draw(REDUCTIONS)}
    if draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from([0.0, 0.1, 0.75, 1.0]))
    if soft:
        # Of any sum: torch does not ask for 1.
        return outputs, draw(table(cells, classes, st.floats(0, 1))).view(*shape, classes), options
    ignored = draw(st.sampled_from([-100, -1, 1, classes]))
    if ignored != -100:
        options["ignore_index"] = ignored
    labels = [c for c in range(classes) if c != ignored]
    targets = draw(
        st.lists(st.sampled_from([*labels, ignored]), min_size=cells, max_size=cells).filter(
            lambda drawn: any(label != ignored for label in drawn)
        )
    )
    return outputs, torch.tensor(targets).view(shape), options


@given(case=st.one_of(asked(soft=False), asked(soft=True)))
@examples(300)
def test_softmax_reward_is_that_of_cross_entropy_for_every_shape_and_option(
    case: tuple[Tensor, Tensor, dict[str, Any]],
) -> None:
    outputs, targets, options = case
    expected = cross_entropy_reward(outputs, targets, **options)
    assert agree(rewards.softmax(outputs, targets, **options), expected)


def sequences() -> tuple[Tensor, Tensor]:
    """Return outputs (3, 4, 5) and targets (3, 4), of which two are to be ignored."""
    random = torch.Generator().manual_seed(4)
    outputs = torch.randn(3, 4, 5, generator=random, dtype=torch.float64)
    targets = torch.randint(0, 5, (3, 4), generator=random)
    targets[0, 0] = targets[2, 1] = -100
    return outputs, targets


WRONG: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the mean is over the batch": lambda o, t: rewards.softmax(o, t, "sum") / len(o),
    "the mean is over all positions": lambda o, t: rewards.softmax(o, t, "sum") / t.numel(),
    "nothing is ignored": lambda o, t: rewards.softmax(o, t.clamp(min=0)),
    "time and batch change places": lambda o, t: rewards.softmax(o, t.reshape(4, 3).T.contiguous()),
    "smoothed": lambda o, t: rewards.softmax(o, t, label_smoothing=0.1),
    "one-hot that is not 0 where ignored": lambda o, t: (
        rewards.softmax(o, F.one_hot(t.clamp(min=0), 5).double()) * 12 / 10
    ),
}


def test_a_wrong_mean_or_mask_is_caught() -> None:
    outputs, targets = sequences()
    expected = cross_entropy_reward(outputs, targets)
    assert agree(rewards.softmax(outputs, targets), expected)
    for name, wrong in WRONG.items():
        assert not agree(wrong(outputs, targets), expected), name


@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 1, 6), (2, 3, 2, 1)])
@pytest.mark.parametrize("name", CLASSIFICATION | NEURON)
def test_every_position_is_rewarded_on_its_own(name: str, shape: tuple[int, ...]) -> None:
    function, _ = ALL[name]
    outputs, targets = example(name, batch=12)
    found = function(outputs.view(*shape, 5), targets.view(shape))
    assert torch.equal(found, function(outputs, targets).view_as(found))
    # And each is what it would be alone, but for the mean.
    alone = torch.cat([function(outputs[i : i + 1], targets[i : i + 1]) for i in range(12)])
    assert agree(found.view(12, 5), alone / 12)
    assert not agree(found.view(12, 5), alone / shape[0]) or shape[0] == 12


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_a_single_sample_needs_no_batch(name: str) -> None:
    function, _ = ALL[name]
    outputs, targets = example(name)
    for o, t in zip(outputs, targets, strict=True):
        assert torch.equal(function(o, t), function(o[None], t[None])[0])


def test_one_hot_probabilities_are_class_indices() -> None:
    outputs, targets = sequences()
    targets = targets.clamp(min=0)
    soft = F.one_hot(targets, 5)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        found = rewards.softmax(outputs, soft.to(dtype), label_smoothing=0.2)
        assert agree(found, rewards.softmax(outputs, targets, label_smoothing=0.2))


@pytest.mark.parametrize("ignored", [-100, 2, 255, 300])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_ignored_gets_exactly_nothing(ignored: int, bad: float) -> None:
    """Not even from logits that are not finite, of which F.cross_entropy makes a NaN."""
    outputs, targets = sequences()
    padding = targets == -100
    targets = targets.where(targets != 2, 1).where(~padding, ignored)
    spoiled = outputs.masked_fill(padding[..., None], bad)
    for reduction in ("mean", "sum"):
        found = rewards.softmax(spoiled, targets, reduction, ignore_index=ignored)
        assert not found[padding].any()
        expected = rewards.softmax(outputs[~padding], targets[~padding], reduction)
        assert agree(found[~padding], expected)
        assert found[~padding].abs().min() > 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(3,), (2, 4)])
def test_a_batch_that_is_ignored_altogether_gets_nothing(
    shape: tuple[int, ...], reduction: Literal["mean", "sum"]
) -> None:
    outputs, targets = torch.randn(*shape, 5), torch.full(shape, -100)
    assert rewards.softmax(outputs, targets, reduction).equal(torch.zeros_like(outputs))
    assert F.cross_entropy(outputs.movedim(-1, 1), targets).isnan()  # which is why it is not 0/0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_an_ignored_index_that_the_targets_cannot_hold_ignores_nothing(dtype: torch.dtype) -> None:
    outputs = torch.randn(2, 200, dtype=torch.float64)
    targets = torch.tensor([156 if dtype == torch.uint8 else 100, 3])  # -100 and 100, modulo 256
    found = rewards.softmax(outputs, targets.to(dtype), ignore_index=-100)
    assert torch.equal(found, rewards.softmax(outputs, targets, ignore_index=-7))
    assert found.any(dim=1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_nothing_to_ignore_changes_no_bit(dtype: torch.dtype) -> None:
    """Also where it cannot be known beforehand: here, as the index lies between the labels."""
    for batch in (1, 3, 7, 49, 257, 1000):
        outputs = torch.randn(batch, 5).to(dtype)
        targets = torch.randint(0, 2, (batch,)) * 4
        targets[0] = 0
        expected = rewards.softmax(outputs, targets)
        assert torch.equal(rewards.softmax(outputs, targets, ignore_index=2), expected)


def test_logits_with_the_classes_second_are_turned_as_the_documentation_says() -> None:
    outputs, targets = sequences()
    second = outputs.movedim(-1, 1)
    found = rewards.softmax(second.movedim(1, -1), targets).movedim(-1, 1)
    assert agree(found, rewards.from_loss(F.cross_entropy)(second, targets))


@pytest.mark.usefixtures("compiler")
def test_compiled_softmax_reward_ignores_the_same() -> None:
    outputs, targets = sequences()
    compiled = torch.compile(rewards.softmax, backend="aot_eager", fullgraph=True)
    found = compiled(outputs, targets, label_smoothing=0.1)
    assert agree(found, rewards.softmax(outputs, targets, label_smoothing=0.1))


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", ALL)
def test_no_reward_reads_values_but_on_the_cpu(name: str) -> None:
    """A tensor on the meta device has none: what would wait for a GPU raises here."""
    outputs, targets = (t.to("meta") for t in example(name))
    assert ALL[name][0](outputs, targets).shape == outputs.shape
    with pytest.raises(RuntimeError, match="meta"):
        bool((targets >= 0).all())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ALL)
def test_no_reward_waits_for_the_gpu(name: str) -> None:
    outputs, targets = example(name)
    expected = ALL[name][0](outputs, targets)
    on_gpu = outputs.cuda(), targets.cuda()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = ALL[name][0](*on_gpu)
        with pytest.raises(RuntimeError, match="synchroniz"):
            bool((on_gpu[0] == 0).any())
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert agree(found.cpu(), expected)


# --- what kind of tensor --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_reward_keeps_dtype_and_shape(name: str, dtype: torch.dtype) -> None:
    function, formula = ALL[name]
    outputs, targets = example(name, dtype)
    reward = function(outputs, targets)
    assert (reward.dtype, reward.shape) == (dtype, outputs.shape)
    if name in ELEMENTWISE:
        targets = targets.to(dtype).double()
    expected = slowly(formula, outputs.double(), targets, "mean")
    # A few roundings; what cancels in y - p leaves those of numbers below 1, times |o| < 10.
    unit = torch.finfo(dtype).eps
    assert torch.allclose(reward.double(), expected, rtol=8 * unit, atol=10 * unit)


@pytest.mark.parametrize("name", ALL)
def test_reward_is_detached_and_leaves_its_arguments_alone(name: str) -> None:
    function, _ = ALL[name]
    outputs, targets = example(name)
    before = outputs.clone(), targets.clone()
    reward = function(outputs.requires_grad_(), targets)
    assert not reward.requires_grad
    assert outputs.grad is None
    assert torch.equal(outputs, before[0])
    assert torch.equal(targets, before[1])


@pytest.mark.parametrize("name", ALL)
def test_reward_is_the_same_inside_the_context(name: str) -> None:
    function, _ = ALL[name]
    outputs, targets = example(name)
    expected = function(outputs, targets)
    layer = torch.nn.Linear(5, 5, bias=False).double()
    torch.nn.init.eye_(layer.weight)
    with lfp.feedback():
        inside = function(layer(outputs), targets)
    assert torch.equal(inside, expected)
    assert not inside.requires_grad


class Counter(TorchDispatchMode):
    """Count the kernels that are launched."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one."""
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ALL)
def test_number_of_kernels_does_not_depend_on_the_batch(name: str) -> None:
    calls = []
    for batch in (4, 64):
        with Counter() as counter:
            ALL[name][0](*example(name, batch=batch))
        calls.append(counter.calls)
    # `example` launches a fixed number itself.
    assert calls[0] == calls[1] > 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_targets_of_any_integer_dtype_are_class_indices(dtype: torch.dtype) -> None:
    outputs, targets = example("softmax")
    for function, _ in CLASSIFICATION.values():
        assert torch.equal(function(outputs, targets.to(dtype)), function(outputs, targets))


@pytest.mark.parametrize("name", ALL)
def test_empty_batch_gets_an_empty_reward(name: str) -> None:
    outputs, targets = example(name)
    assert ALL[name][0](outputs[:0], targets[:0]).shape == (0, 5)


# --- from_loss ------------------------------------------------------------------------------------

O = torch.tensor([[1.5, -0.5, 0.0], [-3.0, 0.25, 2.0]], dtype=torch.float64)  # noqa: E741
T = torch.tensor([[0.5, 0.0, 1.0], [-1.0, 0.3, 5.0]], dtype=torch.float64)
P = torch.softmax(O, dim=1)
LABELS = torch.tensor([2, 0])
Y = F.one_hot(LABELS, 3).double()
CLOSED_FORMS: dict[str, tuple[Callable[..., Tensor], Tensor, dict[str, Any], Tensor]] = {
    "cross-entropy": (F.cross_entropy, LABELS, {}, O * (Y - P) / 2),
    "summed cross-entropy": (F.cross_entropy, LABELS, {"reduction": "sum"}, O * (Y - P)),
    "label smoothing": (
        F.cross_entropy,
        LABELS,
        {"label_smoothing": 0.3},
        O * (0.7 * Y + 0.1 - P) / 2,
    ),
    "binary cross-entropy": (
        F.binary_cross_entropy_with_logits,
        T.clamp(0, 1),
        {},
        O * (T.clamp(0, 1) - torch.sigmoid(O)) / 6,
    ),
    "squared error": (F.mse_loss, T, {}, O * 2 * (T - O) / 6),
    "summed squared error": (F.mse_loss, T, {"reduction": "sum"}, O * 2 * (T - O)),
    "absolute error": (F.l1_loss, T, {}, O * torch.sign(T - O) / 6),
    "Huber": (F.huber_loss, T, {"delta": 0.4}, O * (T - O).clamp(-0.4, 0.4) / 6),
    "hinge": (
        lambda o, t: (1 - t * o).clamp(min=0).sum(),
        2 * Y - 1,
        {},
        O * (2 * Y - 1) * ((2 * Y - 1) * O < 1),
    ),
}


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_from_loss_is_minus_output_times_gradient(name: str, inside: bool) -> None:
    loss, targets, options, expected = CLOSED_FORMS[name]
    if inside:
        with lfp.feedback():
            reward = rewards.from_loss(loss)(O, targets, **options)
    else:
        reward = rewards.from_loss(loss)(O, targets, **options)
    assert torch.allclose(reward, expected, rtol=1e-12, atol=1e-15)
    assert not torch.allclose(-reward, expected, rtol=1e-12, atol=1e-15)
    assert not reward.requires_grad


def test_from_loss_gives_the_same_with_gradients_disabled() -> None:
    expected = rewards.from_loss(F.cross_entropy)(O, LABELS)
    with torch.no_grad():
        assert torch.equal(rewards.from_loss(F.cross_entropy)(O, LABELS), expected)


@pytest.mark.parametrize(
    ("reward", "loss"),
    [
        (rewards.softmax, partial(F.cross_entropy, reduction="sum")),
        (
            rewards.sigmoid,
            lambda o, t: F.binary_cross_entropy_with_logits(
                o, F.one_hot(t, 3).to(o.dtype), reduction="sum"
            ),
        ),
    ],
)
def test_table_rewards_are_those_of_their_losses(reward: Reward, loss: Reward) -> None:
    expected = rewards.from_loss(loss)(O, LABELS)
    assert torch.allclose(reward(O, LABELS, "sum"), expected, rtol=1e-12, atol=1e-15)


NO_LOSSES: dict[str, tuple[Callable[..., Any], str]] = {
    "a number": (lambda o, t: F.cross_entropy(o, t).item(), "a tensor, not float"),
    "nothing": (lambda o, t: None, "a tensor, not NoneType"),
    "a pair": (lambda o, t: (F.cross_entropy(o, t), o), "a tensor, not tuple"),
    "one for each sample": (
        partial(F.cross_entropy, reduction="none"),
        r"a scalar, such as a mean, not shape \[2\]",
    ),
    "of no sample": (lambda o, t: o[:0, 0], r"a scalar, .*not shape \[0\]"),
    "a constant": (lambda o, t: torch.tensor(1.0), "must depend on the outputs"),
    "of detached outputs": (lambda o, t: o.detach().sum(), "must depend on the outputs"),
    "of predictions": (lambda o, t: (o.argmax(1) != t).double().mean(), "must depend on the outp"),
    "of others": (lambda o, t: torch.ones(3, requires_grad=True).sum(), "must depend on the outp"),
}


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("name", NO_LOSSES)
def test_what_is_no_loss_of_the_outputs_raises_value_error(name: str, inside: bool) -> None:
    loss, message = NO_LOSSES[name]
    context = lfp.feedback() if inside else contextlib.nullcontext()
    with context, pytest.raises(ValueError, match=f"^loss must .*{message}|^loss {message}"):
        rewards.from_loss(loss)(O, LABELS)


def test_a_loss_of_one_element_is_a_scalar() -> None:
    found = rewards.from_loss(lambda o: (o**2).sum().view(1, 1))(O)
    assert agree(found, -2 * O**2)


# --- errors ---------------------------------------------------------------------------------------

LABEL_ERRORS: dict[str, tuple[tuple[Any, ...], str]] = {
    "outputs of one dimension": ((O[0], LABELS), r"outputs must have shape .*not \[3\]"),
    "outputs of no dimension": ((O[0, 0], LABELS[0]), r"outputs must have shape .*not \[\]"),
    "a dimension too many": ((O[None], LABELS), r"targets must have shape \[1, 2\] .*not \[2\]"),
    "one label for all": ((O, LABELS[0]), r"targets must have shape \[2\] .*not \[\]"),
    "probabilities of some": ((O, P[:, :2]), r"targets must have shape \[2\] .*not \[2, 2\]"),
    "classes second": (
        (torch.zeros(4, 3, 6), torch.zeros(4, 6).long()),
        r"must have shape \[4, 3\] .*not \[4, 6\].*outputs\.movedim\(1, -1\).*from_loss",
    ),
    "classes second in a picture": (
        (torch.zeros(4, 3, 6, 5), torch.zeros(4, 6, 5).long()),
        r"must have shape \[4, 3, 6\] .*not \[4, 6, 5\].*outputs\.movedim\(1, -1\).*from_loss",
    ),
    "one-hot targets": ((O, Y.long()), r"targets must have shape \[2\] .*not \[2, 3\]"),
    "wrong batch": ((O, LABELS[:1]), r"targets must have shape \[2\] .*not \[1\]"),
    "label too large": ((O, torch.tensor([0, 3])), r"targets must lie in \[0, 2\].*3\]"),
    "label negative": ((O, torch.tensor([-1, 0])), r"targets must lie in \[0, 2\].*\[-1"),
    "float labels": ((O, LABELS.double()), "integer dtype, not torch.float64"),
    "boolean labels": ((O, LABELS > 0), "integer dtype, not torch.bool"),
    "complex labels": ((O, LABELS * 1j), "integer dtype, not torch.complex64"),
}


@pytest.mark.parametrize("case", LABEL_ERRORS)
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_bad_labels_raise_value_error(name: str, case: str) -> None:
    arguments, message = LABEL_ERRORS[case]
    with pytest.raises(ValueError, match=message):
        CLASSIFICATION[name][0](*arguments)


@pytest.mark.parametrize("smoothing", [-0.01, 1.01, math.nan, math.inf])
def test_smoothing_out_of_range_raises_value_error(smoothing: float) -> None:
    message = rf"label_smoothing must lie in \[0, 1\], not {smoothing!r}"
    with pytest.raises(ValueError, match=message):
        rewards.softmax(O, LABELS, label_smoothing=smoothing)


def test_an_ignored_index_among_probabilities_raises_value_error() -> None:
    with pytest.raises(ValueError, match=r"ignore_index must be left out .* not 1"):
        rewards.softmax(O, P, ignore_index=1)
    with pytest.raises(RuntimeError, match="ignore_index"):  # torch says so too
        F.cross_entropy(O, P, ignore_index=1)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([-100, 3], r"targets must lie in \[0, 2\] or be ignore_index=-100, not in \[3, 3\]"),
        ([-1, -100], r"targets must lie in \[0, 2\] or be ignore_index=-100, not in \[-1, -1\]"),
        ([-101, 0], r"not in \[-101, 0\]"),
    ],
)
def test_labels_that_are_not_ignored_are_checked(targets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rewards.softmax(O, torch.tensor(targets))


@pytest.mark.parametrize("name", sorted(CLASSIFICATION.keys() - {"softmax"}))
def test_only_the_softmax_reward_takes_probabilities_or_ignores(name: str) -> None:
    with pytest.raises(ValueError, match=r"targets must have shape \[2\] .*from_loss"):
        CLASSIFICATION[name][0](O, P)
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 2\], not in \[-100, 0\]"):
        CLASSIFICATION[name][0](O, torch.tensor([-100, 0]))
    rewards.softmax(O, P)
    rewards.softmax(O, torch.tensor([-100, 0]))


@pytest.mark.parametrize("reduction", ["none", "Mean", "", None, True])
@pytest.mark.parametrize("name", ALL)
def test_unknown_reduction_raises_value_error(name: str, reduction: Any) -> None:
    with pytest.raises(ValueError, match=f"reduction must be 'mean' or 'sum', not {reduction!r}"):
        ALL[name][0](*example(name), reduction=reduction)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 1), (1, 3), (2, 3, 1)])
def test_targets_that_only_broadcast_raise_value_error(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"outputs' shape \[2, 3\], not \[" + str(shape[0])):
        ELEMENTWISE[name][0](O, torch.zeros(shape))


@pytest.mark.parametrize("bad", [-0.01, 1.01, math.nan, math.inf])
def test_probabilities_out_of_range_raise_value_error(bad: float) -> None:
    targets = torch.full_like(O, 0.5)
    targets[1, 1] = bad
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 1\], not in .*" + str(bad)):
        rewards.binary_sigmoid(O, targets)


def test_elementwise_rewards_want_a_batch_dimension() -> None:
    for function in (rewards.binary_sigmoid, rewards.cubic_regression):
        with pytest.raises(ValueError, match="batch"):
            function(torch.tensor(1.0), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("lower", "upper"), [(-0.1, 0.5), (0.5, 1.1), (0.6, 0.5), (math.nan, 0.5), (0.5, math.nan)]
)
def test_bad_bounds_raise_value_error(lower: float, upper: float) -> None:
    with pytest.raises(ValueError, match=f"lower={lower}, upper={upper}"):
        rewards.bounded_softmax(O, LABELS, lower, upper)


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5)])
def test_bounds_may_touch(lower: float, upper: float) -> None:
    rewards.bounded_softmax(O, LABELS, lower, upper)


def test_widest_bounds_give_the_softmax_reward() -> None:
    assert agree(rewards.bounded_softmax(O, LABELS, 0, 1), rewards.softmax(O, LABELS))


@pytest.mark.parametrize("function", [rewards.maximize_neuron, rewards.minimize_neuron])
@pytest.mark.parametrize("neuron", [-1, 3])
def test_neuron_out_of_range_raises_value_error(function: Reward, neuron: int) -> None:
    with pytest.raises(ValueError, match=rf"neuron must lie in \[0, 2\], not {neuron}"):
        function(O, neuron)


def test_neuron_of_a_vector_raises_value_error() -> None:
    with pytest.raises(ValueError, match=r"outputs must have shape .*not \[3\]"):
        rewards.maximize_neuron(O[0], 0)


def test_label_out_of_range_is_named_for_the_whole_batch() -> None:
    with pytest.raises(ValueError, match=r"not in \[-2, 9\]"):
        rewards.softmax(O, torch.tensor([9, -2]))


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_advice_to_pass_probabilities_stands_where_they_are_taken(name: str) -> None:
    with pytest.raises(ValueError, match="targets must have shape") as error:
        getattr(rewards, name)(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
    assert ("or probabilities, of shape [2, 3]" in str(error.value)) == (name == "softmax")


def test_a_number_is_no_output_with_classes() -> None:
    with pytest.raises(ValueError, match="outputs must have shape"):
        rewards.softmax(torch.tensor(1.0), torch.tensor(1.0))


def test_an_ignored_index_of_0_among_probabilities_raises_value_error() -> None:
    with pytest.raises(ValueError, match="ignore_index"):
        rewards.softmax(torch.zeros(2, 3), torch.full((2, 3), 1 / 3), ignore_index=0)


def test_empty_batch_of_one_class_gets_an_empty_reward() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    assert rewards.sigmoid(torch.zeros(0, 1), empty).shape == (0, 1)


def test_bounds_themselves_are_not_decided() -> None:
    """Two equal outputs have p = 1/2 exactly, which neither exceeds it nor falls short of it."""
    outputs, targets = torch.ones(1, 2), torch.tensor([0])
    for lower, upper in ((0.5, 1.0), (0.0, 0.5)):
        found = rewards.bounded_softmax(outputs, targets, lower, upper)
        assert found.tolist() == [[0.5, -0.5]]


def test_neurons_stand_last_in_any_number_of_dimensions() -> None:
    outputs = torch.randn(2, 3, 5)
    assert rewards.maximize_neuron(outputs, 4)[..., 4].all()
    with pytest.raises(ValueError, match=r"\[0, 4\]"):
        rewards.maximize_neuron(outputs, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("steps", [20, 257, 600, 2050, 4097])
def test_spikes_are_counted_exactly_in_any_dtype(steps: int, dtype: torch.dtype) -> None:
    """Bfloat16 has no odd numbers beyond 256, float16 beyond 2048; near T // 2 each one counts."""
    spikes = torch.zeros(steps, 3, 2)
    for sample, more in enumerate((-1, 0, 1)):
        spikes[: steps // 2 + more, sample, 0] = 1
        spikes[: steps - steps // 2 + more, sample, 1] = 1
    targets = torch.zeros(3, dtype=torch.long)
    found = lfp.rewards.spike_rate(spikes.to(dtype), targets, "sum")
    assert found.dtype == dtype
    one = logistic(1)
    expected = torch.tensor([[one, one - 1], [0.5, -0.5], [1 - one, -one]])
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(found[0].float(), expected, rtol=2 * unit, atol=0)
    assert torch.equal(found, lfp.rewards.spike_rate(spikes, targets, "sum").to(dtype))
    if 2 / unit < steps / 2:  # or it can count so far
        rounded = spikes.to(dtype).sum(dim=0)[:, 0].float() - steps // 2
        assert rounded.tolist() != [-1, 0, 1]


def test_half_of_an_odd_number_of_steps_is_rounded_down() -> None:
    spikes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])[:, None]
    found = rewards.spike_rate(spikes.double(), torch.tensor([0]))
    grow = 1 - logistic(2 - 2)  # 2 spikes in 5 steps
    shrink = 1 - logistic((5 - 3) - 2)  # 3 spikes
    expected = [[grow, -shrink * s] for s in spikes[:, 0, 1].tolist()]
    torch.testing.assert_close(found[:, 0], torch.tensor(expected).double())
