"""Peak memory of a piece of work, as seen by torch's allocators."""

import gc
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile

MEGABYTE = 10**6


def peak_bytes(work: Callable[[], object], device: torch.device, *, numpy: bool = False) -> int:
    """Return how many bytes of tensors that `work` made on `device` were alive at once, at most.

    With `numpy`, also of NumPy's arrays, for which the work is done a second time: the sum of both
    peaks, with what Python's own objects took, usually less than a megabyte.

    What was there before does not count; what the forward pass keeps for the backward pass does.
    So `work` should build what it measures: model, optimiser and batch. Scratch space that a
    kernel library takes past torch's allocator cannot be seen; on a GPU, torch's own workspaces
    are seen the first time they are made, so run `work` once before.
    """
    tensors = _peak_of_gpu(work, device) if device.type == "cuda" else _peak_of_cpu(work)
    return tensors + (_peak_of_python(work) if numpy else 0)


def _peak_of_python(work: Callable[[], object]) -> int:
    """NumPy reports its arrays to tracemalloc."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _peak_of_gpu(work: Callable[[], object], device: torch.device) -> int:
    gc.collect()  # or garbage from before might be released meanwhile
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_of_cpu(work: Callable[[], object]) -> int:
    """Replay every allocation and release that the profiler saw.

    The trace is the profiler's public output. Its list of events gives memory per operator, from
    which the peak inside and between operators cannot be had.

    Returns:
        The largest number of bytes that were alive at once.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it reports each of its stages on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_bytes())["traceEvents"]
    memory = sorted(
        (event for event in events if event.get("name") == "[memory]"), key=lambda e: e["ts"]
    )
    alive: dict[int, int] = {}
    total = peak = 0
    for event in memory:
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            alive[address] = size
            total += size
            peak = max(peak, total)
        else:
            total -= alive.pop(address, 0)  # 0: made before, so not the work's
    return peak
