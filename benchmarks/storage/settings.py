"""What a process has set in torch, which must not leak from one run into the next."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

log = logging.getLogger(__name__)

#: How each setting is read and made, by its name.
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "precision of products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "cuDNN's benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        lambda value: setattr(torch.backends.cudnn, "benchmark", value),
    ),
    "anomaly detection": (
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.autograd.set_detect_anomaly(*value),
    ),
    "default device": (
        lambda: torch.empty(0).device,
        lambda value: torch.set_default_device(None if value.type == "cpu" else value),
    ),
}


@contextmanager
def unchanged(what: str) -> Iterator[None]:
    """Leave torch's settings as they were before the block; tell who has changed one.

    Args:
        what: is done in the block.
    """
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    try:
        yield
    finally:
        changed = [name for name, (read, _) in SETTINGS.items() if read() != before[name]]
        for name in changed:
            SETTINGS[name][1](before[name])
        if changed:
            told = ", ".join(changed)
            log.warning("%s: changes torch's %s, which is set back after it", what, told)
