"""The time steps of spiking neurons on a GPU: one Triton kernel for each direction.

As torch operations a time step is four to eight kernels, of which each reads and writes all neurons
of a layer, and the device waits for the next of them. Here a thread takes one neuron through all
steps, and its membrane potential stays in a register. The values are those of the operations in
:mod:`lfp_core.spiking`, bit for bit (``validation/engine/test_spiking_kernels.py``): products and
sums are rounded one by one, and quotients are rounded to the nearest number.

Triton comes with torch where torch is built for CUDA on Linux; without it the operations are used.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lfp_core import kernels

BLOCK = 256  # neurons of a program
ROUNDED = {"enable_fp_fusion": False}  # a product and a sum in one would have one rounding less


def forward_in_time(
    currents: Tensor,
    membrane: Tensor,
    beta: Tensor,
    threshold: Tensor,
    reset_delay: bool,
    spikes: Tensor,
    membranes: Tensor,
) -> bool:
    """Fill the spikes and the membranes of T steps.

    Args:
        currents: (T, ...).
        membrane: (...), the potentials before the first step.
        beta: the decay, one number.
        threshold: one number.
        reset_delay: whether a spike resets the potential of the next step, not of its own.
        spikes: (T, ...), to be filled.
        membranes: (T, ...), to be filled.

    Returns:
        Whether it was done: the kernels take plain tensors of float32 and float64, which lie in
        memory as their steps and neurons follow each other.
    """
    if not _are_made_for(currents, membrane, beta, threshold, spikes, membranes):
        return False
    with torch.cuda.device_of(currents):
        _forward[_grid(membrane)](
            *(currents, membrane, beta, threshold, spikes, membranes),
            *(membrane.numel(), len(currents), currents.stride(0)),
            reset_delay=reset_delay,
            block=BLOCK,
            **ROUNDED,
        )
    return True


def backward_in_time(
    rewards: Tensor,
    currents: Tensor,
    membrane: Tensor,
    earlier: Tensor,
    beta: Tensor,
    is_current: bool,
    epsilon: float,
) -> Tensor | None:
    """Return q_t of T steps.

    Args:
        rewards: (T, ...), of the spikes and the membranes together.
        currents: (T, ...).
        membrane: (...), the potentials before the first step.
        earlier: (T - 1, ...), the potentials after all steps but the last.
        beta: the decay, one number.
        is_current: whether the normaliser N_t is the "current" one.
        epsilon: stabiliser of N_t.

    Returns:
        (T, ...); None if the kernels do not take such tensors, as in :func:`forward_in_time`.
    """
    rewards = rewards.contiguous()
    if not _are_made_for(currents, membrane, beta, beta, rewards, earlier):
        return None
    shares = torch.empty_like(rewards)
    with torch.cuda.device_of(currents):
        _backward[_grid(membrane)](
            *(rewards[-1], currents[-1], membrane, earlier[-1] if len(earlier) else membrane),
            *(beta, kernels.scalar(epsilon, beta), shares[-1]),
            *(membrane.numel(), len(currents), currents.stride(0)),
            is_current=is_current,
            without_epsilon=epsilon == 0,
            block=BLOCK,
            **ROUNDED,
        )
    return shares


def _grid(membrane: Tensor) -> tuple[int]:
    return (triton.cdiv(membrane.numel(), BLOCK),)


def _are_made_for(
    currents: Tensor, membrane: Tensor, beta: Tensor, threshold: Tensor, *others: Tensor
) -> bool:
    """Return whether the kernels take these currents (T, ...), and others of T or fewer steps.

    The same current at every step has a stride of 0 over time.
    """
    tensors = currents, membrane, beta, threshold, *others
    return (
        not torch.is_grad_enabled()
        and len(currents) > 0
        and currents.dtype in (torch.float32, torch.float64)
        and all(type(t) in kernels.PLAIN for t in tensors)
        and all(t.dtype == currents.dtype and t.device == currents.device for t in tensors)
        and beta.numel() == threshold.numel() == 1
        and membrane.numel() > 0
        and membrane.shape == currents.shape[1:]
        and all(t.shape[1:] == membrane.shape for t in others)
        and all(t.is_contiguous() for t in (currents[0], membrane, *others))
    )


# Loops over time run on the device, so that one compilation serves every T.


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    currents, membrane, beta, threshold, spikes, membranes,
    neurons, steps, stride,
    reset_delay: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    neuron = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    exists = neuron < neurons
    decay = tl.load(beta)
    theta = tl.load(threshold)
    before = tl.load(membrane + neuron, exists)
    currents += neuron
    spikes += neuron
    membranes += neuron
    for _ in range(steps):
        reset = (before > theta).to(before.dtype)
        after = before * decay + tl.load(currents, exists) - reset * theta
        spike = (after > theta).to(before.dtype)
        if not reset_delay:
            after -= (spike - reset) * theta
        tl.store(spikes, spike, exists)
        tl.store(membranes, after, exists)
        before = after
        currents += stride
        spikes += neurons
        membranes += neurons


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    rewards, currents, membrane, earlier, beta, epsilon, shares,
    neurons, steps, stride,
    is_current: tl.constexpr, without_epsilon: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    neuron = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    exists = neuron < neurons
    decay = tl.load(beta)
    stabiliser = tl.load(epsilon)
    rewards += neuron  # all of the last step that has them
    currents += neuron
    earlier += neuron
    shares += neuron
    carried = tl.full((block,), 0.0, decay.dtype)  # the reward of a membrane from the step after
    for _ in range(steps - 1):
        before = tl.load(earlier, exists)
        current, reward = tl.load(currents, exists), tl.load(rewards, exists) + carried
        q = _share(before, current, reward, decay, stabiliser, is_current, without_epsilon)
        tl.store(shares, q, exists)
        carried = before * q * decay
        rewards -= neurons
        currents -= stride
        earlier -= neurons
        shares -= neurons
    before = tl.load(membrane + neuron, exists)
    current, reward = tl.load(currents, exists), tl.load(rewards, exists) + carried
    q = _share(before, current, reward, decay, stabiliser, is_current, without_epsilon)
    tl.store(shares, q, exists)


@triton.jit  # type: ignore[untyped-decorator]
def _share(  # type: ignore[no-untyped-def]
    before, current, reward, decay, stabiliser,
    is_current: tl.constexpr, without_epsilon: tl.constexpr,
):  # fmt: skip
    potential = before * decay + current
    norm = tl.abs(potential - before) + tl.abs(before) if is_current else tl.abs(potential)
    norm += stabiliser
    # Of float32, `/` is an approximation.
    q = tl.div_rn(reward, norm) if reward.dtype == tl.float32 else reward / norm
    if without_epsilon:  # LFP-0: without contributions, no credit
        q = tl.where(norm == 0, 0.0, q)
    return q
