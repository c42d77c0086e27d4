"""Recurrent layers of torch agree with cells that are written by hand, in outputs and feedback."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

import lfp_core as lfp
from validation.spellings import distance

TOLERANCE = 1e-9
KINDS = ["LSTM", "GRU", "RNN", "RNN relu"]


def layer_of(kind: str, **options: Any) -> nn.RNNBase:
    """Build a layer in float64 that reads 4 features."""
    torch.manual_seed(5)
    if kind == "RNN relu":
        return nn.RNN(4, 6, nonlinearity="relu", **options).double()
    layer: nn.RNNBase = getattr(nn, kind)(4, 6, **options).double()
    return layer


def step_by_hand(
    kind: str, x: Tensor, h: Tensor, c: Tensor, w: dict[str, Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Run one step as the documentation of torch writes it, gate by gate."""
    w_ih, w_hh = w["ih"], w["hh"]
    assert w_ih is not None
    assert w_hh is not None
    zx, zh = F.linear(x, w_ih, w["b_ih"]), F.linear(h, w_hh, w["b_hh"])
    n = c.shape[-1]
    if kind == "LSTM":
        z = zx + zh
        i, f = torch.sigmoid(z[:, :n]), torch.sigmoid(z[:, n : 2 * n])
        g, o = torch.tanh(z[:, 2 * n : 3 * n]), torch.sigmoid(z[:, 3 * n :])
        c = f * c + i * g
        h = o * torch.tanh(c)
        return (h if w["hr"] is None else F.linear(h, w["hr"])), c
    if kind == "GRU":
        r = torch.sigmoid(zx[:, :n] + zh[:, :n])
        u = torch.sigmoid(zx[:, n : 2 * n] + zh[:, n : 2 * n])
        new = torch.tanh(zx[:, 2 * n :] + r * zh[:, 2 * n :])
        return (1 - u) * new + u * h, c
    return (torch.relu if kind == "RNN relu" else torch.tanh)(zx + zh), c


class Model(nn.Module):
    """Maybe a linear layer, a recurrent layer of torch or by hand, and a linear layer."""

    def __init__(self, kind: str, by_hand: bool, behind: bool, start: str, **options: Any) -> None:
        super().__init__()
        self.kind, self.by_hand, self.start = kind, by_hand, start
        self.recurrent = layer_of(kind, **options)
        self.first = nn.Linear(4, 4).double() if behind else nn.Identity()
        r = self.recurrent
        directions = 2 if r.bidirectional else 1
        self.size = r.proj_size or r.hidden_size
        self.last = nn.Linear(directions * self.size, 3).double()
        rows = r.num_layers * directions
        self.h0 = nn.Parameter(torch.randn(rows, 1, self.size).double())
        self.c0 = nn.Parameter(torch.randn(rows, 1, r.hidden_size).double())
        self.from_data = nn.Linear(4, rows * (self.size + r.hidden_size)).double()

    def states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the initial states (layers, batch, features); x is (batch, time, 4)."""
        rows, n = self.h0.shape[0], x.shape[0]
        hidden = self.recurrent.hidden_size
        if self.start == "parameters":
            return self.h0.expand(-1, n, -1).contiguous(), self.c0.expand(-1, n, -1).contiguous()
        if self.start == "data":
            made = self.from_data(x.mean(1)).view(n, rows, -1).transpose(0, 1)
            return made[..., : self.size].contiguous(), made[..., self.size :].contiguous()
        return x.new_zeros(rows, n, self.size), x.new_zeros(rows, n, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, time, 3) for (batch, time, 4)."""
        h0, c0 = self.states(x)
        x = self.first(x)
        if not self.by_hand:
            r = self.recurrent
            x = x if r.batch_first else x.transpose(0, 1)
            state: Any = (h0, c0) if self.kind == "LSTM" else h0
            outputs, _ = r(x, None if self.start == "none" else state)
            return self.last(outputs if r.batch_first else outputs.transpose(0, 1))
        steps = list(x.unbind(1))
        r, row = self.recurrent, 0
        for layer in range(r.num_layers):
            sides = []
            for end in ["", "_reverse"][: 2 if r.bidirectional else 1]:
                w = {
                    name: getattr(r, f"{long}_l{layer}{end}", None)
                    for name, long in (
                        *(("ih", "weight_ih"), ("hh", "weight_hh"), ("hr", "weight_hr")),
                        *(("b_ih", "bias_ih"), ("b_hh", "bias_hh")),
                    )
                }
                h, c = h0[row], c0[row]
                found = []
                for step in reversed(steps) if end else steps:
                    h, c = step_by_hand(self.kind, step, h, c, w)
                    found.append(h)
                sides.append(found[::-1] if end else found)
                row += 1
            steps = [torch.cat(both, -1) for both in zip(*sides, strict=True)]
        return self.last(torch.stack(steps, 1))


def feedback_and_output(
    model: nn.Module, *args: Any, **kw: Any
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the feedback of every parameter, and the output."""
    model.zero_grad()
    with lfp.feedback(0.1, **kw):
        outputs = model(*args)
    lfp.backward(outputs, outputs.detach().cos())
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return found, outputs.detach()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "dropout": 0.0, "batch_first": True},
    {"bidirectional": True, "bias": False},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", ["none", "parameters", "data"])
def test_layers_are_their_cells(kind: str, start: str, options: dict[str, Any]) -> None:
    x = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for behind in (True, False):
        both = []
        for by_hand in (False, True):
            model = Model(kind, by_hand, behind, start, **options)
            plain = model(x).detach()
            found, outputs = feedback_and_output(model, x, strict=behind)
            torch.testing.assert_close(outputs, plain, rtol=1e-12, atol=1e-12)
            both.append(found)
        assert distance(*both) <= TOLERANCE


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_projected_lstm_is_its_cells(bidirectional: bool, bias: bool) -> None:
    options = {"proj_size": 3, "num_layers": 2, "bidirectional": bidirectional, "bias": bias}
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    both = []
    for by_hand in (False, True):
        model = Model("LSTM", by_hand, True, "parameters", **options)
        found, outputs = feedback_and_output(model, x)
        torch.testing.assert_close(outputs, model(x).detach(), rtol=1e-12, atol=1e-12)
        both.append(found)
    assert distance(*both) <= TOLERANCE


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("start", ["none", "parameters", "data"])
def test_single_cells_are_written_by_hand(kind: str, start: str) -> None:
    class Cells(nn.Module):
        def __init__(self, by_hand: bool) -> None:
            super().__init__()
            torch.manual_seed(5)
            self.cell = getattr(nn, kind + "Cell")(4, 6).double()
            self.last, self.by_hand = nn.Linear(6, 3).double(), by_hand
            self.h0, self.c0 = (nn.Parameter(torch.randn(6).double()) for _ in range(2))
            self.from_data = nn.Linear(4, 6).double()

        def forward(self, x: Tensor) -> Tensor:
            n = len(x)
            h, c = x.new_zeros(n, 6), x.new_zeros(n, 6)
            if start == "parameters":
                h, c = self.h0.expand(n, -1), self.c0.expand(n, -1)
            elif start == "data":
                h, c = self.from_data(x[:, 0]), self.from_data(x[:, 1]).tanh()
            names = {"ih": "weight_ih", "hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
            w = {name: getattr(self.cell, long) for name, long in names.items()} | {"hr": None}
            for step in x.unbind(1):
                if self.by_hand:
                    h, c = step_by_hand(kind, step, h, c, w)
                elif kind == "LSTM":
                    h, c = self.cell(step, (h, c))
                else:
                    h = self.cell(step, h)
            return self.last(h)

    x = torch.randn(3, 4, 4, dtype=torch.float64)
    (a, outputs), (b, by_hand) = (feedback_and_output(Cells(hand), x) for hand in (False, True))
    torch.testing.assert_close(outputs, by_hand, rtol=1e-12, atol=1e-12)
    assert distance(a, b) <= TOLERANCE


class Packed(nn.Module):
    """A recurrent layer on sequences of several lengths, packed or one by one."""

    def __init__(self, kind: str, packed: bool, **options: Any) -> None:
        super().__init__()
        self.packed = packed
        self.recurrent = layer_of(kind, batch_first=True, **options)
        self.first = nn.Linear(4, 4).double()
        self.last = nn.Linear(12 if self.recurrent.bidirectional else 6, 3).double()

    def forward(self, x: list[Tensor]) -> Tensor:
        """Return the outputs of all steps of all sequences, one after the other."""
        if not self.packed:
            whole = [self.recurrent(self.first(s)[None])[0][0] for s in x]
        else:
            lengths = torch.tensor([len(sequence) for sequence in x])
            packed = pack_padded_sequence(
                self.first(pad_sequence(x, batch_first=True)),
                lengths,
                batch_first=True,
                enforce_sorted=False,
            )
            out, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
            whole = [o[:n] for o, n in zip(out, lengths.tolist(), strict=True)]
        return torch.cat([self.last(o) for o in whole])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_are_the_sequences_one_by_one(kind: str, bidirectional: bool) -> None:
    torch.manual_seed(3)
    sequences = [torch.randn(n, 4, dtype=torch.float64) for n in (3, 5, 1, 5)]
    options: dict[str, Any] = {"bidirectional": bidirectional, "num_layers": 2}

    both = []
    for packed in (True, False):
        model = Packed(kind, packed, **options)
        found, outputs = feedback_and_output(model, sequences)
        torch.testing.assert_close(outputs, model(sequences).detach(), rtol=1e-12, atol=1e-12)
        both.append(found)
    assert distance(*both) <= TOLERANCE
