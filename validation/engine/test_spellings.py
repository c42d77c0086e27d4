"""All spellings of the same function give the same feedback, and the output that torch gives."""

from collections import Counter
from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import lfp_core as lfp
from lfp_core import calls, marks
from validation.selection import crossed, examples
from validation.spellings import (
    FEATURES,
    FUNCTIONS,
    MADE,
    MADE_BEHIND,
    USED,
    Network,
    Spelling,
    distance,
    feedback_of,
    layer,
)

TOLERANCE = 1e-9  # relative, in float64
ON_DATA = {"glu", "softmax with a sink"}  # of which one concatenates: see validation.spellings


def inputs(seed: int = 1, batch: int = 4) -> Tensor:
    """Draw numbers (batch, FEATURES)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, FEATURES, dtype=torch.float64, generator=generator)


def seen_forward(model: nn.Module, x: Tensor, **options: Any) -> Tensor:
    """Return the output inside of the context."""
    torch.manual_seed(3)
    with lfp.feedback(0.1, **options):
        return model(x).detach()


# --- networks that are drawn ----------------------------------------------------------------------


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[Spelling], list[Spelling], bool]:
    """Draw the blocks of a network in two spellings, and whether a layer comes before them."""
    behind = draw(st.booleans())
    one, other = [], []
    for block in range(draw(st.integers(1, 3))):
        hidden = behind or block > 0
        if draw(st.booleans()):
            makings = {**MADE, **MADE_BEHIND} if hidden else MADE
            make = makings[draw(st.sampled_from(sorted(makings)))]
            uses = draw(st.lists(st.sampled_from(sorted(USED)), min_size=2, max_size=2))
            spellings = [layer(make, USED[use]) for use in uses]
        else:
            # A block before this one may be a function of data alone, which is data.
            names = sorted(FUNCTIONS if behind else FUNCTIONS.keys() - ON_DATA)
            family = FUNCTIONS[draw(st.sampled_from(names))]
            spellings = draw(st.lists(st.sampled_from(family), min_size=2, max_size=2))
        one.append(spellings[0])
        other.append(spellings[1])
    return one, other, behind


@pytest.mark.slow
@examples(150)
@given(
    blocks=pairs(),
    epsilon=st.sampled_from([0.0, 0.1]),
    strict=st.booleans(),
    wanted=st.booleans(),
    frozen=st.booleans(),
    seed=st.integers(0, 99),
    batch=st.integers(1, 5),
)
def test_networks_in_two_spellings_have_one_feedback(
    blocks: tuple[list[Spelling], list[Spelling], bool],
    epsilon: float,
    strict: bool,
    wanted: bool,
    frozen: bool,
    seed: int,
    batch: int,
) -> None:
    *both, behind = blocks
    results, outputs = [], []
    for spellings in both:
        network = Network(spellings, behind, seed)
        for block in network.blocks if frozen else []:
            block.other.requires_grad_(False)  # the branch g, which still takes its share
        x = inputs(seed, batch).requires_grad_(wanted)
        results.append(feedback_of(network, x, epsilon, strict=strict))
        torch.manual_seed(3)
        outputs.append(network(x).detach())
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-9, atol=1e-9)
    assert distance(results[0], results[1]) <= TOLERANCE


# --- every spelling once --------------------------------------------------------------------------


#: A weight is used in each way in one of so many tests.
PARTS = 4


@pytest.mark.parametrize(("made", "part"), crossed([*MADE, *MADE_BEHIND], range(PARTS)))
def test_a_weight_is_one_however_it_is_used(made: str, part: int) -> None:
    make = {**MADE, **MADE_BEHIND}[made]
    x = inputs()
    reference = feedback_of(Network([layer(make, F.linear)], True, 5), x, 0.1)
    for used, use in list(USED.items())[part::PARTS]:
        network = Network([layer(make, use)], True, 5)
        assert distance(feedback_of(network, x, 0.1), reference) <= TOLERANCE, used


@pytest.mark.parametrize("family", FUNCTIONS)
@pytest.mark.parametrize("behind", [True, False], ids=["behind", "on data"])
def test_a_function_is_one_however_it_is_written(family: str, behind: bool) -> None:
    if family in ON_DATA and not behind:
        pytest.skip("concatenates data with activations")
    x = inputs(2)
    for epsilon, strict in ((0.1, True), (0.0, False)):
        reference = None
        for i, spelling in enumerate(FUNCTIONS[family]):
            network = Network([spelling], behind, 7)
            found = feedback_of(network, x, epsilon, strict=strict)
            reference = reference or found
            assert distance(found, reference) <= TOLERANCE, (i, epsilon)


def _attended(weights: Spelling) -> Spelling:
    """Return attention to fixed values by weights of the block's input."""
    return lambda s, h, g, x: weights(s, h, g, x) @ s.v + g


def test_a_softmax_is_a_constant_however_it_is_written() -> None:
    x = inputs(2)
    for family in ("softmax", "softmax of some"):
        reference, *others = [
            feedback_of(Network([_attended(weights)], True, 7), x, 0.1, attention="constant")
            for weights in FUNCTIONS[family]
        ]
        assert "first.weight" not in reference, "nothing learns that is behind it alone"
        for i, found in enumerate(others):
            assert distance(found, reference) <= TOLERANCE, (family, i)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Standardised by a layer of torch, as timm's convolutions are, and by hand.
        (
            lambda s, h, x: F.layer_norm(s.w, (5,), eps=1e-5),
            lambda s, h, x: (
                (s.w - s.w.mean(1, keepdim=True))
                / (s.w.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
            ),
        ),
        (lambda s, h, x: F.linear(s.w, s.v), lambda s, h, x: s.w @ s.v.t()),
        (lambda s, h, x: F.linear(s.w, s.e), lambda s, h, x: s.w @ s.e.t()),
        (lambda s, h, x: F.linear(s.e, s.w), lambda s, h, x: s.e @ s.w.t()),
        (
            lambda s, h, x: F.conv1d(s.e[None], s.w[..., None])[0],
            lambda s, h, x: torch.einsum("ik,kj->ij", s.w, s.e),
        ),
        (lambda s, h, x: F.embedding(torch.arange(5), s.rows), lambda s, h, x: s.rows[:5]),
        (lambda s, h, x: s.w * s.mask, lambda s, h, x: s.w.masked_fill(~s.mask, 0)),
        (lambda s, h, x: F.normalize(s.w), lambda s, h, x: s.w / s.w.norm(dim=1, keepdim=True)),
        (lambda s, h, x: s.w.tril(), lambda s, h, x: s.w * torch.ones_like(s.w).tril()),
    ],
)
@pytest.mark.parametrize("used", ["F.linear", "@", "product and sum"])
def test_a_weight_is_one_however_it_is_made(one: Any, other: Any, used: str) -> None:
    networks = [Network([layer(make, USED[used])], True, 5) for make in (one, other)]
    a, b = (feedback_of(network, inputs(), 0.1) for network in networks)
    assert distance(a, b) <= TOLERANCE


class Opaque:
    """A batch of another library, such as a graph."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


class OfObjects(nn.Module):
    """A network on an object, where nothing finds the data, or on numbers that it gets or draws."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(FEATURES, 4), nn.ReLU(), nn.Linear(4, 3)).double()

    def forward(self, batch: Any) -> Tensor:
        """Map an object, numbers or the number of inputs to outputs (batch, 3)."""
        x: Tensor
        if isinstance(batch, int):
            x = inputs(batch=batch)
        elif isinstance(batch, tuple):
            x = batch[0][:, :0].new_tensor(batch[1])
        else:
            x = batch.x
        y: Tensor = self.layers(x)
        return y


@pytest.mark.parametrize(
    "batch",
    [Opaque(inputs()), 4, (inputs(), inputs().tolist())],
    ids=["object", "drawn inside", "numbers"],
)
def test_a_layer_on_what_may_be_data_takes_it_for_data(batch: Any) -> None:
    model = OfObjects()
    expected = feedback_of(model.layers, inputs(), 0.1)
    found = feedback_of(model, batch, 0.1)
    assert distance({n.partition(".")[2]: t for n, t in found.items()}, expected) == 0.0


# --- the forward pass -----------------------------------------------------------------------------

#: Run as the operations in them, so that the last bits may differ.
COMPOSED = {"glu"}


@pytest.mark.parametrize("family", sorted(FUNCTIONS.keys() - COMPOSED))
def test_outputs_are_those_of_torch_to_the_bit(family: str) -> None:
    """Each option is tried with a third of the spellings."""
    tried: list[dict[str, Any]] = [{}, {"strict": False}, {"gates": "uniform", "units": "shifted"}]
    for i, (spelling, options) in enumerate(zip(FUNCTIONS[family], cycle(tried), strict=False)):
        network = Network([spelling], True, 7)
        torch.manual_seed(3)
        plain = network(inputs()).detach()
        state = torch.get_rng_state()
        assert torch.equal(seen_forward(network, inputs(), **options), plain), (i, options)
        # Random numbers are drawn once: the generator stands where it stood.
        assert torch.equal(torch.get_rng_state(), state), (i, options)


class Count(TorchDispatchMode):
    """Counts the kernels of the forward pass that are named in a set."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run a kernel."""
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


INDEX = torch.tensor([0, 1, 1, 3])
#: Name of the kernel, and a function that runs it once or more.
ONCE: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "index_add_": ("index_add_", lambda h: torch.zeros_like(h).index_add_(0, INDEX, h)),
    "index_add": ("index_add", lambda h: torch.zeros_like(h).index_add(0, INDEX, h)),
    "scatter_add_": (
        "scatter_add_",
        lambda h: torch.zeros_like(h).scatter_add_(0, INDEX[:, None].expand(h.shape), h),
    ),
    "exp_": ("exp_", lambda h: h.clone().exp_()),
    "pow_": ("pow_", lambda h: h.clone().pow_(3)),
    "sqrt_": ("sqrt_", lambda h: h.abs().add_(1).sqrt_()),
    "cumsum_": ("cumsum_", lambda h: h.clone().cumsum_(1)),
    "cumprod_": ("cumprod_", lambda h: h.clone().cumprod_(1)),
    "addcmul_": ("addcmul_", lambda h: h.clone().addcmul_(h, h)),
    "addcdiv_": ("addcdiv_", lambda h: h.clone().addcdiv_(h, 2 + h.square())),
    "copy_": ("copy_", lambda h: torch.zeros_like(h).copy_(h)),
    "masked_scatter_": (
        "masked_scatter_",
        lambda h: torch.zeros_like(h).masked_scatter_(h > 0, h),
    ),
    "index_put_": (
        "index_put_",
        lambda h: torch.ones_like(h).index_put_((INDEX,), h, accumulate=True),
    ),
    "lerp_": ("lerp_", lambda h: h.clone().lerp_(torch.ones_like(h), 0.3)),
    "clamp_": ("clamp_", lambda h: h.clone().clamp_(-0.5, 0.5)),
    "erfinv_": ("erfinv_", lambda h: h.tanh().erfinv_()),
    "addmm_": ("addmm_", lambda h: torch.ones_like(h).addmm_(h @ h.t(), h)),
    "tril_": ("tril_", lambda h: h.clone().tril_()),
    "renorm_": ("renorm_", lambda h: h.clone().renorm_(2, 0, 1.0)),
    "digamma_": ("digamma_", lambda h: h.abs().add_(1).digamma_()),
    "logit_": ("logit_", lambda h: h.sigmoid().logit_()),
    "mvlgamma_": ("mvlgamma_", lambda h: h.abs().add_(3).mvlgamma_(2)),
    "scatter_reduce_": (
        "scatter_reduce_",
        lambda h: torch.ones_like(h).scatter_reduce_(0, INDEX[:, None].expand(h.shape), h, "prod"),
    ),
    "bernoulli": ("bernoulli", lambda h: h * torch.bernoulli(torch.full_like(h, 0.5))),
    "matmul": ("mm", lambda h: h @ h.t() @ h),
    "rrelu": ("rrelu_with_noise", lambda h: F.rrelu(h, training=True)),
    "gumbel_softmax": ("exponential_", F.gumbel_softmax),
    "alpha_dropout": ("bernoulli_", lambda h: F.alpha_dropout(h, 0.5, True)),
}


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
@pytest.mark.parametrize("name", ONCE)
def test_an_operation_runs_once(name: str, strict: bool) -> None:
    kernel, function = ONCE[name]
    model = Network([lambda s, h, g, x: function(h)], True, 7)
    torch.manual_seed(3)
    with Count() as plain:
        want = model(inputs()).detach()
    state = torch.get_rng_state()
    torch.manual_seed(3)
    with Count() as counted, lfp.feedback(0.1, strict=strict):
        outputs = model(inputs())
    assert plain.calls[kernel] > 0
    assert counted.calls[kernel] == plain.calls[kernel]
    assert torch.equal(outputs, want)
    assert torch.equal(torch.get_rng_state(), state)


class Calls(TorchFunctionMode):
    """Counts calls of torch that reach torch itself."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run a call."""
        self.calls[getattr(func, "__name__", "")] += 1
        return func(*args, **(kwargs or {}))


def test_a_function_mode_outside_sees_every_call_once() -> None:
    model = Network(
        [FUNCTIONS["rms_norm"][1], FUNCTIONS["silu"][1], layer(MADE["noisy"], USED["@"])], True, 5
    )
    with Calls() as plain:
        model(inputs())
    with Calls() as counted, lfp.feedback(0.1):
        model(inputs())
    for name in ("matmul", "rsqrt", "sigmoid", "mean", "pow"):
        assert counted.calls[name] == plain.calls[name] > 0, name


# --- a fault is noticed ---------------------------------------------------------------------------


def test_a_noisy_weight_that_counts_as_an_activation_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    networks = [Network([layer(MADE["noisy"], USED[use])], True, 5) for use in ("F.linear", "@")]
    right = [feedback_of(network, inputs(), 0.1) for network in networks]
    assert distance(*right) <= TOLERANCE
    known = calls.known

    def wrong(context: calls.Context, tensor: Tensor) -> marks.Mark | None:
        mark = known(context, tensor)
        made = mark is not None and mark.kind == "weight" and mark.scaled
        return marks.ACTIVATION if made else mark

    monkeypatch.setattr(calls, "known", wrong)  # what products ask, and F.linear does not
    faulty = [feedback_of(network, inputs(), 0.1) for network in networks]
    assert distance(*faulty) > 0.1
