"""What a GPU computes as one kernel is what the operations of torch say, which the CPU computes.

The text of a kernel is C++, so that a compiler for the CPU shows the same without a GPU.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import lfp_core as lfp
from lfp_core import kernels
from lfp_core.kernels import Formula
from validation.selection import examples

#: Every formula, with its numbers, and whether its first tensor may be negative.
FORMULAS: dict[str, tuple[Formula, tuple[float, ...], bool]] = {
    "quotient": (kernels.quotient, (0.3, 1.0), True),
    "quotient by a small epsilon": (kernels.quotient, (1e-6, -2.0), True),
    "relu_slope": (kernels.relu_slope, (0.3,), False),
    "share": (kernels.share, (0.3, 1.0), True),
    "half a share": (kernels.share, (0.3, 0.5), True),
    "two shares": (kernels.share, (0.3, 2.0), True),
    "scaled": (kernels.scaled, (), True),
    "rewarded": (kernels.rewarded, (), True),
}
#: A few roundings of each dtype, relative and absolute.
CLOSE = {
    torch.float64: (1e-13, 1e-13),
    torch.float32: (1e-5, 1e-5),
    torch.bfloat16: (0.05, 0.05),
    torch.float16: (0.01, 0.01),
}
#: Of a formula in C++ that a compiler for the CPU takes.
PROGRAM = """
{code}
extern "C" void run(const double* a, const double* b, double* out, long n, const double* numbers) {{
    for (long i = 0; i < n; ++i) out[i] = {name}<double>(a[i], b[i]{numbers});
}}
"""


def example(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return two tensors (40, 3), the first with zeros in it."""
    random = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 40, 3, generator=random, dtype=torch.float64)
    a[:3], b[5] = 0.0, 0.0
    negative = FORMULAS[name][2]
    return (a if negative else a.relu()).to(dtype), b.to(dtype)


def in_cpp(formula: Formula, folder: Path) -> Callable[..., Tensor]:
    """Return the formula as its text says, compiled for the CPU in double precision."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    name = formula.code.partition("(")[0].split()[-1]
    numbers = "".join(f", numbers[{i}]" for i in range(len(formula.numbers)))
    source, library = folder / "formula.cpp", folder / "formula.so"
    source.write_text(PROGRAM.format(code=formula.code, name=name, numbers=numbers))
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", str(source), "-o", str(library)], check=True
    )
    run = ctypes.CDLL(str(library)).run

    def call(a: Tensor, b: Tensor, *values: float) -> Tensor:
        given = [np.ascontiguousarray(each.numpy()) for each in (a, b)]
        out, extra = np.empty_like(given[0]), np.array([*values, 0.0])
        pointers = [each.ctypes.data_as(ctypes.c_void_p) for each in (*given, out, extra)]
        run(pointers[0], pointers[1], pointers[2], ctypes.c_long(out.size), pointers[3])
        return torch.from_numpy(out)

    return call


@pytest.mark.parametrize("name", FORMULAS)
def test_the_text_of_a_kernel_says_what_the_operations_do(name: str, tmp_path: Path) -> None:
    formula, numbers, _ = FORMULAS[name]
    a, b = example(name)
    found, expected = in_cpp(formula, tmp_path)(a, b, *numbers), formula(a, b, *numbers)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", FORMULAS)
def test_another_text_is_caught(name: str, tmp_path: Path) -> None:
    formula, numbers, _ = FORMULAS[name]
    a, b = example(name)
    wrong = Formula(
        formula.operations, formula.code.replace("return", "return 1.001 *"), *formula.numbers
    )
    found = in_cpp(wrong, tmp_path)(a, b, *numbers)
    assert not torch.allclose(found, formula(a, b, *numbers), rtol=1e-6, equal_nan=True)


def test_an_epsilon_is_never_rounded_to_0() -> None:
    """A half has no number as small as 1e-9, by which 0 / 0 would be shared out."""
    z, g = torch.tensor([0.0, 1.0]).half(), torch.ones(2).half()
    assert kernels.share(z, g, 1e-9, 1.0).tolist() == [0.0, 1.0]
    assert kernels.quotient(z, z, 1e-9, 1.0).tolist() == [0.0, 1.0]


@given(
    z=st.floats(-1e3, 1e3, allow_subnormal=False).map(lambda z: z + 0.0),  # not -0.0
    g=st.floats(-1e3, 1e3, allow_subnormal=False),
    epsilon=st.floats(1e-9, 1.0),
)
@examples(200)
def test_the_operations_are_the_formulas(z: float, g: float, epsilon: float) -> None:
    z_, g_ = torch.tensor([z], dtype=torch.float64), torch.tensor([g], dtype=torch.float64)
    stabilised = z + (epsilon if z >= 0 else -epsilon)
    expected = {
        kernels.quotient: (z_, g_, g / stabilised * -0.5),
        kernels.share: (z_, g_, z / stabilised * g * 0.5),
        kernels.scaled: (z_, g_, abs(z) * g),
        kernels.rewarded: (z_, g_, z * g),
        kernels.relu_slope: (z_.relu(), g_, max(z, 0) / (max(z, 0) + epsilon) * g),
    }
    for formula, (a, b, value) in expected.items():
        if formula is kernels.quotient:
            found = formula(b, a, epsilon, -0.5)
        else:
            values = {"epsilon": epsilon, "factor": 0.5}
            found = formula(a, b, *(values[name] for name in formula.numbers))
        assert float(found) == pytest.approx(value, rel=1e-12, abs=1e-300)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMULAS)
def test_the_kernel_computes_the_operations(name: str, dtype: torch.dtype) -> None:
    formula, numbers, _ = FORMULAS[name]
    a, b = (each.cuda() for each in example(name, dtype))
    expected = formula.operations(a.double(), b.double(), *numbers)
    found, (rtol, atol) = formula(a, b, *numbers).double(), CLOSE[dtype]
    in_range = expected.abs() < torch.finfo(dtype).max
    torch.testing.assert_close(found[in_range], expected[in_range], rtol=rtol, atol=atol)
    # Of other strides, and of shapes that only together have the shape of the result.
    turned = formula(a.T.contiguous().T, b, *numbers)
    assert torch.equal(turned.nan_to_num(), formula(a, b, *numbers).nan_to_num())
    row = formula(a, b[:1], *numbers)
    assert torch.equal(row, formula(a, b[:1].expand_as(a).contiguous(), *numbers))


@pytest.mark.gpu
def test_a_step_on_a_gpu_takes_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them feedback is the same; with others it is not."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 3))
    model = model.double().cuda()
    x, targets = torch.randn(5, 4, dtype=torch.float64).cuda(), torch.arange(5).cuda() % 3

    def feedback() -> Tensor:
        model.zero_grad()
        with lfp.feedback(0.3):
            outputs = model(x)
        lfp.backward(outputs, lfp.rewards.softmax(outputs, targets))
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected = feedback()
    monkeypatch.setattr(kernels, "PLAIN", ())
    assert torch.allclose(feedback(), expected, rtol=1e-12)
    monkeypatch.undo()
    monkeypatch.setitem(vars(kernels.scaled), "kernel", lambda a, b: 2 * a.abs() * b)
    assert torch.allclose(feedback(), 2 * expected, rtol=1e-12)


def _feedback() -> Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with lfp.feedback(3e-5):  # an epsilon that no other test has
        outputs = model(torch.randn(8, 4))
    lfp.backward(outputs, lfp.rewards.softmax(outputs, torch.arange(8) % 3))
    (weight, *_) = model.parameters()
    assert weight.grad is not None
    return weight.grad


def test_tensors_that_only_pretend_to_be_there_leave_nothing_behind() -> None:
    """Numbers are kept as tensors: those of a mode are of no use after it, or in another one."""
    kernels._kept.cache_clear()
    for _ in range(2):  # before any number was kept, and after
        with FakeTensorMode():
            assert isinstance(_feedback(), FakeTensor)
        with torch.inference_mode():
            lfp.rewards.softmax(torch.randn(8, 3), torch.arange(8) % 3)
        assert type(_feedback()) is Tensor
    assert kernels._kept.cache_info().hits > 0
