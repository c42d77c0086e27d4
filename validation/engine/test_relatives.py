"""The close relatives of LFP: feedback alignment, exponentiated gradient, multiplicative Adam."""

import copy
import math
from collections.abc import Callable
from functools import partial
from statistics import mean
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import lfp_core as lfp
from baselines import LFP, SGD, LFPSettings, Settings, Trainer
from baselines.eg import ExponentiatedGradient
from baselines.fa import FeedbackAlignment
from baselines.madam import Madam
from baselines.trainer import DescentTrainer

# Of torch, about what is old, and about a convolution that pads on one side.
pytestmark = pytest.mark.filterwarnings("ignore:.*(deprecated|padding='same')")
PLAIN = LFPSettings(learning_rate=0.1, momentum=0.0, clip_norm=None, epsilon=0.0)


def dense(first: int = 12, second: int = 9) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(6, first), nn.Tanh(), nn.Linear(first, second), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(second, 3)).double()


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.ZeroPad2d(2),
        nn.Conv2d(1, 4, 3, padding=1, stride=(1, 2)),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()


NETWORKS = pytest.mark.parametrize("network", [dense(), convolutional()], ids=["dense", "conv"])


def problem(size: int = 60) -> tuple[Tensor, Tensor]:
    """Return inputs (size, 6) and the classes a random linear map gives them."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(size, 6, generator=random, dtype=torch.float64)
    return x, (x @ torch.randn(6, 3, generator=random, dtype=torch.float64)).argmax(dim=1)


def weights_of(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def gradients_of(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def backpropagated(model: nn.Module) -> Tensor:
    """Return the gradient of the cross-entropy on the problem."""
    x, targets = problem()
    gradients = torch.autograd.grad(F.cross_entropy(model(x), targets), list(model.parameters()))
    return torch.cat([g.flatten() for g in gradients])


def cosine(a: Tensor, b: Tensor) -> float:
    return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def one_step(method: type[Trainer], model: nn.Module, settings: Settings = PLAIN) -> Tensor:
    """Return all parameters after a step from the model's state, which is put back."""
    start = weights_of(model)
    method(model, settings).step(*problem())
    end = weights_of(model)
    nn.utils.vector_to_parameters(start.clone(), model.parameters())
    return end


# --- feedback alignment ---------------------------------------------------------------------------


def test_the_gradients_of_feedback_alignment_are_its_definition() -> None:
    model, (x, targets) = dense(), problem()
    method = FeedbackAlignment(model, PLAIN)
    assert list(method.feedback) == ["0.weight", "2.weight", "4.weight"]
    feedback = list(method.feedback.values())
    method.step(x, targets)
    found = gradients_of(model)

    model = dense()
    h1 = model[1](model[0](x))
    z2 = model[2](h1)
    h2 = model[3](z2)
    error = (model[4](h2).softmax(dim=1) - F.one_hot(targets)) / len(x)
    d2 = (error @ feedback[2]) * (z2 > 0)
    d1 = (d2 @ feedback[1]) * (1 - h1**2)
    expected = [d1.T @ x, d1.sum(0), d2.T @ h1, d2.sum(0), error.T @ h2, error.sum(0)]
    assert torch.allclose(found, torch.cat([g.flatten() for g in expected]), rtol=1e-10)
    assert feedback[0].shape == model[0].weight.shape


@NETWORKS
def test_it_is_backpropagation_where_the_feedback_is_the_weights(network: nn.Sequential) -> None:
    expected = backpropagated(network)
    torch.manual_seed(0)
    method = FeedbackAlignment(network, PLAIN)
    method.fill_gradients(*problem())
    assert cosine(gradients_of(network), expected) < 0.9
    network.zero_grad()
    method.feedback = {w: network.get_parameter(w).detach().clone() for w in method.feedback}
    method.fill_gradients(*problem())
    assert torch.allclose(gradients_of(network), expected, rtol=1e-10)
    network.zero_grad()


@NETWORKS
def test_no_error_passes_through_the_transposed_weights(network: nn.Sequential) -> None:
    """With B = 0 the error stops below the last layer, whatever the weights are."""
    method = FeedbackAlignment(network, PLAIN)
    method.feedback = {w: torch.zeros_like(b) for w, b in method.feedback.items()}
    method.fill_gradients(*problem())
    *lower, weight, bias = (p.grad for p in network.parameters())
    assert all(g is not None and not g.any() for g in lower)
    assert weight is not None
    assert weight.any()
    assert bias is not None
    assert bias.any()
    network.zero_grad()


@NETWORKS
def test_feedback_stays_and_is_not_the_weights(network: nn.Sequential) -> None:
    torch.manual_seed(0)  # the seed that the networks are drawn from
    method = FeedbackAlignment(network, PLAIN)
    pairs = {network.get_parameter(name): b for name, b in method.feedback.items()}
    before = {w: (b.clone(), w.detach().clone()) for w, b in pairs.items()}
    for w, b in pairs.items():
        assert abs(cosine(b, w)) < 0.6
        assert 0.5 < (b.std() / w.std()).item() < 2
        assert b.dtype == w.dtype
    method.step(*problem())
    for w, b in pairs.items():
        assert b.equal(before[w][0])
        assert not w.equal(before[w][1])


def test_frozen_layers_pass_their_feedback_on_too() -> None:
    model = dense()
    model[4].requires_grad_(False)
    method = FeedbackAlignment(model, PLAIN)
    list(method.feedback.values())[-1].zero_()
    method.fill_gradients(*problem())
    lower = next(model.parameters()).grad
    assert lower is not None
    assert not lower.any()


def test_weights_align_with_their_feedback() -> None:
    """The angle between what the hidden layers get and the gradient falls from a right angle.

    The layers are wide because the angle of few random weights is not much of a right one.
    """
    model = dense(200, 120)
    start = weights_of(model)
    hidden = sum(p.numel() for p in model[:-1].parameters())

    def angle(method: FeedbackAlignment) -> float:
        """Return the angle in degrees, over all but the last layer."""
        model.zero_grad()
        method.fill_gradients(*problem())
        pair = gradients_of(model)[:hidden], backpropagated(model)[:hidden]
        return math.degrees(math.acos(cosine(*pair)))

    before, after, unlearned = [], [], []
    for seed in range(6):
        nn.utils.vector_to_parameters(start.clone(), model.parameters())
        torch.manual_seed(seed)
        method = FeedbackAlignment(model, Settings(learning_rate=0.05))
        before.append(angle(method))
        for _ in range(25):
            method.step(*problem())
        after.append(angle(method))
        torch.manual_seed(100 + seed)
        unlearned.append(angle(FeedbackAlignment(model, PLAIN)))
    assert mean(before) > 80
    assert mean(after) < 72
    assert mean(unlearned) > 80


# --- feedback alignment whatever the weights are --------------------------------------------------


class Model(nn.Module):
    """A model made of layers and a function of them and the inputs."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.of = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.of(self, x)


def normalised(wrap: Callable[[nn.Module], nn.Module], model: nn.Module) -> nn.Module:
    """Wrap all layers with weights."""
    for module in list(model.modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            wrap(module)
    return model


class Narrow(nn.Linear):
    """A layer that computes in another dtype than its weights have."""

    def forward(self, x: Tensor) -> Tensor:
        """Cast, multiply, cast."""
        z = F.linear(x.bfloat16(), self.weight.bfloat16(), self.bias.bfloat16())
        return z.to(x.dtype)


def pictures() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 3, padding="same", padding_mode="circular"),
        nn.Tanh(),
        nn.Conv2d(4, 4, 2, padding="same", groups=2),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(4, 3, 2, stride=2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(72, 3),
    ).double()


def sequence() -> Model:
    """Return layers on inputs of three and four dimensions, without and with a bias."""
    torch.manual_seed(0)
    return Model(
        lambda m, x: m.out(m.c(m.b(m.a(x[:, None, :, None]).tanh()).relu_()).tanh().flatten(1)),
        a=nn.Linear(1, 4), b=nn.Linear(4, 5, bias=False), c=nn.Linear(5, 2), out=nn.Linear(12, 3),
    ).double()  # fmt: skip


def attention(**options: Any) -> Model:
    torch.manual_seed(0)
    return Model(
        lambda m, x: m.out(m.attention(q := m.a(x.unflatten(1, (3, 2))), m.k(q), m.v(q))[0][:, 0]),
        a=nn.Linear(2, 4), k=nn.Linear(4, options.get("kdim", 4)), v=nn.Linear(4, 4),
        attention=nn.MultiheadAttention(4, 2, batch_first=True, **options), out=nn.Linear(4, 3),
    ).double()  # fmt: skip


def transformer() -> Model:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return Model(
        lambda m, x: m.out(m.encoder(m.a(x.unflatten(1, (3, 2)))).mean(dim=1)),
        a=nn.Linear(2, 4), encoder=nn.TransformerEncoder(layer, 2), out=nn.Linear(4, 3),
    ).double()  # fmt: skip


def tied() -> Model:
    torch.manual_seed(0)
    model = Model(
        lambda m, x: m.out(m.c(m.b(m.a(x).tanh()).tanh())),
        a=nn.Linear(6, 9), b=nn.Linear(9, 9), c=nn.Linear(9, 9), out=nn.Linear(9, 3),
    ).double()  # fmt: skip
    b, c = model.get_submodule("b"), model.get_submodule("c")
    c.register_parameter("weight", b.get_parameter("weight"))
    return model


def transposed() -> Model:
    """Return an autoencoder whose decoder is a view of its encoder, before a classifier."""
    torch.manual_seed(0)
    return Model(
        lambda m, x: m.out(F.linear(m.b(m.a(x).tanh()).tanh(), m.b.weight.t()).tanh()),
        a=nn.Linear(6, 9), b=nn.Linear(9, 5), out=nn.Linear(9, 3),
    ).double()  # fmt: skip


def checkpointed(reentrant: bool) -> Model:
    def forward(m: Any, x: Tensor) -> Tensor:
        hidden = checkpoint(m.b, m.a(x), use_reentrant=reentrant)
        assert isinstance(hidden, Tensor)
        return m.out(hidden)

    layers = dense()
    return Model(forward, a=layers[:2], b=layers[2:4], out=layers[4])


def functional() -> Model:
    """Return a model that applies a layer with other weights than it has."""
    torch.manual_seed(0)

    def forward(m: Any, x: Tensor) -> Tensor:
        other = {"weight": 2 * m.b.weight.detach(), "bias": m.b.bias}
        return m.out(torch.func.functional_call(m.b, other, m.a(x).tanh()).tanh())

    layers = {"a": nn.Linear(6, 9), "b": nn.Linear(9, 8), "out": nn.Linear(8, 3)}
    return Model(forward, **layers).double()


def direct() -> Model:
    layers = dense()
    wrapped = parametrizations.weight_norm(layers[2])
    return Model(
        lambda m, x: m.out(m.b.forward(m.a(x).tanh()).relu()), a=layers[0], b=wrapped, out=layers[4]
    )


def lazy() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(7), nn.ReLU(), nn.Linear(7, 3))
    model(torch.randn(2, 6))
    return model.double()


def around(use: Callable[[Any, Tensor], Tensor]) -> Callable[[], nn.Module]:
    """Return a model that uses the weight of its layer b in its own way."""

    def build() -> nn.Module:
        first, _, b, _, out = dense()
        model = Model(lambda m, x: m.out(use(m, m.a(x).tanh()).relu()), a=first, b=b, out=out)
        model.register_parameter("w", nn.Parameter(torch.randn(9, 12).double()))
        return model

    return build


def compiled(model: nn.Module) -> nn.Module:
    """Return a compiled model that has been in use."""
    fast: Any = torch.compile(model, backend="aot_eager")
    fast(torch.randn(60, 12 if isinstance(model, nn.Linear) else 6).double()).sum().backward()
    return fast


def pruned(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", amount=0.3)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": dense,
    "convolutional": convolutional,
    "paddings, groups, transposed": pictures,
    "channels last": lambda: pictures().to(memory_format=torch.channels_last),
    "sequence": sequence,
    "weight_norm": lambda: normalised(parametrizations.weight_norm, dense()),
    "weight_norm of convolutions": lambda: normalised(parametrizations.weight_norm, pictures()),
    "spectral_norm": lambda: normalised(parametrizations.spectral_norm, dense()),
    "orthogonal": lambda: normalised(parametrizations.orthogonal, dense()),
    "old weight_norm": lambda: normalised(nn.utils.weight_norm, dense()),
    "old spectral_norm": lambda: normalised(nn.utils.spectral_norm, dense()),
    "pruned": lambda: normalised(pruned, dense()),
    "cast": lambda: nn.Sequential(dense()[:2], Narrow(12, 9), nn.ReLU(), dense()[4]).double(),
    "tied": tied,
    "transposed view": transposed,
    "detached": around(lambda m, h: F.linear(h, m.b.weight.detach(), m.b.bias)),
    "some rows": around(lambda m, h: F.linear(h, m.b.weight.data[1:5]).repeat(1, 3)[:, :9]),
    "attention": attention,
    "attention to other widths": lambda: attention(kdim=3),
    "transformer": transformer,
    "checkpoint": lambda: checkpointed(reentrant=False),
    "reentrant checkpoint": lambda: checkpointed(reentrant=True),
    "compiled": lambda: compiled(dense()),
    "compiled layer": lambda: nn.Sequential(
        dense()[:2], compiled(dense()[2]), nn.ReLU(), dense()[4]
    ),
    "compiled function": around(
        torch.compile(lambda m, h: F.linear(h, m.b.weight).tanh(), backend="aot_eager")
    ),
    "functional call": functional,
    "its forward": direct,
    "lazy": lazy,
    "frozen": lambda: nn.Sequential(dense()[:2], dense()[2:4].requires_grad_(False), dense()[4]),
}  # fmt: skip
WHATEVER = pytest.mark.parametrize("name", MODELS)


#: Plain float64, and float32 where autocast makes bfloat16 of the weights.
PRECISIONS = pytest.mark.parametrize("amp", [False, True], ids=["double", "autocast"])


def gradients_by(method: DescentTrainer, amp: bool = False) -> dict[str, Tensor]:
    """Return what a method puts into ``p.grad``, by the name of the parameter."""
    x, targets = problem()
    method.model.zero_grad()
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        method.fill_gradients(x.float() if amp else x, targets)
    found = {n: p.grad for n, p in method.model.named_parameters() if p.grad is not None}
    return {name: gradient.double().clone() for name, gradient in found.items()}


def of_first_layer(gradients: dict[str, Tensor]) -> Tensor:
    """Return the gradients of the first layer, in which all errors of the others end."""
    layer = [next(iter(gradients)).partition(".parametrizations")[0].rpartition(".")[0]]
    layer += [layer[0].rpartition(".")[0]] if "parametrizations" in next(iter(gradients)) else []
    found = [g for n, g in gradients.items() if n.startswith(layer[-1] or layer[0])]
    return torch.cat([g.flatten() for g in found])


def made(name: str, amp: bool = False) -> nn.Module:
    model = MODELS[name]()
    return model.float() if amp else model


@PRECISIONS
@WHATEVER
def test_it_is_not_backpropagation_whatever_the_weights_are(name: str, amp: bool) -> None:
    model = made(name, amp)
    found = of_first_layer(gradients_by(FeedbackAlignment(model, PLAIN), amp))
    expected = of_first_layer(gradients_by(SGD(model, PLAIN), amp))
    assert found.norm() > 0
    assert cosine(found, expected) < 0.9


@PRECISIONS
@WHATEVER
def test_no_error_passes_through_any_weights(name: str, amp: bool) -> None:
    """With B = 0 nothing reaches the first layer: no product has a way around B."""
    model = made(name, amp)
    method = FeedbackAlignment(model, PLAIN)
    method.feedback = {w: torch.zeros_like(b) for w, b in method.feedback.items()}
    gradients = gradients_by(method, amp)
    assert not of_first_layer(gradients).any()
    assert list(gradients.values())[-1].any()
    assert of_first_layer(gradients_by(SGD(model, PLAIN), amp)).any()


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"functional call"}))
def test_with_the_weights_for_feedback_it_is_backpropagation(name: str) -> None:
    """So each B stands where its weight stood: not transposed, not of another layer or a part."""
    model = made(name).eval()  # or the spectral norm changes with every look
    method = FeedbackAlignment(model, PLAIN)
    other = gradients_by(method)
    method.feedback = {w.name: w.tensor().detach().clone() for w in method.weights}
    found, expected = gradients_by(method), gradients_by(SGD(model, PLAIN))
    assert found.keys() == expected.keys()
    tolerance = 1e-5 if name == "cast" else 1e-10
    assert all(torch.allclose(found[n], expected[n], tolerance, tolerance / 100) for n in found)
    assert not all(torch.allclose(other[n], expected[n], 1e-2) for n in found)


@pytest.mark.parametrize("name", ["weight_norm", "old weight_norm", "compiled", "checkpoint"])
def test_it_is_the_same_as_of_the_plain_network(name: str) -> None:
    """Biases are parameters in all of them, and normalising changes no weight at first."""

    def biases(model: nn.Module, seed: int) -> Tensor:
        torch.manual_seed(seed)
        gradients = gradients_by(FeedbackAlignment(model, PLAIN))
        return torch.cat([g for n, g in gradients.items() if n.endswith("bias")])

    expected = biases(dense(), seed=0)
    assert torch.allclose(biases(made(name), seed=0), expected, rtol=1e-10)
    assert not torch.allclose(biases(made(name), seed=1), expected, rtol=1e-2)


@pytest.mark.parametrize("name", ["plain", "convolutional", "sequence", "weight_norm", "tied"])
def test_autocast_changes_no_more_than_its_precision(name: str) -> None:
    exact = FeedbackAlignment(made(name), PLAIN)
    method = FeedbackAlignment(made(name, amp=True), PLAIN)
    expected = of_first_layer(gradients_by(exact))
    other = of_first_layer(gradients_by(method, amp=True))
    method.feedback = {w: b.float() for w, b in exact.feedback.items()}
    assert cosine(of_first_layer(gradients_by(method, amp=True)), expected) > 0.99
    assert cosine(other, expected) < 0.9  # that of another B


def test_weights_in_another_layout_than_their_feedback_have_it_by_place() -> None:
    model = pictures()
    method = FeedbackAlignment(model, PLAIN)
    expected = gradients_by(method)
    model.to(memory_format=torch.channels_last)
    assert not model.get_parameter("3.weight").is_contiguous()
    found = gradients_by(method)
    assert all(torch.allclose(found[n], expected[n], rtol=1e-10) for n in found)


def test_nothing_is_left_on_the_model() -> None:
    model, own = dense(), nn.Linear(12, 9).double()
    mine: Any = partial(nn.Linear.forward, own)
    model[2].forward = mine
    gradients_by(FeedbackAlignment(model, PLAIN))
    assert "forward" not in model[0].__dict__
    assert model[2].forward is mine
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Aliased(FeedbackAlignment):
    """Feedback alignment as it was: B for whatever autograd keeps that aliases a parameter."""

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Swap by the place in memory."""
        named = dict(self.model.named_parameters())
        pairs = {named[n].data_ptr(): b for n, b in self.feedback.items() if n in named}

        def swap(saved: Tensor) -> Tensor:
            b = pairs.get(saved.data_ptr())
            return saved if b is None else b.as_strided(saved.shape, saved.stride())

        with torch.autograd.graph.saved_tensors_hooks(swap, lambda saved: saved):
            return SGD.fill_gradients(self, inputs, targets)


def test_in_plain_layers_not_a_bit_differs_from_swapping_what_aliases_a_parameter() -> None:
    for model in (dense().float(), convolutional().float(), dense(), convolutional()):
        ends = []
        for method in (FeedbackAlignment, Aliased):
            torch.manual_seed(0)
            twin = copy.deepcopy(model)
            trainer = method(twin, Settings(learning_rate=0.1))
            x, targets = problem()
            for _ in range(10):
                trainer.step(x.to(next(model.parameters()).dtype), targets)
            ends.append(weights_of(twin))
        assert ends[0].equal(ends[1])
        assert not ends[0].equal(weights_of(model))


@pytest.mark.parametrize(
    ("name", "amp"),
    [("plain", True), ("weight_norm", False), ("pruned", False), ("checkpoint", False)],
)
def test_swapping_what_aliases_a_parameter_is_caught(name: str, amp: bool) -> None:
    """It is backpropagation there, wholly or in part: errors pass through the weights."""
    method = Aliased(made(name, amp), PLAIN)
    method.feedback = {w: torch.zeros_like(b) for w, b in method.feedback.items()}
    *_, last = method.feedback
    if last in dict(method.model.named_parameters()) and not amp:
        # The last layer is a plain one, so let the error in.
        method.feedback[last] = method.model.get_parameter(last).detach().clone()
    gradients = gradients_by(method, amp)
    assert of_first_layer(gradients).any()


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "LSTM": (lambda: nn.Sequential(nn.LSTM(6, 3)), "fa: 0: LSTM cannot have feedback"),
    "GRU cell": (lambda: nn.Sequential(nn.Linear(6, 3), nn.GRUCell(3, 3)), "fa: 1: GRUCell"),
    "bilinear": (lambda: nn.Bilinear(6, 6, 3), "fa: the model: Bilinear"),
    "script": (
        lambda: torch.jit.trace(nn.Linear(6, 3), torch.randn(2, 6)),
        "fa: the model: TopLevelTracedModule",
    ),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(3)),
        r"fa: 0\.weight: LazyLinear has no shape yet",
    ),
    "nothing": (lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(6)), "no Linear or Conv layer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_cannot_have_feedback_is_refused(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        FeedbackAlignment(build(), PLAIN)


class ByHand(nn.Linear):
    """A layer that multiplies in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return x @ self.weight.t() + self.bias


class Product(torch.autograd.Function):
    """A product that torch knows nothing of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply."""
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply by the transposed weight."""
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.t() @ x


class Adapted(nn.Linear):
    """A layer with other products in it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down = nn.Parameter(torch.randn(4, inputs))
        self.up = nn.Parameter(torch.randn(outputs, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply thrice."""
        return super().forward(x) + F.linear(F.linear(x, self.down), self.up)


LEAKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "product by hand": (around(lambda m, h: h @ m.b.weight.T), r"fa: b\.weight: .*matmul"),
    "addmm": (around(lambda m, h: torch.addmm(m.b.bias, h, m.b.weight.t())), "fa: b.*addmm"),
    "einsum": (around(lambda m, h: torch.einsum("ni,oi->no", h, m.b.weight)), "fa: b.*einsum"),
    "cast outside": (around(lambda m, h: F.linear(h, 2 * m.b.weight)), r"fa: b\.weight: .*mul"),
    "product with it detached": (
        around(lambda m, h: h @ m.b.weight.detach().T),
        r"fa: b\.weight: .*matmul",
    ),
    "custom function": (
        around(lambda m, h: Product.apply(h, m.b.weight)),
        r"fa: b\.weight: a script or custom Function takes it outside of its layer",
    ),
    "stacked": (
        around(lambda m, h: F.linear(h, torch.cat([m.b.weight, m.b.weight]))[:, :9]),
        "fa: b.*cat",
    ),
    "a weight of no layer": (
        around(lambda m, h: F.linear(h, m.w)),
        r"weight of shape \[9, 12\] that no Linear or Conv layer holds",
    ),
    "layer by hand": (
        lambda: nn.Sequential(*dense()[:2], ByHand(12, 9), nn.ReLU(), dense()[4]).double(),
        r"fa: 2\.weight: its layer multiplies otherwise",
    ),
    "another product in a layer": (
        lambda: nn.Sequential(*dense()[:2], Adapted(12, 9), nn.ReLU(), dense()[4]).double(),
        r"fa: 2\.weight: its layer multiplies by a weight of shape \[4, 12\]",
    ),
}


@pytest.mark.parametrize("case", LEAKS)
def test_a_weight_that_goes_around_its_feedback_is_refused(case: str) -> None:
    build, message = LEAKS[case]
    model = build()
    method, (x, targets) = FeedbackAlignment(model, PLAIN), problem()
    with pytest.raises(ValueError, match=message):
        method.fill_gradients(x, targets)
    SGD(model, PLAIN).fill_gradients(x, targets)  # nothing is wrong with the model itself


def test_what_a_mode_cannot_see_is_refused() -> None:
    model, (x, targets) = dense(), problem()

    def unseen(x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return nn.Linear.forward(layer, x)

    layer: Any = model[2]
    layer.forward = unseen
    with pytest.raises(ValueError, match=r"fa: 2\.weight: its layer multiplies otherwise"):
        FeedbackAlignment(model, PLAIN).fill_gradients(x, targets)


def test_constants_are_no_weights() -> None:
    """A blur has no feedback: the error passes through it as through any other function."""
    first, _, _, _, out = dense()
    blur = torch.rand(9, 12).double()
    model = Model(lambda m, x: m.out(F.linear(m.a(x).tanh(), blur)), a=first, out=out)
    method = FeedbackAlignment(model, PLAIN)
    assert list(method.feedback) == ["a.weight", "out.weight"]
    assert of_first_layer(gradients_by(method)).any()


# --- exponentiated gradient -----------------------------------------------------------------------


@NETWORKS
def test_exponentiated_gradient_is_its_definition(network: nn.Sequential) -> None:
    w, g = weights_of(network), backpropagated(network)
    found = one_step(ExponentiatedGradient, network)
    assert torch.allclose(found, w * (-0.1 * w.sign() * g).exp(), rtol=1e-12)


def test_signs_and_zeros_are_kept() -> None:
    model = dense()
    with torch.no_grad():
        list(model.parameters())[2][:, :4] = 0
    before = weights_of(model).sign()
    method = ExponentiatedGradient(model, Settings(learning_rate=1.0))
    for _ in range(30):
        method.step(*problem())
    assert weights_of(model).sign().equal(before)


def test_lfp_0_on_relu_is_its_first_order_form() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double()

    def gap(rate: float, rival: type[Trainer]) -> float:
        settings = LFPSettings(rate, momentum=0.0, clip_norm=None, epsilon=0.0)
        ours = one_step(ExponentiatedGradient, model, settings)
        return float((ours - one_step(rival, model, settings)).norm())

    assert gap(1e-3, LFP) / gap(5e-4, LFP) == pytest.approx(4, rel=1e-2)
    assert gap(1e-3, SGD) / gap(5e-4, SGD) == pytest.approx(2, rel=1e-2)


# --- Madam ----------------------------------------------------------------------------------------


@NETWORKS
def test_the_first_step_of_madam_is_one_learning_rate_in_the_exponent(
    network: nn.Sequential,
) -> None:
    w, g = weights_of(network), backpropagated(network)
    found = one_step(Madam, network, Settings(learning_rate=1e-3))
    assert torch.allclose(found, w * (-1e-3 * w.sign() * g.sign()).exp(), rtol=1e-12)


def test_madam_is_its_definition_over_many_steps() -> None:
    model, rate = dense(), 0.1
    method = Madam(model, Settings(learning_rate=rate))
    parameters = list(model.parameters())
    w = [p.detach().clone() for p in parameters]
    limits = [3 * float(p.square().mean()) ** 0.5 for p in w]
    squares = [torch.zeros_like(p) for p in w]
    clipped = 0
    for t in range(1, 41):
        x, targets = problem(size=20 + t)
        loss = F.cross_entropy(torch.func.functional_call(
            model, dict(zip(dict(model.named_parameters()), leaves := [
                p.clone().requires_grad_() for p in w], strict=True)), x), targets)  # fmt: skip
        for i, g in enumerate(torch.autograd.grad(loss, leaves)):
            squares[i] = 0.999 * squares[i] + 0.001 * g**2
            ratio = (g / (squares[i] / (1 - 0.999**t)).sqrt()).nan_to_num(nan=0).clamp(-10, 10)
            free = w[i] * (-rate * w[i].sign() * ratio).exp()
            w[i] = free.clamp(-limits[i], limits[i])
            clipped += int((free != w[i]).sum())
        told = method.step(x, targets)
        assert float(told.loss) == pytest.approx(loss.item(), rel=1e-9)
    for found, expected in zip(parameters, w, strict=True):
        assert torch.allclose(found, expected, rtol=1e-8)
    assert clipped > 0


def test_a_step_of_madam_is_bounded() -> None:
    model, (x, targets) = dense(), problem()
    method = Madam(model, Settings(learning_rate=0.01))
    for _ in range(200):  # confident, so that the mean square is small
        method.step(x, targets)
    before = weights_of(model)
    method.step(1e3 * x, (targets + 1) % 3)
    ratio = (weights_of(model) / before).log().abs()
    assert ratio.max() == pytest.approx(10 * 0.01, rel=1e-6)


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [FeedbackAlignment, ExponentiatedGradient, Madam])
def test_parameters_that_the_error_does_not_reach_stay(method: type[Trainer]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), lfp.Heaviside(), nn.Linear(8, 3)).double()
    before = [p.detach().clone() for p in model.parameters()]
    step = method(model, PLAIN).step(*problem())
    moved = [not p.equal(b) for p, b in zip(model.parameters(), before, strict=True)]
    assert moved == [False, False, True, True]
    assert step.feedback_norm.isfinite()
