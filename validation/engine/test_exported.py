"""Exported programs, which call ``torch.ops.aten``, have the feedback of the models they came from.

``torch.export`` writes a model down as operations by their names in C++. The engine finds the
function of Python for each, so that its rule is the one that the model's own code would follow.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import lfp_core as lfp
from lfp_core import _torch
from validation import strategies
from validation.selection import examples
from validation.spellings import FEATURES, FUNCTIONS, Network, feedback_of

#: torch says this of its own recurrent layers.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes self.layer")


def exported(model: nn.Module, x: Tensor) -> nn.Module:
    """Return the program of a model that was exported with the input, as a module."""
    return torch.export.export(model, (x,)).module()


def assert_same(model: nn.Module, program: nn.Module, x: Tensor, epsilon: float) -> None:
    """Assert that both have the same feedback: they run the same operations in the same order."""
    expected = feedback_of(model, x, epsilon)
    torch.testing.assert_close(feedback_of(program, x, epsilon), expected, rtol=1e-12, atol=1e-14)


class Images(nn.Module):
    """A small U-Net: convolution, batch normalisation, pooling, resizing by a mode, and a skip."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.down, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.up = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return numbers (batch, 3) of images (batch, 2, 8, 8)."""
        high = F.relu(self.norm(self.down(x)), inplace=True)
        low = F.silu(self.inner(F.max_pool2d(high, 2)))
        low = F.interpolate(low, scale_factor=2.0, mode=self.mode)
        return self.up(torch.cat((high, low), 1)).mean((2, 3))


class Sequences(nn.Module):
    """A recurrent layer, and the classes of its last state."""

    def __init__(self, layer: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer, self.head = layer(3, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return numbers (batch, 3) of sequences (batch, time, 3)."""
        return self.head(self.layer(x)[0][:, -1])


class Tokens(nn.Module):
    """Embeddings, positions and a layer of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(9, 8), nn.Parameter(torch.randn(4, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return numbers (batch, 3) of tokens (batch, 4)."""
        return self.head(self.layer(self.table(x) + self.positions)[:, -1])


def images(batch: int = 2) -> Tensor:
    """Return images (batch, 2, 8, 8)."""
    return torch.randn(batch, 2, 8, 8, dtype=torch.float64)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "nearest": (lambda: Images("nearest"), images),
    "bilinear": (lambda: Images("bilinear"), images),
    **{
        layer.__name__: (
            partial(Sequences, layer),
            lambda: torch.randn(2, 4, 3, dtype=torch.float64),
        )
        for layer in (nn.RNN, nn.LSTM, nn.GRU)
    },
    "tokens": (Tokens, lambda: torch.randint(0, 9, (2, 4))),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_a_program_has_the_feedback_of_its_model(name: str, training: bool) -> None:
    torch.manual_seed(0)
    make, draw = MODELS[name]
    model, x = make().double().train(training), draw()
    program = exported(model, x)
    for epsilon in (0.0, 0.1):
        assert_same(model, program, x, epsilon)


@examples(20)
@given(
    case=st.one_of(strategies.cases(), strategies.transformers(), strategies.products()),
    epsilon=strategies.epsilons(),
)
def test_programs_of_generated_networks_have_their_feedback(
    case: strategies.Case, epsilon: float
) -> None:
    assert_same(case.model, exported(case.model, case.inputs), case.inputs, epsilon)


@pytest.mark.parametrize("family", FUNCTIONS)
def test_programs_follow_the_rules_of_functions(family: str) -> None:
    network = Network([FUNCTIONS[family][0]], True, 7)
    x = torch.randn(3, FEATURES, dtype=torch.float64)
    assert_same(network, exported(network, x), x, 0.1)


# --- what the tests above would notice ------------------------------------------------------------


def test_an_operation_that_is_taken_for_another_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    make, draw = MODELS["nearest"]
    model, x = make().double(), draw()
    program, found = exported(model, x), _torch.function_of

    def wrong(operation: Any) -> Any:
        return torch.nn.functional.silu if "relu" in str(operation) else found(operation)

    assert_same(model, program, x, 0.1)
    monkeypatch.setattr(_torch, "function_of", wrong)
    with pytest.raises(AssertionError, match="not close"):
        assert_same(model, program, x, 0.1)


def test_what_has_no_function_in_python_is_refused_by_its_name() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    program = torch.export.export(model, (x,)).run_decompositions().module()
    with pytest.raises(lfp.UnsupportedOperation, match="native_layer_norm"):
        feedback_of(program, x, 0.1)
