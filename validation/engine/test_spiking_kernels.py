"""The kernels of spiking neurons give what the operations of torch give, bit for bit.

Triton's interpreter runs them on the CPU. What it does not show is how products and sums are
rounded on a GPU, so the kernels are compiled for one, which needs none, and their code is read.
"""

import re
from collections.abc import Iterator
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import lfp_core as lfp
from validation.selection import examples

snntorch = pytest.importorskip("snntorch", reason="spiking networks are optional")
triton = pytest.importorskip("triton", reason="the kernels need Triton")

from lfp_core import native, spiking, spiking_kernels  # noqa: E402  (after what may be missing)
from lfp_core._torch import release  # noqa: E402

# Of the interpreter: neurons that the last program of a layer has too many.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

#: (T, neurons): one step, one neuron, and more neurons than a program has.
SHAPES = [(1, (3,)), (2, (1,)), (4, (2, 5)), (5, (3, 101))]


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    """Return the module as Triton's interpreter runs it."""
    spec = spec_from_file_location("interpreted", spiking_kernels.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(autouse=True)
def operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine use operations of torch, not the nodes in C++."""
    monkeypatch.setattr(native, "nodes", None)


def example(
    steps: int, neurons: tuple[int, ...], dtype: torch.dtype, constant: bool = False
) -> tuple[Tensor, ...]:
    """Return currents and rewards (T, ...), u_0 (...), beta and threshold; some are 0."""
    random = torch.Generator().manual_seed(steps)
    currents, rewards = torch.randn(2, steps, *neurons, generator=random, dtype=dtype) * 1.5
    membrane = torch.randn(neurons, generator=random, dtype=dtype)
    currents[..., 0], membrane[..., 0] = 0.0, 0.0  # no contribution
    if constant:
        currents = currents[:1].expand(steps, *neurons)
    return currents, rewards, membrane, *torch.tensor((0.9, 0.7), dtype=dtype)


def in_turn(by: Any, data: tuple[Tensor, ...], reset_delay: bool, *options: Any) -> list[Tensor]:
    """Return spikes, membranes and q of all steps, as `by` makes them."""
    currents, rewards, membrane, beta, threshold = data
    made = [rewards.new_full(rewards.shape, 7.0) for _ in "su"]
    with torch.no_grad():
        by.forward_in_time(currents, membrane, beta, threshold, reset_delay, *made)
        q = by.backward_in_time(rewards, currents, membrane, made[1][:-1], beta, *options)
    return [*made, q]


OPERATIONS = SimpleNamespace(
    forward_in_time=spiking._forward_in_time,
    backward_in_time=partial(spiking._backward_in_time, max_norm=False),
)


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    """Return whether all values are the same bits."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@given(
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    reset_delay=st.booleans(),
    constant=st.booleans(),
    is_current=st.booleans(),
    epsilon=st.sampled_from([0.0, 1e-6, 0.3]),
)
@examples(30)
def test_all_steps_have_the_bits_of_the_operations(
    kernels: ModuleType,
    shape: tuple[int, tuple[int, ...]],
    dtype: torch.dtype,
    reset_delay: bool,
    constant: bool,
    is_current: bool,
    epsilon: float,
) -> None:
    data = example(*shape, dtype, constant)
    options = reset_delay, is_current, epsilon
    assert equal(in_turn(kernels, data, *options), in_turn(OPERATIONS, data, *options))


@pytest.mark.parametrize("changed", ["beta", "threshold", "epsilon", "reset", "normaliser"])
def test_other_steps_have_other_bits(kernels: ModuleType, changed: str) -> None:
    currents, rewards, membrane, beta, threshold = example(5, (3, 101), torch.float64)
    beta = beta * (1 + 1e-15) if changed == "beta" else beta
    threshold = threshold * 1.001 if changed == "threshold" else threshold
    data = currents, rewards, membrane, beta, threshold
    options = changed != "reset", changed != "normaliser", 0.3 + 1e-15 * (changed == "epsilon")
    found = in_turn(kernels, data, *options)
    assert not equal(
        found, in_turn(OPERATIONS, example(5, (3, 101), torch.float64), True, True, 0.3)
    )


@pytest.mark.parametrize("constant", [True, False])
def test_a_network_gets_the_same_feedback(
    kernels: ModuleType, constant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Linear(6, 5), snntorch.Leaky(0.9, init_hidden=True)),
            *(nn.Linear(5, 3), snntorch.Leaky(0.8, init_hidden=True, reset_delay=False)),
        )
        inputs = 2 * torch.randn(4, 6) if constant else 2 * torch.randn(7, 4, 6)
        with lfp.feedback():
            spikes = spiking.unroll(model, inputs, 7 if constant else None)
        lfp.backward(spikes, lfp.rewards.spike_rate(spikes.detach(), torch.arange(4) % 3))
        return [spikes.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    expected = found()
    asked = []

    def fused(currents: Tensor) -> ModuleType:
        asked.append(currents)
        return kernels

    monkeypatch.setattr(spiking, "_fused", fused)
    assert equal(found(), expected)
    assert len(asked) == 4, "two layers, forward and backward"
    assert expected[1].any()


def test_what_the_kernels_are_not_made_for_is_left_to_the_operations(kernels: ModuleType) -> None:
    currents, rewards, membrane, beta, threshold = example(4, (2, 5), torch.float32)

    def done(*options: Any) -> bool:
        first, *rest = options
        outputs = torch.full_like(rewards, 7.0), torch.full_like(rewards, 7.0)
        was_done: bool = kernels.forward_in_time(first, *rest, True, *outputs)
        assert was_done or bool(torch.stack(outputs).eq(7.0).all())
        shares = kernels.backward_in_time(
            rewards, first, rest[0], outputs[1][:-1], rest[1], True, 0.1
        )
        assert (shares is None) == (not was_done)
        return was_done

    several = beta.expand(5).clone()
    with torch.no_grad():
        assert done(currents, membrane, beta, threshold)
        for refused in (
            (currents.half(), membrane.half(), beta.half(), threshold.half()),
            (currents.mT.contiguous().mT, membrane, beta, threshold),
            (currents, membrane[:1], beta, threshold),
            (currents, membrane.double(), beta, threshold),
            (currents[:0], membrane, beta, threshold),
            (currents, membrane, several, threshold),
        ):
            assert not done(*refused)
    assert not done(currents, membrane, beta, threshold), "a graph of the graph is wanted"


def test_a_reward_that_lies_otherwise_in_memory_is_taken_as_it_is(kernels: ModuleType) -> None:
    currents, rewards, *rest = example(4, (2, 5), torch.float64)
    transposed = rewards.transpose(0, 2).contiguous().transpose(0, 2)
    data = currents, transposed, *rest
    expected = in_turn(OPERATIONS, (currents, rewards, *rest), True, True, 0.1)
    assert equal(in_turn(kernels, data, True, True, 0.1), expected)


def code_for_a_gpu(kernel: Any, number: str, fused: bool, options: dict[str, object]) -> str:
    """Return the text of a kernel for an H100, whose tensors have such numbers."""
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415  (not before it was found)
    from triton.compiler import ASTSource  # noqa: PLC0415

    integers = {"neurons", "steps", "stride"}
    signature = {
        name: "constexpr" if name in options else "i32" if name in integers else f"*{number}"
        for name in kernel.arg_names
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=options)
    rounding = {**spiking_kernels.ROUNDED, **({"enable_fp_fusion": True} if fused else {})}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=rounding)
    text: str = compiled.asm["ptx"]
    return text


@pytest.mark.slow
@pytest.mark.skipif(
    release(triton.__version__) < (3, 6), reason="nothing is compiled after interpreting there"
)
@pytest.mark.parametrize("number", ["fp32", "fp64"])
def test_a_gpu_rounds_every_product_sum_and_quotient(number: str) -> None:
    def is_rounded(fused: bool) -> list[bool]:
        block: dict[str, object] = {"block": spiking_kernels.BLOCK}
        forward = code_for_a_gpu(
            spiking_kernels._forward, number, fused, {"reset_delay": False, **block}
        )
        sharing = {"is_current": True, "without_epsilon": True, **block}
        backward = code_for_a_gpu(spiking_kernels._backward, number, fused, sharing)
        assert re.search(r"\bdiv\.rn\.f", backward), "and not div.full, an approximation"
        return [re.search(r"\bfma\.rn\.f", text) is None for text in (forward, backward)]

    assert is_rounded(fused=False) == [True, True]
    assert is_rounded(fused=True) == [False, False]


CPU = torch.device("cpu")


def test_kernels_are_used_where_they_run(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spiking, "import_module", lambda name: kernels)
    assert spiking._kernels.__wrapped__(CPU) is kernels


def test_without_triton_the_operations_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(spiking, "import_module", lambda name: missing("triton"))
    assert spiking._kernels.__wrapped__(CPU) is None
    monkeypatch.setattr(spiking, "import_module", lambda name: missing("other"))
    with pytest.raises(ModuleNotFoundError, match="other"):
        spiking._kernels.__wrapped__(CPU)


def test_where_triton_fails_a_warning_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*tensors: object) -> bool:
        raise RuntimeError("Failed to find C compiler")

    failing = SimpleNamespace(forward_in_time=fail)
    monkeypatch.setattr(spiking, "import_module", lambda name: failing)
    with pytest.warns(UserWarning, match="spiking neurons on cpu are slow.*C compiler"):
        assert spiking._kernels.__wrapped__(CPU) is None


class Distant(Tensor):
    """A tensor that says that it is on a GPU, and counts how often it is asked for values."""

    asked = 0
    is_cuda = True

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation."""
        cls.asked += func is Tensor.all
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_gpu_is_asked_once_whether_a_factor_is_1() -> None:
    Distant.asked = 0
    factor: Any = torch.ones(1).as_subclass(Distant)
    assert all(spiking._is_one(factor) for _ in range(3))
    assert Distant.asked == 1
    factor.fill_(2.0)
    assert not any(spiking._is_one(factor) for _ in range(3))
    assert Distant.asked == 2
    assert spiking._is_one(torch.ones(1).as_subclass(Distant)), "another one"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reset_delay", [True, False])
@pytest.mark.parametrize("is_current", [True, False])
@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_on_a_gpu_all_steps_have_the_bits_of_the_cpu(
    dtype: torch.dtype, reset_delay: bool, is_current: bool, epsilon: float
) -> None:
    options = reset_delay, is_current, epsilon
    for shape in SHAPES:
        data = example(*shape, dtype)
        on_gpu = tuple(each.cuda() for each in data)
        found = [each.cpu() for each in in_turn(spiking_kernels, on_gpu, *options)]
        assert equal(found, in_turn(OPERATIONS, data, *options))


@pytest.mark.gpu
def test_a_spiking_step_does_not_wait_for_the_gpu() -> None:
    model = nn.Sequential(nn.Linear(6, 5), snntorch.Leaky(0.9, init_hidden=True)).cuda()
    inputs, targets = torch.randn(7, 4, 6).cuda(), torch.arange(4).cuda()

    def step() -> None:
        with lfp.feedback():
            spikes = spiking.unroll(model, inputs)
        lfp.backward(spikes, lfp.rewards.spike_rate(spikes.detach(), targets))

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        with pytest.raises(RuntimeError):
            inputs.sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
