"""The nodes in C++ give what the classes in Python give, bit for bit, or leave it to them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import lfp_core as lfp
from lfp_core import build_native, native
from validation.selection import example_of, examples
from validation.strategies import CLASSES, Case, cases

pytestmark = pytest.mark.slow  # for the compiler


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Return the nodes, which are built if they are not there."""
    file = native.place()
    if not file.is_file():
        folder = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            folder = folder.parent  # of all workers
        file = folder / file.name
        with FileLock(f"{file}.lock"):
            if not file.is_file():
                try:
                    build_native.build(file)
                except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                    pytest.skip(f"no C++ compiler that can build the nodes: {error}")
    module = native.load(file)
    assert module is not None
    return module


@contextmanager
def running_on(threads: int) -> Iterator[None]:
    """Let torch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def using(nodes: Any) -> Iterator[None]:
    """Let the engine use these nodes in C++, or the classes in Python if there are none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "nodes", nodes)
        yield


def found(
    nodes: Any, model: nn.Module, inputs: Tensor, targets: Tensor, epsilon: float = 1e-6
) -> list[Tensor | None]:
    """Return what the parameters and the inputs get, and the reward."""
    model.zero_grad(set_to_none=True)
    if inputs.is_floating_point():
        inputs = inputs.detach().requires_grad_()
    with using(nodes):
        with lfp.feedback(epsilon):
            outputs = model(inputs)
        reward = lfp.rewards.softmax(outputs, targets)
        lfp.backward(outputs, reward)
    return [*(p.grad for p in model.parameters()), inputs.grad, reward]


def equal(one: list[Tensor | None], other: list[Tensor | None]) -> bool:
    """Return whether all values are the same bits; one NaN is as good as another."""
    return all(
        a is b if a is None or b is None else bool(torch.equal(a.nan_to_num(7), b.nan_to_num(7)))
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_learn_the_same_bits(nodes: ModuleType, dtype: torch.dtype) -> None:
    @examples(100)
    @given(cases(train=True), st.sampled_from([0.0, 1e-6, 0.1]))
    def check(case: Case, epsilon: float) -> None:
        model = case.model.to(dtype)
        inputs = case.inputs.to(dtype) if case.inputs.is_floating_point() else case.inputs
        results = []
        for each in (None, nodes):
            torch.manual_seed(0)  # of dropout
            results.append(found(each, model, inputs, case.targets, epsilon))
        assert equal(*results)

    check()


def made_by(tensor: Tensor) -> set[str]:
    """Return the names of the nodes that lead to a tensor."""
    seen: set[Any] = set()
    pending = [tensor.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending += [source for source, _ in node.next_functions]
    return {node.name() for node in seen}


def small() -> nn.Sequential:
    """Return a network in which every one of the nodes has its place."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5), nn.ReLU()),
        nn.Linear(5, CLASSES, bias=False),
    )


def test_the_nodes_are_used(nodes: ModuleType) -> None:
    with using(nodes), lfp.feedback():
        outputs = small()(torch.randn(4, 1, 4, 4))
    assert {"LFPLinear", "LFPReluSlope", "LFPWeightScale"} <= made_by(outputs)
    with using(None), lfp.feedback():
        outputs = small()(torch.randn(4, 1, 4, 4))
    assert not any(name.startswith("LFP") for name in made_by(outputs))


#: Nodes that are wrong in one place each.
WRONG: dict[str, Callable[[ModuleType], dict[str, Any]]] = {
    "another epsilon": lambda nodes: {"relu": lambda z, epsilon: nodes.relu(z, 1.01 * epsilon)},
    "weights of torch's node": lambda nodes: {"linear": F.linear},
    "unscaled": lambda nodes: {"weight_scale": lambda weight: weight.view_as(weight)},
    "no mean": lambda nodes: {
        "softmax_reward": lambda o, y, mean, ignored: nodes.softmax_reward(o, y, False, ignored)
    },
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_nodes_are_caught(nodes: ModuleType, wrong: str) -> None:
    broken = SimpleNamespace(**{**vars(nodes), **WRONG[wrong](nodes)})
    families = ("convolution",) if wrong == "unscaled" else ("dense",)

    def differs(case: Case) -> bool:
        one, other = (
            found(each, case.model, case.inputs, case.targets, 0.1) for each in (None, broken)
        )
        return not equal(one, other)

    example_of(cases(["relu"], families=families), differs)


def images(dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """Return a batch for :func:`small`."""
    return torch.randn(4, 1, 4, 4, dtype=dtype, device=device)


def names(model: nn.Module, inputs: Tensor, context: Any) -> set[str]:
    """Return the names of the nodes of LFP that a network is made of within a context."""
    with context, lfp.feedback():
        outputs = model(inputs)
    return {name for name in made_by(outputs) if name.startswith("LFP")}


def test_what_they_are_not_made_for_is_left_to_python(nodes: ModuleType) -> None:
    with using(nodes):
        assert names(small().bfloat16(), images(torch.bfloat16), nullcontext()) == set()
        assert names(small().to("meta"), images(device="meta"), nullcontext()) == set()
        assert names(small(), images(), torch.autocast("cpu", torch.bfloat16)) == set()
        assert names(small(), images(), FlopCounterMode(display=False)) == set()
        with FakeTensorMode():
            model, inputs = small(), images()
        assert names(model, inputs, nullcontext()) == set()
        assert native.nodes is not None
        weight = nn.Parameter(torch.ones(2, 2))
        with torch.no_grad():
            assert native.nodes.weight_scale(weight) is None
        with torch.inference_mode():
            assert native.nodes.softmax_reward(torch.ones(1, 2), torch.zeros(1), True, 0) is None
        for epsilon in (0.0, 1e-45, float("inf")):
            assert native.nodes.relu(weight, epsilon) is None
        assert native.nodes.linear(torch.ones(2), weight, None) is None
        assert native.nodes.linear(torch.ones(1, 2).double(), weight, None) is None


@pytest.mark.parametrize("size", [3, 100_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_layouts_change_no_bits(nodes: ModuleType, size: int, threads: int) -> None:
    torch.manual_seed(0)
    with running_on(threads):
        weight, z, g = torch.randn(size, 2), torch.randn(size, 2), torch.randn(2, size).T
        results = []
        for each in (None, nodes):
            w, x = weight.clone().requires_grad_(), z.clone().requires_grad_()
            with using(each), lfp.feedback(0.1):
                lfp.backward(lfp.weight(w) * F.relu(lfp.activation(x)), g)
            results.append([w.grad, x.grad])
        assert equal(*results)


def test_gradients_that_others_hold_are_not_overwritten(nodes: ModuleType) -> None:
    w = torch.tensor([2.0, -3.0], requires_grad=True)
    held = torch.tensor([1.0, 1.0])
    assert native.nodes is None
    scaled = nodes.weight_scale(w)
    (scaled + 0).backward(held)
    assert held.tolist() == [1, 1]
    assert w.grad is not None
    assert w.grad.tolist() == [2, 3]
    seen: list[Tensor] = []
    scaled = nodes.weight_scale(w)
    scaled.register_hook(seen.append)
    (scaled * 2).backward(held)
    assert seen[0].tolist() == [2, 2]


@pytest.mark.parametrize("written", ["weight", "bias", "input"])
def test_what_is_written_to_before_the_backward_pass_is_refused(
    nodes: ModuleType, written: str
) -> None:
    layer, x = nn.Linear(2, 2), torch.randn(3, 2)
    with using(nodes), lfp.feedback():
        hidden = F.relu(layer(x))
        outputs = F.linear(hidden, *(last := nn.Linear(2, 2)).parameters())
    with torch.no_grad():
        tensor = {"weight": last.weight, "bias": last.bias, "input": hidden}[written]
        tensor.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        lfp.backward(outputs, torch.ones(3, 2))


def test_a_graph_is_used_twice_only_if_it_is_kept(nodes: ModuleType) -> None:
    model, reward = small(), torch.ones(4, CLASSES)
    with using(nodes), lfp.feedback():
        outputs = model(images())
    lfp.backward(outputs, reward, retain_graph=True)
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    lfp.backward(outputs, reward)
    for p, g in zip(model.parameters(), once, strict=True):
        assert p.grad is not None
        assert torch.equal(p.grad, 2 * g)
    with pytest.raises(RuntimeError, match="second time"):
        lfp.backward(outputs, reward)


def test_checkpoints_give_the_same_bits(nodes: ModuleType) -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small()

        def forward(self, x: Tensor) -> Tensor:
            contexts = lambda: (nullcontext(), lfp.feedback())  # noqa: E731
            return checkpoint(self.body, x, use_reentrant=False, context_fn=contexts)

    targets, x = torch.tensor([0, 1, 2, 0]), images()
    torch.manual_seed(0)
    whole, again = small(), Again()
    assert equal(found(None, whole, x, targets), found(nodes, again, x, targets))


def test_frozen_and_shared_parameters_learn_the_same_bits(nodes: ModuleType) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3)
            self.partly = nn.Linear(3, 3)
            self.frozen.requires_grad_(False)
            self.partly.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.frozen(F.relu(self.layer(x))))
            return self.layer(F.relu(self.partly(x)))

    torch.manual_seed(0)
    model, x, targets = Tied(), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert equal(found(None, model, x, targets), found(nodes, model, x, targets))


@pytest.mark.parametrize("ignored", [-100, 1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rewards_are_the_same_bits(
    nodes: ModuleType, ignored: int, reduction: lfp.rewards.Reduction, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    for shape in ((5, 3), (2, 4, 3), (3,)):
        outputs, targets = torch.randn(shape, dtype=dtype), torch.randint(3, shape[:-1])
        outputs.view(-1, 3)[0] = float("inf")  # NaN, unless it is ignored
        outputs.view(-1, 3)[1:, 0] = float("-inf")  # masked out, so 0, but for a target
        rewards = []
        for each in (None, nodes):
            with using(each):
                made = lfp.rewards.softmax(outputs, targets, reduction, ignore_index=ignored)
                rewards.append(made.nan_to_num(7))
        assert torch.equal(*rewards)
        with using(nodes), pytest.raises(ValueError, match=r"targets must lie in \[0, 2\]"):
            lfp.rewards.softmax(outputs, torch.full(shape[:-1], 3), reduction)


def neurons(nodes: Any, sizes: tuple[int, ...], seed: int, **options: Any) -> list[Tensor | None]:
    """Return spikes and membranes of neurons with random currents, and what their rewards give.

    `sizes` are (T, ...). The options are those of :func:`neuron_options`.
    """
    spiking = pytest.importorskip("lfp_core.spiking", reason="spiking networks are optional")
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        # Multiples of a half, with an exact 0 and exactly the threshold among them.
        return torch.randint(-4, 5, shape, generator=generator).to(options["dtype"]) / 2

    currents, membrane = random(*sizes), random(*sizes[1:])
    if options["constant"]:
        currents = currents[0].expand(sizes)
    leaves = currents.requires_grad_(), membrane.requires_grad_(options["from_a_membrane"])
    with using(nodes):
        outputs = spiking.LeakyScan.apply(
            *leaves,
            torch.tensor(options["beta"], dtype=options["dtype"]),
            torch.tensor(1.0, dtype=options["dtype"]),
            *(options[name] for name in ("reset_delay", "epsilon")),
            0.0,
            *(options[name] for name in ("normaliser", "max_norm")),
        )
        rewarded = outputs[options["rewarded"]]
        rewards = [random(*sizes) for _ in rewarded]
        torch.autograd.backward(rewarded, rewards)
    return [*(output.detach() for output in outputs), *(leaf.grad for leaf in leaves)]


def neuron_options() -> st.SearchStrategy[dict[str, Any]]:
    """Draw all that a scan depends on."""
    return st.fixed_dictionaries(
        {
            "dtype": st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
            "beta": st.sampled_from([0.0, 0.9, 1.0]),
            "reset_delay": st.booleans(),
            "epsilon": st.sampled_from([0.0, 1e-6, 0.1]),
            "normaliser": st.sampled_from(["current", "earlier"]),
            "max_norm": st.booleans(),
            "constant": st.booleans(),
            "from_a_membrane": st.booleans(),
            "rewarded": st.sampled_from([slice(1), slice(1, 2), slice(2)]),
        }
    )


@pytest.mark.parametrize("sizes", [(1, 3), (4, 2, 3), (3, 40_000)])
@pytest.mark.parametrize("threads", [1, 2])
def test_neurons_are_the_same_bits(nodes: ModuleType, sizes: tuple[int, ...], threads: int) -> None:
    @examples(100)
    @given(neuron_options(), st.integers(0, 2**32 - 1))
    def check(options: dict[str, Any], seed: int) -> None:
        assert equal(*(neurons(each, sizes, seed, **options) for each in (None, nodes)))

    with running_on(threads):
        check()


#: Scans that are wrong in one place each.
WRONG_IN_TIME: dict[str, Callable[[ModuleType], dict[str, Any]]] = {
    "another beta": lambda nodes: {
        "forward_in_time": lambda c, u, beta, *rest: nodes.forward_in_time(c, u, beta / 2, *rest)
    },
    "nothing carried back": lambda nodes: {
        "backward_in_time": lambda r, c, u0, u, beta, *rest: nodes.backward_in_time(
            r, c, u0, torch.zeros_like(u), beta, *rest
        )
    },
    "another epsilon": lambda nodes: {
        "backward_in_time": lambda *args: nodes.backward_in_time(*args[:-1], 2 * args[-1])
    },
}


@pytest.mark.parametrize("wrong", WRONG_IN_TIME)
def test_wrong_neurons_are_caught(nodes: ModuleType, wrong: str) -> None:
    broken = SimpleNamespace(**{**vars(nodes), **WRONG_IN_TIME[wrong](nodes)})

    def differs(options: dict[str, Any]) -> bool:
        return not equal(*(neurons(each, (4, 2, 3), 0, **options) for each in (None, broken)))

    example_of(neuron_options(), differs)


def test_neurons_that_they_are_not_made_for_are_left_to_python(nodes: ModuleType) -> None:
    c, u, beta = torch.ones(2, 4), torch.zeros(4), torch.tensor(0.9)

    def forward(c: Tensor, u: Tensor = u, beta: Tensor = beta, threshold: Tensor = beta) -> bool:
        outputs = torch.empty_like(c), torch.empty_like(c)
        done: bool = nodes.forward_in_time(c, u, beta, threshold, True, *outputs)
        return done

    def backward(r: Tensor, beta: Tensor = beta, earlier: Tensor = c[:1]) -> Any:
        return nodes.backward_in_time(r, c, u, earlier, beta, True, 0.1)

    with torch.no_grad():
        assert forward(c)
        same = c[0].expand(3, 4)
        assert nodes.forward_in_time(same, u, beta, beta, True, same.clone(), same.clone())
        assert not nodes.forward_in_time(c, u, beta, beta, True, c.clone(), c.double())
        assert not forward(c, threshold=torch.ones(4))
        assert not forward(c, beta=beta.double())
        assert not forward(c, u=torch.zeros(1))
        assert not forward(torch.ones(2, 2, 2).mT, u=torch.zeros(2, 2))
        assert not forward(torch.ones(0, 4))
        assert not forward(c.to("meta"))
        with FlopCounterMode(display=False):
            assert not forward(c)
        assert backward(c) is not None
        assert backward(torch.ones(4, 2).T) is not None
        assert backward(c, beta=torch.ones(4)) is None
        assert backward(c[:1]) is None
        assert backward(c.double()) is None
        assert backward(c, earlier=c) is None
    # With a graph of the backward pass autograd must see operations.
    assert backward(c) is None


def test_a_library_of_another_torch_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = native.place()
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    assert native.place() != ours
    assert native.load(native.place()) is None


def test_without_a_compiler_the_last_line_says_so(tmp_path: Path) -> None:
    environment = {**os.environ, "CXX": str(tmp_path / "no compiler"), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "lfp_core.build_native"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("The C++ nodes cannot be built, so LFP runs without them")
