"""``torch.compile(fullgraph=True)`` traces whole networks in the context: no graph breaks."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.models import ACTIVATIONS as OF_MODELS
from benchmarks.models import SHAPES, build
from benchmarks.performance import steps
from benchmarks.storage.provenance import ROOT
from lfp_core import _torch
from validation.examples import (
    EPSILON,
    batch,
    convolutional,
    dense,
    error,
    fresh,
    gradients,
    propagate,
)
from validation.selection import crossed
from validation.spellings import FEATURES, FUNCTIONS, Network, distance, feedback_of
from validation.strategies import ACTIVATIONS

pytestmark = pytest.mark.compiled
OF_STUDY = ("toy-mlp", "mlp", "lenet", "vgg-like")
WITHOUT_SPIKES = [name for name, kind in OF_MODELS.items() if not kind.spiking]


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled_agrees(model: nn.Module, backend: str, whole_step: bool) -> None:
    expected = fresh(model)
    model.zero_grad()
    x, targets = batch(model)

    def forward(x: Tensor) -> Tensor:
        with lfp.feedback(EPSILON):
            return model(x)

    if whole_step:
        outputs = torch.compile(forward, backend=backend, fullgraph=True)(x)
    else:
        with lfp.feedback(EPSILON):
            outputs = torch.compile(model, backend=backend, fullgraph=True)(x)
    lfp.backward(outputs, lfp.rewards.softmax(outputs, targets))
    assert error(gradients(model), expected) < 1e-12


def returned(model: "Parts", x: Tensor) -> Any:
    """Return the outputs with a hidden layer."""
    h = model.first(x).relu()
    return model.last(h), h


def stored(model: "Parts", x: Tensor) -> Any:
    """Return the outputs, and keep a hidden layer."""
    model.hidden = model.first(x).relu()
    return model.last(model.hidden), None


def broken_off(model: "Parts", x: Tensor) -> Any:
    """Return the outputs of two graphs."""
    h = model.first(x).relu()
    torch._dynamo.graph_break()
    return model.last(h), None


def with_a_softmax(model: "Parts", x: Tensor) -> Any:
    """Return the outputs with a function of them."""
    outputs = model.last(model.first(x).relu())
    return outputs, outputs.softmax(-1)


class Parts(nn.Module):
    """Two layers, of which more than the outputs is handed out."""

    hidden: Tensor

    def __init__(self, function: Callable[["Parts", Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function

    def forward(self, x: Tensor) -> Any:
        """Return outputs (batch, 3), and something else."""
        return self.function(self, x)


@pytest.mark.parametrize("function", [returned, stored, broken_off, with_a_softmax])
def test_what_else_a_compiled_graph_hands_out_changes_nothing(
    function: Callable[[Parts, Tensor], Any], compiler: None
) -> None:
    """Also in the first step after a compilation, where torch detaches what the graph returns."""
    model = Parts(function).double()
    compiled = torch.compile(model, backend="aot_eager")

    def feedback(run: Any, x: Tensor) -> list[Tensor]:
        model.zero_grad()
        with lfp.feedback(0.1):
            outputs, _ = run(x)
        lfp.backward(outputs, outputs.detach())
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    for size in (5, 5, 7, 7):
        x = torch.randn(size, 6, dtype=torch.float64)
        for found, expected in zip(feedback(compiled, x), feedback(model, x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_recurrent_layer_breaks_the_graph_and_agrees(kind: str, compiler: None) -> None:
    """As torch.compile does not look into one; what follows runs under the rules as it is."""
    torch.manual_seed(0)
    layer, last = getattr(nn, kind)(5, 4).double(), nn.Linear(4, 2).double()
    x = torch.randn(3, 2, 5, dtype=torch.float64)

    def feedback(run: Any) -> list[Tensor]:
        layer.zero_grad()
        with lfp.feedback(0.1):
            outputs = run(x)
        lfp.backward(outputs, outputs.detach())
        return [p.grad.clone() for p in layer.parameters() if p.grad is not None]

    def forward(x: Tensor) -> Tensor:
        return last(layer(x)[0])

    compiled = torch.compile(forward, backend="aot_eager")
    for found, expected in zip(feedback(compiled), feedback(forward), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


class Branches(nn.Module):
    """A function of its own on a layer of its own, for each function; all are in one graph."""

    def __init__(self, functions: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions = [*functions.values()]
        self.layers = nn.ModuleList(nn.Linear(6, 8) for _ in functions)

    def forward(self, x: Tensor) -> Tensor:
        """Return what all functions return, one after the other."""
        values = [f(layer(x)) for f, layer in zip(self.functions, self.layers, strict=True)]
        return torch.cat([value.flatten() for value in values])


def disagreeing(
    functions: Mapping[str, Callable[[Tensor], Tensor]], backend: str, whole_step: bool
) -> set[str]:
    """Return the names of functions below which compiled code has other feedback than eager."""
    model, x = Branches(functions).double(), torch.randn(4, 6).double()

    def forward() -> Tensor:
        with lfp.feedback(EPSILON):
            return model(x)

    def around() -> Tensor:
        with lfp.feedback(EPSILON):
            return compiled(x)

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    whole = torch.compile(forward, backend=backend, fullgraph=True)
    found = []
    for run in (forward, whole if whole_step else around):
        model.zero_grad()
        outputs = run()
        lfp.backward(outputs, outputs.detach().cos())
        found.append([gradients(layer) for layer in model.layers])
    of_each = zip(functions, *found, strict=True)
    return {name for name, expected, got in of_each if error(got, expected) >= 1e-12}


@pytest.mark.parametrize(("backend", "whole_step"), [("aot_eager", False), ("eager", True)])
@pytest.mark.usefixtures("compiler")
def test_compiled_activations_give_the_feedback_of_eager(backend: str, whole_step: bool) -> None:
    made = {name: make() for name, make in ACTIVATIONS.items()}
    assert disagreeing(made, backend, whole_step) == set()


@pytest.mark.usefixtures("compiler")
def test_a_compiled_function_with_another_feedback_is_noticed() -> None:
    def other(h: Tensor) -> Tensor:
        return h.sigmoid() if torch.compiler.is_compiling() else h.tanh()

    assert disagreeing({"relu": nn.ReLU(), "other": other}, "eager", True) == {"other"}


@pytest.mark.parametrize(("inplace", "whole_step"), crossed([False, True], [False, True]))
@pytest.mark.usefixtures("compiler")
def test_compiled_convolutional_network_gives_the_feedback_of_eager(
    inplace: bool, whole_step: bool
) -> None:
    model = convolutional(lambda: nn.SiLU(inplace=inplace)).double().eval()
    compiled_agrees(model, "aot_eager", whole_step)


@pytest.mark.thorough  # as the whole step below
@pytest.mark.parametrize(("name", "activation"), crossed(OF_STUDY, WITHOUT_SPIKES))
@pytest.mark.usefixtures("compiler")
def test_models_of_the_study_compile_with_context_and_reward(name: str, activation: str) -> None:
    shape = SHAPES[name]
    model = build(name, activation=activation, input_shape=shape, classes=3, seed=0).eval()
    inputs, targets = torch.randn(2, *shape), torch.tensor([0, 2])

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        with lfp.feedback(EPSILON):
            outputs = model(x)
        return outputs, lfp.rewards.softmax(outputs, targets)

    lfp.backward(*forward(inputs))
    expected = gradients(model)
    model.zero_grad()
    lfp.backward(*torch.compile(forward, backend="eager", fullgraph=True)(inputs))
    assert error(gradients(model), expected) < 1e-6


@pytest.fixture
def tracing_of_backward() -> Iterator[None]:
    with steps.tracing_of_backward():
        yield


def step_agrees(
    step: Callable[[], object], model: nn.Module, backend: str, tolerance: float
) -> None:
    """Assert that a step in a single graph fills ``p.grad`` as it does without a compiler."""
    found = []
    for run in (step, torch.compile(step, backend=backend, fullgraph=True)):
        model.zero_grad()
        run()
        found.append(gradients(model))
    assert error(found[1], found[0]) < tolerance


@pytest.mark.parametrize(("name", "activation"), crossed(OF_STUDY, WITHOUT_SPIKES))
@pytest.mark.usefixtures("compiler", "tracing_of_backward")
def test_step_with_its_backward_pass_is_one_graph(name: str, activation: str) -> None:
    shape = SHAPES[name]
    model = build(name, activation=activation, input_shape=shape, classes=3, seed=0).eval()
    inputs, targets = torch.randn(2, *shape), torch.tensor([0, 2])
    step_agrees(lambda: propagate(model, inputs, targets), model, "eager", tolerance=1e-6)


@pytest.mark.parametrize("build", [pytest.param(dense, marks=pytest.mark.thorough), convolutional])
@pytest.mark.usefixtures("compiler", "tracing_of_backward")
def test_inductor_compiles_a_step_with_its_backward_pass(build: Callable[[], nn.Module]) -> None:
    model = build().double().eval()
    x, targets = batch(model)
    step_agrees(lambda: propagate(model, x, targets), model, "inductor", tolerance=1e-12)


@pytest.mark.usefixtures("compiler", "tracing_of_backward")
def test_spiking_step_with_its_backward_pass_is_one_graph() -> None:
    model = spiking_network()
    x, targets = batch(model)

    def step() -> None:
        spikes = unrolled(model, 3 * x)
        lfp.backward(spikes, lfp.rewards.spike_rate(spikes, targets))

    step_agrees(step, model, "aot_eager", tolerance=1e-12)


#: All but those that the compiler shows to no mode. Some follow each other in a graph.
HIDDEN = {
    *("hardswish", "Fourier transform of windows"),
    *("largest of a softmax", "softmax of the largest"),  # F.pad
}
SHOWN = sorted(FUNCTIONS.keys() - HIDDEN)
IN_A_GRAPH = 5


def feedback_of_compiled(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the feedback of a network whose forward pass is one graph."""

    def forward(x: Tensor) -> Tensor:
        with lfp.feedback(EPSILON):
            return network(x)

    network.zero_grad()
    torch.manual_seed(3)
    outputs = torch.compile(forward, backend="eager", fullgraph=True)(x)
    lfp.backward(outputs, outputs.detach().cos())
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(start, marks=pytest.mark.thorough if start % (4 * IN_A_GRAPH) else ())
        for start in range(0, len(SHOWN), IN_A_GRAPH)
    ],
)
@pytest.mark.usefixtures("compiler")
def test_compiled_functions_give_the_feedback_of_eager(start: int) -> None:
    usual = [FUNCTIONS[family][0] for family in SHOWN[start : start + IN_A_GRAPH]]
    network, x = Network(usual, True, 7), torch.randn(4, FEATURES).double()
    expected = feedback_of(network, x, EPSILON)
    assert distance(feedback_of_compiled(network, x), expected) < 1e-12


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.usefixtures("compiler")
def test_compiled_positions_are_no_data_where_they_are_marked(marked: bool) -> None:
    """Without that they are taken for data, as docs/performance.md says."""

    def positions(s: Any, h: Tensor, g: Tensor, x: Tensor) -> Tensor:
        places = torch.arange(1)
        return h + F.embedding(lfp.weight(places) if marked else places, s.rows)

    network, x = Network([positions], True, 7), torch.randn(4, FEATURES).double()
    same = distance(feedback_of_compiled(network, x), feedback_of(network, x, EPSILON)) < 1e-12
    assert same is marked


@pytest.mark.parametrize(
    "function", [F.hardswish, F.hardsigmoid, F.tanh, lambda h: F.pad(h, (1, -1))]
)
@pytest.mark.usefixtures("compiler")
def test_compiled_function_that_no_mode_sees_is_refused(function: Any) -> None:
    network = Network([lambda s, h, g, x: function(h)], True, 7)
    with pytest.raises(Exception, match=r"does not show.*such as hardswish"):
        feedback_of_compiled(network, torch.randn(4, FEATURES).double())


#: What meets a weight before its consumer says what it is, and what then needs another share of it.
OPEN: dict[str, Any] = {
    "statistic": lambda s, h, g, x: (s.b / h.var(1, keepdim=True)).sigmoid(),
    "gate": lambda s, h, g, x: h * (s.b * g.sigmoid()),
}


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.usefixtures("compiler")
def test_compiled_share_that_would_stay_open_is_refused(name: str) -> None:
    network = Network([OPEN[name]], True, 7)
    with pytest.raises(Exception, match="a statistic or a gate that meets a weight"):
        feedback_of_compiled(network, torch.randn(4, FEATURES).double())


@pytest.mark.usefixtures("compiler")
def test_compiled_output_that_leaves_its_share_open_is_refused() -> None:
    network = Network([lambda s, h, g, x: s.b / h.var(1, keepdim=True)], True, 7)
    network.add_module("last", nn.Identity())
    with pytest.raises(lfp.UnsupportedOperation, match="a statistic or a gate that meets a weight"):
        feedback_of_compiled(network, torch.randn(4, FEATURES).double())


@pytest.mark.usefixtures("compiler")
def test_compiled_weights_of_a_normalisation_get_the_feedback_of_eager() -> None:
    network = Network(
        [
            lambda s, h, g, x: h * (s.b * (h.var(1, keepdim=True) + s.c.square()).rsqrt()),
            lambda s, h, g, x: h + s.c * g.sigmoid(),
        ],
        True,
        7,
    )
    x = torch.randn(4, FEATURES).double()
    expected = feedback_of(network, x, EPSILON)
    assert distance(feedback_of_compiled(network, x), expected) < 1e-12


@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_compiled_gradient_of_what_is_recorded_is_refused(fullgraph: bool) -> None:
    def stepped(s: Any, h: Tensor, g: Tensor, x: Tensor) -> Tensor:
        return h - torch.autograd.grad(h.tanh().sum(), h)[0]

    network = Network([stepped], True, 7)
    with pytest.raises(Exception, match=r"LFP rule for grad|torch\.autograd\.grad"):
        torch.compile(partial(in_context, network), backend="aot_eager", fullgraph=fullgraph)(
            torch.randn(4, FEATURES).double()
        )


def in_context(network: nn.Module, x: Tensor) -> Tensor:
    with lfp.feedback(EPSILON):
        outputs: Tensor = network(x)
    return outputs


#: Operations that the compiler presents as other objects than they are, or that have whole numbers
#: beside their values.
PRESENTED: dict[str, Callable[[Tensor], Tensor]] = {
    "unflatten": lambda h: h.unflatten(1, (2, 4)).flatten(1),
    "nn.Unflatten": lambda h: nn.Unflatten(1, (2, 4))(h).flatten(1),
    "T": lambda h: h.T.T,
    "mT": lambda h: h.mT.mT,
    "1 - x": lambda h: 1 - h,
    "split": lambda h: torch.cat(h.split(4, dim=1)),
    "max": lambda h: h.max(dim=1)[0],
    "median": lambda h: h.median(dim=1).values,
    "topk": lambda h: h.topk(3, dim=1)[0],
    "sort": lambda h: h.sort(dim=1)[0],
    "the order of a sort": lambda h: h.gather(1, (-h).sort(dim=1)[1]),
    "cummax": lambda h: h.cummax(dim=1)[0],
    "max_pool1d with indices": lambda h: F.max_pool1d(h, 2, return_indices=True)[0],
    "unpooled": lambda h: F.max_unpool1d(*F.max_pool1d(h, 2, return_indices=True), (2,)),
}


#: Properties that the compiler of torch 2.11 shows to no mode, so that they are refused.
UNSHOWN = {"T", "mT"} if _torch.RELEASE == (2, 11) else set()


@pytest.mark.parametrize("name", sorted(UNSHOWN))
@pytest.mark.usefixtures("compiler")
def test_compiled_property_that_no_mode_sees_is_refused(name: str) -> None:
    model = nn.Linear(6, 8)

    def forward(consume: Callable[[Tensor], Tensor]) -> Tensor:
        with lfp.feedback(EPSILON):
            return consume(PRESENTED[name](model(torch.ones(4, 6))))

    compiled = torch.compile(forward, backend="eager", fullgraph=True)
    outputs = compiled(lambda h: h)
    with pytest.raises(ValueError, match="carry no feedback"):
        lfp.backward(outputs, outputs.detach())
    with pytest.raises(Exception, match=r"which torch\.compile does not show"):
        compiled(lambda h: h + 1)


@pytest.mark.usefixtures("compiler")
def test_compiled_operations_give_the_feedback_of_eager() -> None:
    shown = {name: function for name, function in PRESENTED.items() if name not in UNSHOWN}
    assert disagreeing(shown, "aot_eager", True) == set()


@pytest.mark.usefixtures("compiler", "tracing_of_backward")
def test_the_documented_step_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/performance.md tells to write, which sets the option that the fixture restores."""
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    section = page.partition("## A step as one graph")[2]
    recipe = section.partition("```python")[2].partition("```")[0]
    model, found, compiler = dense().double(), [], torch.compile
    for compiles in (lambda step, **_: step, partial(compiler, backend="aot_eager")):
        model.zero_grad()
        monkeypatch.setattr(torch, "compile", compiles)
        names: dict[str, Any] = {"torch": torch, "lfp": lfp, "model": model}
        exec(recipe, names)
        names["propagate"](*batch(model))
        found.append(gradients(model))
    assert error(found[1], found[0]) < 1e-12


@pytest.mark.usefixtures("compiler")
def test_compiled_training_mode_drops_what_it_drops() -> None:
    """Dropout draws in the graph; what it draws is what the feedback goes by."""
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 3, bias=False))
    x, targets = batch(model)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        with lfp.feedback(EPSILON):
            hidden = model[:3](x)
            return model[3](hidden), hidden

    outputs, hidden = torch.compile(forward, backend="aot_eager", fullgraph=True)(x)
    lfp.backward(outputs, lfp.rewards.softmax(outputs, targets))
    silent = (hidden == 0).all(dim=0)
    assert silent.any()
    assert not gradients(model)["3.weight"][:, silent].any()
    assert gradients(model)["3.weight"][:, ~silent].any()


def spiking_network() -> nn.Sequential:
    snntorch = pytest.importorskip("snntorch", reason="spiking networks are optional")
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), snntorch.Leaky(0.9, init_hidden=True)]
    layers += [nn.Linear(8, 3), snntorch.Leaky(0.9, init_hidden=True)]
    return nn.Sequential(*layers).double()


def unrolled(model: nn.Sequential, x: Tensor) -> Tensor:
    from lfp_core import spiking  # noqa: PLC0415  (needs snntorch)

    with lfp.feedback(EPSILON):
        return spiking.unroll(model, x, steps=3)


@pytest.mark.parametrize(
    "backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.thorough)]
)
@pytest.mark.usefixtures("compiler")
def test_unrolled_spiking_network_compiles_as_one_graph(backend: str) -> None:
    model = spiking_network()
    x, targets = batch(model)
    both = []
    for run in (unrolled, torch.compile(unrolled, backend=backend, fullgraph=True)):
        model.zero_grad()
        spikes = run(model, 3 * x)
        assert spikes.any()
        lfp.backward(spikes, lfp.rewards.spike_rate(spikes.detach(), targets))
        both.append(gradients(model))
    assert error(both[1], both[0]) < 1e-12


@pytest.mark.usefixtures("compiler")
def test_compiled_spiking_network_refuses_graded_spikes_when_it_runs() -> None:
    model = spiking_network()
    compiled = torch.compile(unrolled, backend="aot_eager", fullgraph=True)
    x, _ = batch(model)
    compiled(model, x)
    graded: Any = model[1].graded_spikes_factor
    graded.fill_(2.0)
    with pytest.raises(RuntimeError, match="graded_spikes_factor"):
        compiled(model, x)


@pytest.mark.parametrize("build", [dense, pytest.param(convolutional, marks=pytest.mark.thorough)])
@pytest.mark.usefixtures("compiler")
def test_inductor_gives_the_feedback_of_eager(build: Callable[[], nn.Module]) -> None:
    compiled_agrees(build().double().eval(), "inductor", whole_step=True)


@pytest.mark.usefixtures("compiler")
def test_compiled_model_is_plain_again_outside_the_context() -> None:
    model = dense().double()
    x, targets = batch(model)
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)

    def plain(network: Any) -> dict[str, Tensor]:
        model.zero_grad()
        F.cross_entropy(network(x), targets).backward()
        return gradients(model)

    expected = plain(model)
    assert error(plain(compiled), expected) < 1e-12
    model.zero_grad()
    propagate(compiled, x, targets)
    assert error(gradients(model), expected) > 0.1
    assert error(plain(compiled), expected) < 1e-12


@pytest.mark.usefixtures("compiler")
def test_compiled_code_does_not_confuse_epsilons() -> None:
    model = dense().double()
    x, targets = batch(model)
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    for epsilon in (0.5, 0.001, 0.5):
        both = []
        for network in (model, compiled):
            model.zero_grad()
            with lfp.feedback(epsilon):
                outputs = network(x)
            lfp.backward(outputs, lfp.rewards.softmax(outputs, targets))
            both.append(gradients(model))
        assert error(both[1], both[0]) < 1e-12


@pytest.mark.usefixtures("compiler")
def test_compiled_model_still_refuses_what_has_no_rule() -> None:
    class Bessel(nn.Module):
        """A function that no rule is for."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i1(x)

    model = nn.Sequential(nn.Linear(6, 5), Bessel(), nn.Linear(5, 3))
    with pytest.raises(Exception, match="no LFP rule for special_i1"), lfp.feedback():
        torch.compile(model, backend="aot_eager", fullgraph=True)(torch.randn(4, 6))


@pytest.mark.gpu
@pytest.mark.parametrize("build", [dense, convolutional])
@pytest.mark.usefixtures("compiler")
def test_gpu_inductor_gives_the_feedback_of_eager(build: Callable[[], nn.Module]) -> None:
    compiled_agrees(build().double().eval().cuda(), "inductor", whole_step=True)
