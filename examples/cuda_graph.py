"""A training step of LFP as one CUDA graph: ``python examples/cuda_graph.py``.

A step of a small network is bound by the processor, which gives the GPU hundreds of kernels. LFP
has more of them than gradient descent, so a graph, which is given once, gains more (docs/gpu.md).
The batches must have one size, as a graph has the memory of its tensors built in. Without a GPU the
step is made eagerly.
"""

from collections.abc import Callable

import torch
from torch import nn

import lfp_core as lfp

STEPS = 200


def main(device: str = "cuda" if torch.cuda.is_available() else "cpu") -> float:
    """Train on random images and return the share that the network then knows by heart."""
    torch.manual_seed(0)
    images, labels = (
        torch.randn(512, 1, 28, 28, device=device),
        torch.arange(512, device=device) % 10,
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    # What the graph reads: a batch is copied into these before each step.
    x, y = images[:128].clone(), labels[:128].clone()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with lfp.feedback():
            logits = model(x)
        lfp.backward(logits, lfp.rewards.softmax(logits, y))
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()

    run = captured(step) if device == "cuda" else step
    for number in range(STEPS):
        rows = torch.arange(128, device=device) + 128 * (number % 4)
        x.copy_(images[rows])
        y.copy_(labels[rows])
        run()
    return float((model(images).argmax(dim=1) == labels).float().mean())


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """Return what replays the step; what the step is bound to must live as long."""
    beside = torch.cuda.Stream()
    with torch.cuda.stream(beside):  # the optimiser makes its momentum, cuDNN chooses
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


if __name__ == "__main__":
    print(f"{main():.1%} of the images are known by heart")
