"""Complex numbers: a parameter is two real ones, and what is made of them conserves rewards."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lfp_core as lfp
from lfp_core import kernels
from lfp_core.slopes import SecantSlope

TOLERANCE = 1e-10
Function = Callable[[Tensor], Tensor]
pytestmark = pytest.mark.usefixtures("double")


class Complex(nn.Module):
    """Complex layers with complex parameters, between real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(8, 2)
        self.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.complex128))
        self.bias = nn.Parameter(torch.randn(4, dtype=torch.complex128))

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the real and the imaginary parts of weight and bias."""
        return self.weight.real, self.weight.imag, self.bias.real, self.bias.imag

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 2) for x (batch, 5)."""
        h = torch.view_as_complex(self.first(x).view(-1, 3, 2))
        z = h @ self.weight + self.bias
        output: Tensor = self.last(torch.view_as_real(z).flatten(1))
        return output


class Real(nn.Module):
    """The same with real numbers alone."""

    def __init__(self, other: Complex) -> None:
        super().__init__()
        self.first, self.last = other.first, other.last
        self.u, self.v, self.b, self.c = (
            nn.Parameter(part.detach().clone()) for part in other.parts()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 2) for x (batch, 5)."""
        real, imaginary = self.first(x).view(-1, 3, 2).unbind(-1)
        z = torch.cat([real, imaginary], 1) @ torch.cat([self.u, -self.v]) + self.b
        w = torch.cat([real, imaginary], 1) @ torch.cat([self.v, self.u]) + self.c
        output: Tensor = self.last(torch.stack([z, w], -1).flatten(1))
        return output


def trained(model: nn.Module, x: Tensor, epsilon: float) -> list[Tensor]:
    """Return ``p.grad`` of all parameters after one backward pass."""
    model.zero_grad()
    with lfp.feedback(epsilon):
        outputs = model(x)
    lfp.backward(outputs, outputs.detach().cos())
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_a_complex_parameter_is_two_real_ones() -> None:
    model = Complex()
    real, x = Real(model), torch.randn(6, 5)
    trained(model, x, 0.0)
    first, weight, bias = model.first.weight.grad, model.weight.grad, model.bias.grad
    assert first is not None
    assert weight is not None
    assert bias is not None
    first = first.clone()
    trained(real, x, 0.0)
    grads = [p.grad for p in (real.u, real.v, real.b, real.c)]
    expected = [real.first.weight.grad, *grads]
    found = [first, weight.real, weight.imag, bias.real, bias.imag]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_magnitude_of_a_complex_weight_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.scaled, "operations", lambda weight, g: weight.abs() * g)
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        test_a_complex_parameter_is_two_real_ones()


@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 10.0])
def test_a_complex_output_owes_epsilon_in_its_own_direction(epsilon: float) -> None:
    """Of z = w x with a reward R of the parts' sum, w gets ``|z| / (|z| + eps)`` of it."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[0.8 - 0.3j]]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(x @ self.weight).flatten(1)

    model, x = One(), torch.tensor([[0.4 + 1.1j]])
    with lfp.feedback(epsilon):
        outputs = model(x)
    reward = torch.tensor([[0.7, -0.2]])
    lfp.backward(outputs, reward)
    z, w = (x @ model.weight.detach())[0, 0], model.weight.detach()
    g = torch.complex(reward[0, 0] / z.real, reward[0, 1] / z.imag) * z.abs() / (z.abs() + epsilon)
    g = x[0, 0].conj() * g
    expected = torch.complex(w.real.abs() * g.real, w.imag.abs() * g.imag)
    assert model.weight.grad is not None
    torch.testing.assert_close(-model.weight.grad, expected, rtol=1e-10, atol=1e-12)


FUNCTIONS: dict[str, Function] = {
    "tanh": torch.tanh,
    "exp": torch.exp,
    "sin": torch.sin,
    "sqrt": torch.sqrt,
    "reciprocal": lambda z: 1 / z,
    "square": torch.square,
    "cube": lambda z: z**3,
    "sigmoid": torch.sigmoid,
    "product": lambda z: z * z.flip(1),
    "Fourier transform": lambda z: torch.fft.fft(z, dim=1),
    "phase": lambda z: z / z.abs().clamp(min=1e-12),
}


def arrived(function: Function, option: str = "gradient") -> float:
    """Return the reward of all weights over that of the outputs."""

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.real, self.imaginary = (nn.Linear(5, 4, bias=False) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(function(torch.complex(self.real(x), self.imaginary(x))))

    torch.manual_seed(0)
    model = Bare()
    with lfp.feedback(0.0, normalisation=option):  # type: ignore[arg-type]
        outputs = model(torch.randn(6, 5))
    reward = torch.rand_like(outputs)
    lfp.backward(outputs, reward)
    found = [-(p.grad * p.detach().sign()).sum() for p in model.parameters() if p.grad is not None]
    return float(sum(found) / reward.sum())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_conserve_reward(name: str) -> None:
    option = "identity" if name == "phase" else "gradient"
    assert arrived(FUNCTIONS[name], option) == pytest.approx(1.0, rel=1e-9)


def test_a_slope_that_is_not_conjugate_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def backward(ctx: object, g: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        slope = ctx.saved_tensors[0]  # type: ignore[attr-defined]
        return slope * g, None, None, None, None, None

    monkeypatch.setattr(SecantSlope, "backward", staticmethod(backward))
    assert abs(arrived(torch.tanh) - 1) > 1e-2


@pytest.mark.parametrize("units", ["identity", "reverse", "shifted"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.1])
def test_every_option_runs(epsilon: float, units: str) -> None:
    model = Complex()
    with lfp.feedback(epsilon, units=units):  # type: ignore[arg-type]
        z = torch.view_as_complex(model.first(torch.randn(6, 5)).view(-1, 3, 2))
        outputs = (torch.sigmoid(z) @ model.weight).abs()
    lfp.backward(outputs, torch.rand_like(outputs))
    assert model.weight.grad is not None
    assert torch.isfinite(torch.view_as_real(model.weight.grad)).all()


def test_complex_outputs_take_no_reward() -> None:
    layer = nn.Linear(5, 4)
    with lfp.feedback():
        outputs = torch.fft.fft(layer(torch.randn(2, 5)))
    with pytest.raises(ValueError, match="outputs are complex, and a reward is for real numbers"):
        lfp.backward(outputs, torch.ones(2, 4))
