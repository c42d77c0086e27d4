"""Recurrent layers, run step by step as the operations of their cells, each under its rule.

The functions here compute what ``torch.lstm``, ``torch.gru`` and the rest do, to rounding. Products
with the gates of a cell follow the option `gates` of :class:`lfp_core.feedback`: "signal" gives all
of the reward to what a gate lets through, as Arras et al. (2017) do for the LSTM.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, ...]
#: Input (batch, features), state, and the weights of the cell; returns the new state, h first.
Cell = Callable[[Tensor, State, Sequence[Tensor]], State]


def lstm_cell(x: Tensor, state: State, weights: Sequence[Tensor]) -> State:
    """Return (h, c) after a step of an LSTM; `weights` may end in a projection of h."""
    h, c = state
    projection = weights[-1] if len(weights) % 2 else None
    gates = _affine(x, weights, 0) + _affine(h, weights, 1)
    i, f, g, o = gates.chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if projection is None else F.linear(h, projection)), c


def gru_cell(x: Tensor, state: State, weights: Sequence[Tensor]) -> State:
    """Return (h,) after a step of a gated recurrent unit."""
    (h,) = state
    r_x, z_x, n_x = _affine(x, weights, 0).chunk(3, dim=1)
    r_h, z_h, n_h = _affine(h, weights, 1).chunk(3, dim=1)
    z = (z_x + z_h).sigmoid()
    n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    return ((1 - z) * n + z * h,)


def plain_cell(activation: Callable[[Tensor], Tensor]) -> Cell:
    """Return the cell of a plain recurrent layer with tanh or ReLU."""

    def cell(x: Tensor, state: State, weights: Sequence[Tensor]) -> State:
        (h,) = state
        return (activation(_affine(x, weights, 0) + _affine(h, weights, 1)),)

    return cell


def _affine(x: Tensor, weights: Sequence[Tensor], n: int) -> Tensor:
    """Return the n-th of the two linear maps of a cell, of x or of h."""
    return F.linear(x, weights[n], weights[n + 2] if len(weights) > 3 else None)


# --- layers ---------------------------------------------------------------------------------------


def layered(cell: Cell, states: int) -> Callable[..., Any]:
    """Return the function of a whole recurrent layer, with the signatures that torch's have.

    Args:
        cell: one step.
        states: how many tensors the state consists of: 2 for an LSTM, else 1.
    """

    def layer(*args: Any) -> tuple[Tensor, ...]:
        packed = _is_packed(args)
        if packed:
            data, batch_sizes, *rest = args
            steps = list(data.split(batch_sizes.tolist()))
        else:
            x, *rest, batch_first = args
            steps = list(x.unbind(1 if batch_first else 0))
        hx, weights, _, *options = rest  # has_biases, which the number of weights tells as well
        initial = tuple(hx) if states > 1 else (hx,)
        outputs, state = _run(cell, steps, initial, weights, *options)
        whole = torch.cat(outputs) if packed else torch.stack(outputs, 1 if batch_first else 0)
        return whole, *state

    return layer


def _is_packed(args: tuple[Any, ...]) -> bool:
    """Return whether the call has the signature for packed sequences: data, batch_sizes, hx, ..."""
    return isinstance(args[1], Tensor) and not args[1].is_floating_point()


def _run(
    cell: Cell,
    steps: list[Tensor],
    initial: State,
    weights: Sequence[Tensor],
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> tuple[list[Tensor], State]:
    """Run all layers and directions; return the outputs of each step and the last states."""
    directions = 2 if bidirectional else 1
    size = len(weights) // (num_layers * directions)
    of_directions = iter([weights[i : i + size] for i in range(0, len(weights), size)])
    starts = list(zip(*(s.unbind(0) for s in initial), strict=True))
    last: list[State] = []
    for layer in range(num_layers):
        found = []
        for direction in range(directions):
            start = starts[layer * directions + direction]
            outputs, state = _scan(cell, steps, start, next(of_directions), reverse=direction == 1)
            found.append(outputs)
            last.append(state)
        steps = [torch.cat(both, dim=1) if bidirectional else both[0] for both in zip(*found)]  # noqa: B905
        if dropout and train and layer < num_layers - 1:
            steps = list(F.dropout(torch.cat(steps), dropout).split([len(s) for s in steps]))
    return steps, tuple(torch.stack(state) for state in zip(*last, strict=True))


def _scan(
    cell: Cell, steps: list[Tensor], start: State, weights: Sequence[Tensor], reverse: bool
) -> tuple[list[Tensor], State]:
    """Run one layer in one direction over steps of (batch, features), with falling batch sizes.

    The sequences of a packed batch are sorted by length, so that those which go on come first.

    Returns:
        The outputs, one for each step, and the last state of every sequence.
    """
    outputs: list[Tensor] = []
    whole = len(start[0])
    state = tuple(s[: len(steps[-1])] for s in start) if reverse else start
    ended: list[State] = []  # of the shortest sequences first
    for x in reversed(steps) if reverse else steps:
        running = len(state[0])
        if len(x) < running:  # some sequences are over
            ended.append(tuple(s[len(x) :] for s in state))
            state = tuple(s[: len(x)] for s in state)
        if len(x) > running:  # backwards, some begin: from a constant, which has its own rules
            begun = tuple(s[running : len(x)] for s in start)
            parts = cell(x[:running], state, weights), cell(x[running:], begun, weights)
            state = tuple(torch.cat(both) for both in zip(*parts, strict=True))
        else:
            state = cell(x, state, weights)
        outputs.append(state[0])
    for over in reversed(ended):
        state = tuple(torch.cat(parts) for parts in zip(state, over, strict=True))
    assert len(state[0]) == whole
    return (outputs[::-1] if reverse else outputs), state


def single(cell: Cell, states: int) -> Callable[..., Any]:
    """Return the function of one cell: (x, state, w_ih, w_hh, b_ih, b_hh)."""

    def step(
        x: Tensor,
        hx: Any,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Any:
        weights = [w for w in (w_ih, w_hh, b_ih, b_hh) if w is not None]
        state = cell(x, tuple(hx) if states > 1 else (hx,), weights)
        return state if states > 1 else state[0]

    return step


def layers() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the names of torch's recurrent operations, and the functions to run in their place."""
    cells: dict[str, tuple[Cell, int]] = {
        "lstm": (lstm_cell, 2),
        "gru": (gru_cell, 1),
        "rnn_tanh": (plain_cell(torch.tanh), 1),
        "rnn_relu": (plain_cell(torch.relu), 1),
    }
    for name, (cell, states) in cells.items():
        yield name, layered(cell, states)
        yield name + "_cell", single(cell, states)
