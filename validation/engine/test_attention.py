"""Transformers: the rules of attention against the oracle, against autograd, and unmodified models.

Theorem 1 does not hold where a reward is shared evenly between two factors. What holds at epsilon 0
is the chain rule with a half at each product (:func:`halved_attention`).
"""

import math
from collections.abc import Callable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import (
    MaxVit,
    SwinTransformer,
    VisionTransformer,
    efficientnet_b0,
    regnet_y_400mf,
)
from torchvision.ops import SqueezeExcitation

import lfp_core as lfp
from benchmarks.costs.memory import peak_bytes
from lfp_core import attention as fused
from lfp_core import composed, operations
from lfp_core.attention import Scores
from lfp_core.marks import ACTIVATION, mark_of, marked, used
from lfp_core.propagation import Attention as Treatment
from lfp_core.propagation import Gates
from lfp_core.sharing import SOFTMAX, product
from lfp_core.slopes import EpsilonShare, Share, share
from validation import oracle
from validation.compare import Feedback, engine_feedback, relative_error, weight_scaled_gradient
from validation.networks import Attention, Residual
from validation.selection import example_of, examples
from validation.strategies import Case, added_mask, causal_mask, epsilons, transformers

TOLERANCE = 1e-9
EPSILON = 0.1
TREATMENTS: tuple[Treatment, ...] = ("uniform", "constant")
TOKENS, FEATURES, HEADS = 3, 4, 2
PRODUCT_SIZE = FEATURES // HEADS
pytestmark = pytest.mark.usefixtures("double")


# --- the oracle -----------------------------------------------------------------------------------


def disagreement(case: Case, epsilon: float, attention: Treatment) -> float | None:
    """Return the relative error against the oracle; None if some sum cancels too far to tell."""
    expected = oracle.run(case.model, case.inputs, lambda _: case.reward, epsilon, attention)
    if expected.condition > 1e5:
        return None
    found = engine_feedback(case.model, case.inputs, lambda _: case.reward, epsilon, attention)
    if attention == "uniform":
        assert set(found) == set(expected.feedback)
    without = {p: 0 * f for p, f in found.items()}  # of queries and keys
    return relative_error(found, {**without, **expected.feedback})


def in_small_parts(patch: pytest.MonkeyPatch) -> None:
    """Let no more scores be computed at a time than there are numbers in the queries."""
    patch.setattr(fused, "LEAST", 1)


@pytest.mark.parametrize("attention", TREATMENTS)
def test_engine_equals_oracle(attention: Treatment, monkeypatch: pytest.MonkeyPatch) -> None:
    in_small_parts(monkeypatch)

    @examples(80)
    @given(transformers(), epsilons())
    def check(case: Case, epsilon: float) -> None:
        error = disagreement(case, epsilon, attention)
        if error is None:
            reject()
        assert error < TOLERANCE

    check()


class Uncentred(torch.autograd.Function):
    """A softmax that hands down ``p G``: the reward of each weight, without what all lose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: D102
        p = x.softmax(dim=-1)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # noqa: D102
        (p,) = ctx.saved_tensors
        return p * g


def uncentred(context: Any, operation: Any, args: Any, kwargs: Any) -> Tensor:
    x = args[0]
    return marked(Uncentred.apply(used(x, mark_of(x))), ACTIVATION)


def whole_epsilon(context: Any, operation: Any, args: Any, kwargs: Any) -> Any:
    output = product(context, operation, args, kwargs)
    return marked(output, ACTIVATION._replace(epsilon=context.epsilon))


def break_half(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Share, "backward", staticmethod(lambda ctx, g: (g, None, None)))


def break_half_of_what_owes(patch: pytest.MonkeyPatch) -> None:
    right = EpsilonShare.backward

    def whole(ctx: Any, g: Tensor) -> Any:
        ctx.factor = 1.0
        return right(ctx, g)

    patch.setattr(EpsilonShare, "backward", staticmethod(whole))


def break_centring(patch: pytest.MonkeyPatch) -> None:
    for operation in SOFTMAX:
        patch.setitem(operations._rules, operation, uncentred)


def break_stabiliser(patch: pytest.MonkeyPatch) -> None:
    for operation in (torch.matmul, Tensor.__matmul__, torch.einsum, torch.bmm):
        patch.setitem(operations._rules, operation, whole_epsilon)


def naive_share(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
    (z,) = ctx.saved_tensors
    return share(z, z, ctx.epsilon, limit=1.0) * g * ctx.factor, None, None, None


def break_mask(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(EpsilonShare, "backward", staticmethod(naive_share))


def break_scores(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fused, "kernels", SimpleNamespace(share=lambda z, g, epsilon, factor: g))


def break_numbers(patch: pytest.MonkeyPatch) -> None:
    right = Scores.__getitem__

    def same(self: Scores, part: Any) -> tuple[Tensor, Tensor]:
        products, scores = right(self, part)
        return (scores, scores) if products is not scores else (products, products.clone())

    patch.setattr(Scores, "__getitem__", same)


def break_gate(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(operations._rules, Tensor.mul, whole_epsilon)


@pytest.mark.parametrize(
    "damage",
    [
        *(break_half, break_half_of_what_owes, break_centring, break_stabiliser),
        *(break_mask, break_gate, break_scores, break_numbers),
    ],
)
def test_a_broken_rule_is_caught(
    monkeypatch: pytest.MonkeyPatch, damage: Callable[[pytest.MonkeyPatch], None]
) -> None:
    damage(monkeypatch)

    def differs(case: Case) -> bool:
        error = disagreement(case, 1e-2, "uniform")
        return error is not None and not error <= TOLERANCE  # NaN, too

    case = example_of(transformers(["silu"]), differs)
    monkeypatch.undo()
    error = disagreement(case, 1e-2, "uniform")
    assert error is not None
    assert error < TOLERANCE


def test_the_oracle_by_hand() -> None:
    """One head of one feature, two tokens, no projection but 1: every number by the formulas."""
    module = Attention(1, 1, "written", bias=False)
    for layer in (module.query, module.key, module.value, module.out):
        layer.weight.data.fill_(1.0)
    a, r, epsilon = (0.5, 2.0), (0.7, -0.3), 0.1
    trace = oracle.run(module, torch.tensor([a]).unsqueeze(-1), lambda o: 0 * o, epsilon)
    r_q, r_k, r_v = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    for i in range(2):
        s = [a[i] * a[j] for j in range(2)]
        p = [math.exp(s[j]) / (math.exp(s[0]) + math.exp(s[1])) for j in range(2)]
        o = p[0] * a[0] + p[1] * a[1]
        assert trace.outputs[0, i, 0] == pytest.approx(o, rel=1e-14)
        r_o = o / (o + epsilon) * r[i]  # the output projection
        r_p = [p[j] * a[j] / (2 * o + epsilon) * r_o for j in range(2)]
        for j in range(2):
            r_v[j] += r_p[j]
            r_x = s[j] * (r_p[j] - p[j] * (r_p[0] + r_p[1]))
            r_q[i] += s[j] / (2 * s[j] + epsilon) * r_x
            r_k[j] += s[j] / (2 * s[j] + epsilon) * r_x
    reward = torch.tensor([r]).unsqueeze(-1)
    trace = oracle.run(module, torch.tensor([a]).unsqueeze(-1), lambda _: reward, epsilon)
    expected = [a[i] / (a[i] + epsilon) * (r_q[i] + r_k[i] + r_v[i]) for i in range(2)]
    assert trace.input_reward.ravel().tolist() == pytest.approx(expected, rel=1e-13)


# --- the chain rule -------------------------------------------------------------------------------


def partly(x: Tensor, part: float) -> Tensor:
    """Return x, of whose gradient only a part arrives."""
    return part * x + (1 - part) * x.detach()


def halved_attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Fused attention with a half at the product with v, and another at that of q and k."""
    return FUSED(partly(q, 0.25), partly(k, 0.25), partly(v, 0.5), *args, **kwargs)


def constant_attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Fused attention whose weights are constants."""
    return FUSED(q.detach(), k.detach(), v, *args, **kwargs)


FUSED = F.scaled_dot_product_attention
REFERENCES = {"uniform": halved_attention, "constant": constant_attention}


def encoder(**options: Any) -> Callable[[], nn.TransformerEncoderLayer]:
    """Return a maker of torch's own encoder layer."""
    return lambda: nn.TransformerEncoderLayer(
        FEATURES, HEADS, 5, dropout=0.0, batch_first=True, **options
    )


def vision_transformer() -> nn.Module:
    """Return torchvision's ViT, as it is but small, with ReLU for GELU and nothing at zero."""
    model = VisionTransformer(32, 8, 2, 2, hidden_dim=16, mlp_dim=32, num_classes=3)
    for block in model.encoder.layers:
        block.mlp[1] = nn.ReLU()
    return awake(model)


def arrived(gradient: Tensor | None) -> Tensor:
    """Return the gradient, which must be there."""
    assert gradient is not None
    return gradient


def awake(model: nn.Module) -> nn.Module:
    """Give what starts at zero, and so would stay there, other values."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


#: Models that end in fused attention, and the shape of a batch for them.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "encoder layer": (encoder(), (2, TOKENS, FEATURES)),
    "encoder layer, norm first": (encoder(norm_first=True), (2, TOKENS, FEATURES)),
    "encoder layer without bias": (encoder(bias=False), (2, TOKENS, FEATURES)),
    "encoder": (
        lambda: nn.TransformerEncoder(encoder()(), 2, enable_nested_tensor=False),
        (2, TOKENS, FEATURES),
    ),
    "vision transformer": (vision_transformer, (2, 3, 32, 32)),
}


def error_of_chain_rule(
    model: nn.Module,
    inputs: Tensor,
    attention: Treatment,
    monkeypatch: pytest.MonkeyPatch,
    reference: Callable[..., Tensor],
) -> float:
    """Return how far LFP-0 is from |w| times autograd's gradient through the reference."""
    push = torch.randn_like(model(inputs))
    found = engine_feedback(model, inputs, lambda o: push * o.detach(), 0.0, attention)
    monkeypatch.setattr(F, "scaled_dot_product_attention", reference)
    loss = -(push * model(inputs)).sum()
    return relative_error(found, weight_scaled_gradient(model, loss))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("attention", TREATMENTS)
@pytest.mark.parametrize("name", MODELS)
def test_unmodified_model_obeys_the_chain_rule_with_halves(
    name: str, attention: Treatment, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, shape = MODELS[name]
    model = awake(build()).train(training)
    reference = REFERENCES[attention]
    error = error_of_chain_rule(model, torch.randn(shape), attention, monkeypatch, reference)
    assert error < TOLERANCE


@pytest.mark.parametrize("attention", TREATMENTS)
def test_the_plain_chain_rule_is_another(
    attention: Treatment, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = awake(encoder()()).train(), torch.randn(2, TOKENS, FEATURES)
    assert error_of_chain_rule(model, inputs, attention, monkeypatch, FUSED) > 0.1


def packed_twin() -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    """Return multi-head attention with packed projections, and the same with separate ones."""
    packed = nn.MultiheadAttention(FEATURES, HEADS, batch_first=True)
    nn.init.normal_(packed.in_proj_bias)
    separate = nn.MultiheadAttention(FEATURES, HEADS, kdim=FEATURES, batch_first=True)
    separate._qkv_same_embed_dim = False
    parts = packed.in_proj_weight.detach().chunk(3)
    for name, part in zip(("q", "k", "v"), parts, strict=True):
        setattr(separate, f"{name}_proj_weight", nn.Parameter(part.clone()))
    separate.register_parameter("in_proj_weight", None)
    separate.in_proj_bias = nn.Parameter(packed.in_proj_bias.detach().clone())
    separate.out_proj = deepcopy(packed.out_proj)
    return packed, separate


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("crossed", [True, False], ids=["cross", "self"])
def test_packed_projections_get_the_feedback_of_separate_ones(
    crossed: bool, need_weights: bool
) -> None:
    x = torch.randn(2, TOKENS, FEATURES)
    y = torch.randn(2, TOKENS + 2, FEATURES) if crossed else x
    found = []
    for module in packed_twin():
        with lfp.feedback(EPSILON):
            outputs, _ = module(x, y, y, need_weights=need_weights)
        lfp.backward(outputs, outputs.detach().cos())
        found.append(module)
    packed, separate = found
    parts = [arrived(separate.get_parameter(f"{name}_proj_weight").grad) for name in "qkv"]
    together = arrived(packed.in_proj_weight.grad)
    torch.testing.assert_close(together, torch.cat(parts), rtol=1e-12, atol=0)
    for name in ("in_proj_bias", "out_proj.weight", "out_proj.bias"):
        both = [module.get_parameter(name).grad for module in found]
        torch.testing.assert_close(*both, rtol=1e-12, atol=1e-15)


def test_swin_transformer_runs_unmodified() -> None:
    """Its shifted windows are masked, and its position biases are gathered from a table."""
    model = awake(SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2], num_classes=3)).eval()
    found = engine_feedback(model, torch.randn(1, 3, 16, 16), lambda o: o.detach(), 1e-6)
    assert all(value.isfinite().all() and value.any() for value in found.values())


#: Models that multiply channels by what they compute of them (squeeze and excitation).
GATED: dict[str, Callable[[], nn.Module]] = {
    "efficientnet": lambda: efficientnet_b0(num_classes=3),
    "regnet": lambda: regnet_y_400mf(num_classes=3),
    "maxvit": lambda: MaxVit((32, 32), 8, 4, [8, 8], [1, 1], 8, 0.0, num_classes=3),
}


@pytest.mark.parametrize("gates", ["signal", "uniform"])
@pytest.mark.parametrize("name", GATED)
def test_gated_model_runs_unmodified(name: str, gates: Gates) -> None:
    """Of what computes a gate, nothing learns if all of the reward goes to what it scales."""
    model = awake(GATED[name]()).eval()
    inputs = torch.randn(1, 3, 32, 32)
    found = engine_feedback(model, inputs, lambda o: o.detach(), 1e-6, gates=gates)
    gating = [m for m in model.modules() if isinstance(m, SqueezeExcitation)]
    of_gates = {id(p) for module in gating for p in module.parameters()}
    assert gating
    assert len(found) == len(list(model.parameters()))
    for parameter, value in found.items():
        assert value.isfinite().all()
        assert bool(value.any()) is (gates == "uniform" or id(parameter) not in of_gates)


def computed(*shape: int) -> Tensor:
    """Return an activation, of which `grad` will be what arrives there; call it in a context.

    What an operation shares out goes to activations, and a plain tensor is none.
    """
    layer = nn.Linear(1, math.prod(shape))
    made = lfp.activation(layer(torch.randn(1, 1)).view(shape))
    made.retain_grad()
    return made


# --- fused attention ------------------------------------------------------------------------------

FUSED_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "boolean mask": {"attn_mask": causal_mask(TOKENS)},
    "added mask": {"attn_mask": added_mask(TOKENS)},
    "scale": {"scale": 0.3},
    "grouped heads": {"enable_gqa": True},
    "a row without any token": {"attn_mask": causal_mask(TOKENS).roll(1, 0) & False},
}


@pytest.mark.parametrize("name", FUSED_OPTIONS)
def test_fused_attention_is_torchs_and_obeys_the_chain_rule(name: str) -> None:
    options = FUSED_OPTIONS[name]
    heads = [4, 2, 2] if name == "grouped heads" else [2, 2, 2]
    queries = TOKENS + 1 if name == "causal" else TOKENS
    with lfp.feedback(0):
        q, k, v = (
            computed(3, h, n, PRODUCT_SIZE)
            for h, n in zip(heads, (queries, TOKENS, TOKENS), strict=True)
        )
        outputs = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(outputs, FUSED(q, k, v, **options), rtol=1e-12, atol=1e-14)
    push = torch.randn_like(outputs)
    lfp.backward(outputs, -push * outputs.detach())
    leaves = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
    expected = torch.autograd.grad((push * halved_attention(*leaves, **options)).sum(), leaves)
    for tensor, gradient in zip((q, k, v), expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-10, atol=1e-14)


Asked = tuple[list[tuple[int, ...]], dict[str, Any]]


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """Draw the shapes of queries, keys and values, and other arguments of fused attention."""
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    queries, keys = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    sizes = [(queries, 3), (keys, 3), (keys, draw(st.integers(1, 4)))]
    shapes = [(*batch, *size) for size in sizes]
    options: dict[str, Any] = {"scale": draw(st.sampled_from([None, 0.0, -0.4, 1.5]))}
    if draw(st.booleans()) and len(batch) > 1:  # which values and keys share
        shapes[1:] = [(1, *shape[1:]) for shape in shapes[1:]]
    if draw(st.booleans()) and batch:
        shapes[0] = (*batch[:-1], 2 * batch[-1], *sizes[0])
        options["enable_gqa"] = True
    kind = draw(st.sampled_from(["", "causal", "booleans", "numbers"]))
    if kind == "causal":
        options["is_causal"] = True
    elif kind:
        of_batch = tuple(draw(st.sampled_from([1, n])) for n in shapes[0][:-2])
        numbers = torch.randn(*draw(st.sampled_from([(), of_batch])), queries, keys)
        options["attn_mask"] = numbers > 0 if kind == "booleans" else numbers
    # What is drawn is the same, unless parts come in another order.
    options["dropout_p"] = draw(st.sampled_from([0.0, 0.0, 0.4])) if kind != "causal" else 0.0
    return shapes, options


def arrived_through_attention(drawn: Asked, epsilon: float, attention: Treatment) -> list[Tensor]:
    """Return the output of fused attention, and what arrives at queries, keys and values."""
    shapes, options = drawn
    torch.manual_seed(0)
    with lfp.feedback(epsilon, attention=attention):
        query, key, value = operands = [computed(*shape) for shape in shapes]
        outputs = F.scaled_dot_product_attention(query, key, value, **options)
    lfp.backward(outputs, torch.randn_like(outputs))
    return [outputs.detach(), *(torch.zeros(()) if t.grad is None else t.grad for t in operands)]


def distance_to_operations(drawn: Asked, epsilon: float, attention: Treatment) -> float:
    """Return how far fused attention is from the operations in it, run one by one."""
    found = arrived_through_attention(drawn, epsilon, attention)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_fused", lambda *args, **kwargs: None)
        expected = arrived_through_attention(drawn, epsilon, attention)
    norms = [float(tensor.norm()) for tensor in expected]
    return max(
        float((a - b).norm()) / (max(norm, 1e-6 * max(norms)) or 1.0)
        for a, b, norm in zip(found, expected, norms, strict=True)
    )


@pytest.mark.parametrize("attention", TREATMENTS)
def test_fused_attention_is_the_operations_in_it(
    attention: Treatment, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_small_parts(monkeypatch)

    @examples(60)
    @given(asked(), st.sampled_from([0.0, 1e-6, EPSILON]))
    def check(drawn: Asked, epsilon: float) -> None:
        assert distance_to_operations(drawn, epsilon, attention) < TOLERANCE

    check()


def break_heads(patch: pytest.MonkeyPatch) -> None:
    right = Scores._mask_of

    def of_the_first(self: Scores, mask: Tensor, heads: slice, rows: slice) -> Tensor:
        return right(self, mask, slice(0, heads.stop - heads.start), rows)

    patch.setattr(Scores, "_mask_of", of_the_first)


@pytest.mark.parametrize("damage", [break_scores, break_numbers, break_heads])
def test_a_part_that_is_wrong_is_noticed(
    damage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_small_parts(monkeypatch)
    damage(monkeypatch)
    example_of(
        asked(),
        lambda drawn: distance_to_operations(drawn, EPSILON, "uniform") > TOLERANCE,
        tries=1000,
    )


#: What queries, keys and values may be.
SOURCES: dict[str, Callable[["Mixed", int, Tensor], Tensor]] = {
    "a layer's output": lambda m, i, x: m.layers[i](x),
    "an activation": lambda m, i, x: m.layers[i](x).tanh(),
    "the same as another": lambda m, i, x: m.shared,
    "a parameter": lambda m, i, x: m.weights[i],
    "made of a parameter": lambda m, i, x: m.weights[i] * m.constant,
    "data": lambda m, i, x: x,
    "a constant": lambda m, i, x: m.constant,
    "frozen": lambda m, i, x: m.frozen(x),
    "a gate": lambda m, i, x: m.layers[i](x).sigmoid(),
    "a power": lambda m, i, x: m.layers[i](x).square(),
}
#: What is added to the scores, or where it is not.
MASKS: dict[str, Callable[["Mixed", Tensor], Tensor | None]] = {
    "none": lambda m, x: None,
    "booleans": lambda m, x: m.constant[0] @ m.constant[0].T > -1,
    "numbers": lambda m, x: m.constant[0] @ m.constant[0].T,
    "a parameter": lambda m, x: m.bias,
    "data": lambda m, x: x @ m.constant[0].T,
    "an activation": lambda m, x: m.layers[0](x) @ m.constant[0].T,
}


class Mixed(nn.Module):
    """Fused attention of queries, keys and values from :data:`SOURCES`, with one of the masks."""

    layers: nn.ModuleList
    weights: nn.ParameterList
    bias: nn.Parameter
    frozen: nn.Linear
    constant: Tensor
    shared: Tensor

    def __init__(self, sources: list[str], mask: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sources, self.mask = sources, mask
        self.layers = nn.ModuleList(nn.Linear(FEATURES, FEATURES) for _ in range(4))
        self.frozen = nn.Linear(FEATURES, FEATURES).requires_grad_(False)
        self.weights = nn.ParameterList(torch.randn(2, TOKENS, FEATURES) for _ in range(3))
        self.bias, self.out = nn.Parameter(torch.randn(TOKENS, TOKENS)), nn.Linear(FEATURES, 2)
        self.register_buffer("constant", torch.randn(2, TOKENS, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        """Transform x (2, tokens, features)."""
        self.shared = self.layers[3](x)
        query, key, value = (SOURCES[name](self, i, x) for i, name in enumerate(self.sources))
        mask = MASKS[self.mask](self, x)
        return self.out(F.scaled_dot_product_attention(query, key, value, mask))


def feedback_or_refusal(model: nn.Module, inputs: Tensor, **options: Any) -> Feedback | str:
    """Return the feedback of a model, or why there is none."""
    try:
        return engine_feedback(model, inputs, lambda o: o.detach().cos(), **options)
    except (lfp.UnsupportedOperation, ValueError) as error:
        return str(error).partition(" [")[0]


@pytest.mark.parametrize("attention", TREATMENTS)
def test_whatever_meets_in_fused_attention_is_shared_as_by_its_operations(
    attention: Treatment, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_small_parts(monkeypatch)
    right = fused._fused

    @examples(100)
    @given(
        st.lists(st.sampled_from(sorted(SOURCES)), min_size=3, max_size=3),
        st.sampled_from(sorted(MASKS)),
        st.sampled_from([0.0, 1e-4, EPSILON]),
        st.sampled_from(["signal", "uniform"]),
    )
    def check(sources: list[str], mask: str, epsilon: float, gates: Gates) -> None:
        model, inputs = Mixed(sources, mask), torch.randn(2, TOKENS, FEATURES)
        options: dict[str, Any] = {"epsilon": epsilon, "attention": attention, "gates": gates}
        monkeypatch.setattr(fused, "_fused", right)
        found = feedback_or_refusal(model, inputs, **options)
        monkeypatch.setattr(fused, "_fused", lambda *args, **kwargs: None)
        expected = feedback_or_refusal(model, inputs, **options)
        if isinstance(found, str) or isinstance(expected, str):
            assert found == expected
        else:
            assert relative_error(found, expected) < TOLERANCE

    check()


def peak_of_attention(tokens: int, fuses: bool, epsilon: float, attention: Treatment) -> int:
    """Return the bytes that a forward and a backward pass of one head take at most."""
    layer = nn.Linear(4, 12)
    x = torch.randn(1, 1, tokens, 4)

    def work() -> None:
        with lfp.feedback(epsilon, attention=attention):
            query, key, value = layer(x).chunk(3, -1)
            outputs = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        lfp.backward(outputs, torch.ones_like(outputs))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "LEAST", 2**13)
        if not fuses:
            patch.setattr(fused, "_fused", lambda *args, **kwargs: None)
        return peak_bytes(work, torch.device("cpu"))


@pytest.mark.parametrize(
    ("epsilon", "attention"), [(EPSILON, "uniform"), (0.0, "uniform"), (EPSILON, "constant")]
)
def test_scores_are_never_held(epsilon: float, attention: Treatment) -> None:
    """Twice as many tokens take twice as much, where their scores take four times as much."""
    small, large = (peak_of_attention(n, True, epsilon, attention) for n in (256, 512))
    assert large < 2.2 * small
    assert large < 512 * 512 * 8 / 2
    assert peak_of_attention(512, False, epsilon, attention) > 512 * 512 * 8


def test_dropout_within_fused_attention_drops() -> None:
    q, k, v = (torch.randn(1, 1, 8, 2, requires_grad=True) for _ in range(3))
    with lfp.feedback(EPSILON):
        assert not F.scaled_dot_product_attention(q, k, v, dropout_p=1.0).any()
        kept = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    assert kept.any()
    assert not torch.allclose(kept, FUSED(q, k, v))


def test_mask_and_causality_together_are_refused() -> None:
    q = torch.randn(1, 1, TOKENS, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="attn_mask or is_causal, not both"), lfp.feedback():
        F.scaled_dot_product_attention(q, q, q, attn_mask=causal_mask(TOKENS), is_causal=True)


# --- gates ----------------------------------------------------------------------------------------

GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "*": lambda g, v: g * v,
    "mul": torch.mul,
    "multiply": Tensor.multiply,
}


@pytest.mark.parametrize("name", GATES)
def test_a_gate_shares_the_reward_evenly_and_keeps_none(name: str) -> None:
    with lfp.feedback(EPSILON):
        g, v = computed(2, 5), computed(2, 5)
        outputs = GATES[name](g, v)
    reward = torch.rand_like(outputs)
    lfp.backward(outputs, reward)
    for factor in (g, v):
        torch.testing.assert_close(-factor.detach() * arrived(factor.grad), reward / 2)


def test_a_square_takes_all_of_its_reward() -> None:
    with lfp.feedback(EPSILON):
        x = computed(2, 5)
        outputs = x * x
    reward = torch.rand_like(outputs)
    lfp.backward(outputs, reward)
    torch.testing.assert_close(-x.detach() * arrived(x.grad), reward)


@pytest.mark.parametrize("gates", ["signal", "uniform"])
def test_silu_by_hand_is_silu(gates: Gates) -> None:
    """Both halves of the reward come back together at z, and so does all of the signal's."""
    layers = nn.Linear(FEATURES, 5), nn.Linear(5, 3)
    x, push = torch.randn(2, FEATURES), torch.randn(2, 3)

    def run(silu: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with lfp.feedback(EPSILON, gates=gates):
            outputs = layers[1](silu(layers[0](x)))
        lfp.backward(outputs, push)
        found = [arrived(p.grad) for layer in layers for p in layer.parameters()]
        for layer in layers:
            layer.zero_grad()
        return found

    torch.testing.assert_close(run(lambda z: z * z.sigmoid()), run(F.silu), rtol=1e-12, atol=0)


# --- masks ----------------------------------------------------------------------------------------

MASKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "masked_fill": lambda s, seen: s.masked_fill(~seen, -math.inf),
    "masked_fill in place": lambda s, seen: s.masked_fill_(~seen, -math.inf),
    "where": lambda s, seen: torch.where(seen, s, -math.inf),
    "added": lambda s, seen: s + torch.zeros(seen.shape).masked_fill(~seen, -math.inf),
    "added, then scaled": lambda s, seen: (
        (s + torch.zeros(seen.shape).masked_fill(~seen, -math.inf)) * 0.5
    ),
    "added, finite": lambda s, seen: (
        s + torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(s.dtype).min)
    ),
}


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("name", MASKED)
def test_masked_tokens_get_no_reward_and_no_nan(name: str, scaled: bool) -> None:
    """The last token looks at all, the first at itself alone; the first is rewarded."""
    seen = causal_mask(TOKENS)
    tokens = torch.randn(1, TOKENS, FEATURES, requires_grad=True)
    layers = [nn.Linear(FEATURES, FEATURES) for _ in range(3)]
    with lfp.feedback(EPSILON):
        q, k, v = (layer(tokens) for layer in layers)
        scores = q @ k.mT / 2 if scaled else q @ k.mT
        outputs = MASKED[name](scores, seen).softmax(-1) @ v
    reward = torch.zeros_like(outputs)
    reward[:, 0] = 1.0
    lfp.backward(outputs, reward)
    gradient = arrived(tokens.grad)
    assert gradient[:, 0].all()
    assert not gradient[:, 1:].any()
    assert all(arrived(layer.weight.grad).isfinite().all() for layer in layers)


# --- conservation ---------------------------------------------------------------------------------


def rewards_of_factors(epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return a reward on A B, and what of it arrived at A and at B."""
    with lfp.feedback(epsilon):
        a, b = computed(2, 3, 4), computed(2, 4, 5)
        outputs = a @ b
    reward = torch.rand_like(outputs)
    lfp.backward(outputs, reward)
    to_a, to_b = ((-factor * arrived(factor.grad)).detach().sum((1, 2)) for factor in (a, b))
    return reward.sum((1, 2)), to_a, to_b


def test_a_product_shares_its_reward_evenly_and_keeps_nothing() -> None:
    reward, to_a, to_b = rewards_of_factors(0.0)
    torch.testing.assert_close(to_a, reward / 2)
    torch.testing.assert_close(to_b, reward / 2)


def test_the_stabiliser_of_a_product_keeps_reward() -> None:
    reward, to_a, to_b = rewards_of_factors(EPSILON)
    torch.testing.assert_close(to_a, to_b)
    assert ((reward - to_a - to_b).abs() > 1e-3).all()


def lost_reward(attention: Treatment) -> float:
    """Return which part of the reward is lost in a transformer without biases at epsilon 0."""
    body = nn.Sequential(
        nn.Linear(FEATURES, 6, bias=False), nn.SiLU(), nn.Linear(6, FEATURES, False)
    )
    attend = Attention(FEATURES, HEADS, "fused", causal_mask(TOKENS), bias=False)
    model = nn.Sequential(Residual(attend), Residual(body))
    inputs = torch.randn(2, TOKENS, FEATURES, requires_grad=True)
    with lfp.feedback(0, attention=attention):
        outputs = model(inputs)
    reward = torch.rand_like(outputs)
    lfp.backward(outputs, reward)
    return abs(1 + float((inputs.detach() * arrived(inputs.grad)).sum() / reward.sum()))


def test_constant_attention_conserves_reward() -> None:
    assert lost_reward("constant") < 1e-12


def test_the_softmax_of_uniform_attention_does_not() -> None:
    assert lost_reward("uniform") > 0.01


def test_queries_and_keys_learn_under_uniform_attention_alone() -> None:
    model = Attention(FEATURES, HEADS, "fused")
    for attention in TREATMENTS:
        learns = attention == "uniform"
        inputs = torch.randn(2, TOKENS, FEATURES)
        found = engine_feedback(model, inputs, lambda o: o.detach(), EPSILON, attention)
        assert found[model.value.weight].any()
        assert bool(found[model.query.weight].any()) is learns
        assert bool(found[model.key.weight].any()) is learns


# --- what else can go wrong -----------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["", "Uniform", "gradient", None, 1])
def test_wrong_attention_raises_value_error_that_shows_it(attention: Any) -> None:
    with pytest.raises(ValueError, match=f"'uniform' or 'constant', not {attention!r}"):
        lfp.feedback(attention=attention)


@pytest.mark.parametrize(
    "make",
    [lambda weight, mask: weight * mask, lambda weight, mask: weight[mask[0].nonzero()[:, 0]]],
)
def test_what_is_made_of_a_weight_and_constants_is_a_weight(
    make: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """A masked weight gets all of a reward, a factor that was computed half of it."""
    weight, mask = nn.Parameter(torch.randn(4, 4)), torch.tensor([[1, 0, 1, 1]] * 4).bool()

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.weight = nn.Linear(4, 4), weight
            self.register_buffer("mask", mask)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) @ make(self.weight, mask).t()

    model, x, push = Masked(), torch.randn(2, 4), torch.randn(2, make(weight, mask).shape[0])
    found = engine_feedback(model, x, lambda o: -push * o.detach(), 0.0)
    assert relative_error(found, weight_scaled_gradient(model, (push * model(x)).sum())) < TOLERANCE


def test_a_product_with_what_may_be_a_weight_is_refused() -> None:
    """Outside of a module any tensor may be data, and what a parameter makes of it either."""
    layer, weight = nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4))
    x, mask = torch.randn(2, 4), torch.rand(4, 4)
    with lfp.feedback():
        outputs = layer(x) @ (weight * mask).t()
    with pytest.raises(lfp.UnsupportedOperation, match="may be a weight"):
        lfp.backward(outputs, outputs.detach())
    with lfp.feedback():
        outputs = layer(x) @ lfp.weight(weight * mask).t()
    lfp.backward(outputs, outputs.detach())
    assert arrived(weight.grad).any()


class Block(nn.Module):
    """Pre-norm causal attention with packed projections, as in a GPT."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.norm, self.project = nn.LayerNorm(FEATURES), nn.Linear(FEATURES, 3 * FEATURES)
        self.out = nn.Linear(FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x (batch, tokens, features)."""
        packed = self.project(self.norm(x)).view(*x.shape[:2], 3, HEADS, PRODUCT_SIZE)
        q, k, v = packed.transpose(1, 3).unbind(2)
        if self.fused:
            looked_at = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            blocked = ~causal_mask(TOKENS)
            looked_at = (q @ k.transpose(-2, -1) * 0.5).masked_fill(blocked, -math.inf).softmax(
                -1
            ) @ v
        return x + self.out(looked_at.transpose(1, 2).flatten(2))


@pytest.mark.gpu
@pytest.mark.parametrize("epsilon", [0.0, EPSILON])
@pytest.mark.parametrize("attention", TREATMENTS)
def test_a_gpu_gives_the_feedback_of_the_cpu(attention: Treatment, epsilon: float) -> None:
    model, inputs = Block(fused=True), torch.randn(2, TOKENS, FEATURES)
    here, there = model, deepcopy(model).cuda()
    expected = engine_feedback(here, inputs, lambda o: o.detach().cos(), epsilon, attention)
    found = engine_feedback(there, inputs.cuda(), lambda o: o.detach().cos(), epsilon, attention)
    pairs = zip(here.parameters(), there.parameters(), strict=True)
    assert relative_error({p: found[q].cpu() for p, q in pairs}, expected) < TOLERANCE


def compiled_agrees(
    network: Callable[[Tensor], Tensor],
    layers: nn.Module,
    shape: tuple[int, ...],
    attention: Treatment,
) -> None:
    """Assert that a network of these layers, in a single graph, has the feedback it has without."""

    def forward(x: Tensor) -> Tensor:
        with lfp.feedback(EPSILON, attention=attention):
            return network(x)

    inputs, found = torch.randn(shape), list[Feedback]()
    torch.compiler.reset()
    for run in (forward, torch.compile(forward, backend="aot_eager", fullgraph=True)):
        layers.zero_grad()
        outputs = run(inputs)
        lfp.backward(outputs, outputs.detach().cos())
        found.append({p: -p.grad for p in layers.parameters() if p.grad is not None})
    torch.compiler.reset()
    assert relative_error(*found) < 1e-12


@pytest.mark.parametrize(
    ("fused", "attention"),
    [
        (True, "uniform"),
        pytest.param(True, "constant", marks=pytest.mark.thorough),
        pytest.param(False, "constant", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.compiled
def test_compiled_attention_gives_the_feedback_of_eager(fused: bool, attention: Treatment) -> None:
    model = Block(fused)
    compiled_agrees(model, model, (2, TOKENS, FEATURES), attention)


@pytest.mark.parametrize("weights", [True, False], ids=["with weights", "fused"])
@pytest.mark.compiled
def test_compiled_multihead_attention_gives_the_feedback_of_eager(weights: bool) -> None:
    layer = awake(nn.MultiheadAttention(FEATURES, HEADS, batch_first=True))
    compiled_agrees(
        lambda x: layer(x, x, x, need_weights=weights)[0], layer, (2, TOKENS, FEATURES), "uniform"
    )


@pytest.mark.compiled
@pytest.mark.thorough  # of what it consists of, attention by heads is compiled above
def test_compiled_vision_transformer_gives_the_feedback_of_eager() -> None:
    model = vision_transformer().eval()
    compiled_agrees(model, model, (2, 3, 32, 32), "uniform")


def test_causal_attention_needs_no_heads() -> None:
    query, key, value = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    for shape in ((2, 5, 4), (1, 2, 5, 4)):
        q, k, v = (t.view(shape) for t in (query, key, value))
        found = composed.attend(q, k, v, is_causal=True)
        expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.testing.assert_close(found, expected)


def test_queries_share_keys_in_groups() -> None:
    query = torch.randn(1, 6, 5, 4, dtype=torch.float64)
    key, value = torch.randn(2, 1, 2, 5, 4, dtype=torch.float64)
    found = composed.attend(query, key, value, enable_gqa=True)
    expected = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    torch.testing.assert_close(found, expected)
