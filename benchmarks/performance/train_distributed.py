"""Train the VGG-like network by LFP on several processes, on GPUs where there are any.

    torchrun --nproc-per-node 2 -m benchmarks.performance.train_distributed --steps 50

Every process takes batches of its own; DistributedDataParallel averages ``p.grad``, which is the
negated feedback, as it averages gradients. Process 0 prints a line of JSON at the end.
"""

import argparse
import json
import os
from itertools import chain, islice, repeat
from statistics import median
from time import perf_counter

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import lfp_core as lfp
from benchmarks.data import DATASETS, load
from benchmarks.models import ACTIVATIONS, build

WARM_UP = 2  # steps that are not timed
CLASSES = 10


def synthetic(count: int = 2048) -> TensorDataset:
    """Return noisy images (3, 32, 32) of ten patterns, the same in every process."""
    random = torch.Generator().manual_seed(0)
    targets = torch.arange(count) % CLASSES
    patterns = torch.randn(CLASSES, 3, 32, 32, generator=random)
    return TensorDataset(
        patterns[targets] + torch.randn(count, 3, 32, 32, generator=random), targets
    )


def positive(text: str) -> int:
    """Return a whole number above 0; argparse reports the ValueError."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def arguments() -> argparse.Namespace:
    """Return the options of the command line; ends the program with code 2 if one is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", choices=["synthetic", *DATASETS], default="synthetic")
    parser.add_argument(
        "--activation",
        choices=[name for name, kind in ACTIVATIONS.items() if not kind.spiking],
        default="relu",
    )
    parser.add_argument("--steps", type=positive, default=50)
    parser.add_argument("--batch-size", type=positive, default=64, help="of one process")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--epsilon", type=float, default=1e-6)
    options = parser.parse_args()
    if "RANK" not in os.environ:
        parser.error("start it with torchrun, as in: " + (__doc__ or "").splitlines()[2].strip())
    return options


def main() -> None:
    """Train, and say how many images a second went through all processes together."""
    options = arguments()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")

    if options.dataset == "synthetic":
        images = synthetic()
    else:
        train = load(options.dataset).train
        images = TensorDataset(train.inputs, train.targets)
    # Each process draws another part of every epoch.
    batches = DataLoader(
        images, options.batch_size, sampler=DistributedSampler(images), drop_last=True
    )
    network = build(
        "vgg-like",
        activation=options.activation,
        input_shape=tuple(images[0][0].shape),
        classes=CLASSES,
        seed=0,
    )
    model = DistributedDataParallel(network.to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=options.learning_rate, momentum=0.9)

    seconds, losses = [], []
    for inputs, targets in islice(chain.from_iterable(repeat(batches)), WARM_UP + options.steps):
        x, y = inputs.to(device), targets.to(device)
        started = perf_counter()
        optimizer.zero_grad()
        with lfp.feedback(options.epsilon):
            logits = model(x)
        lfp.backward(logits, lfp.rewards.softmax(logits, y))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        losses.append(float(F.cross_entropy(logits.detach(), y)))  # waits for the GPU
        seconds.append(perf_counter() - started)

    processes = dist.get_world_size()
    per_step = median(seconds[WARM_UP:])
    report = {
        "dataset": options.dataset,
        "activation": options.activation,
        "processes": processes,
        "batch_per_process": options.batch_size,
        "steps": options.steps,
        "seconds_per_step": round(per_step, 4),
        "images_per_second": round(processes * options.batch_size / per_step, 1),
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
    }
    if dist.get_rank() == 0:
        print(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
