"""A Ray cluster that is there already: how it is joined, what it has, and what can go wrong."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: How often Ray looks for a cluster, for 40 seconds each time; by its own choice 20 times.
TRIES = "2"
SECONDS = 10.0  # that a head may take to answer at all
#: An address of a head; others are names that Ray knows itself, or URLs.
PLAIN = re.compile(r"(?P<host>[^:/]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]+)")


class ExecutorError(RuntimeError):
    """Workers die without finishing anything, or there are none that could do the work."""


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """Connect to a cluster.

    Yields:
        The package ray.

    Raises:
        ExecutorError: Ray is not installed, there is no cluster, or it has other versions.
    """
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", TRIES)  # which Ray reads when imported
    try:
        import ray  # noqa: PLC0415  (an extra)
    except ImportError:
        raise ExecutorError("executor: 'ray' needs the extra: pip install lfp-bench[ray]") from None
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False)
    except Exception as error:  # Ray has many for this, and no common class
        told = " ".join(str(error).split())
        if "ersion mismatch" in told:
            told = f"is of other versions than this process; {told}"
        else:
            told = f"is no cluster; {told}"
        raise ExecutorError(f"ray_address: {address!r} {told}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise `OSError` or `ValueError` where nobody answers; Ray would try that for minutes."""
    if plain := PLAIN.fullmatch(address):
        host, port = plain["host"].strip("[]"), int(plain["port"])
        if not 0 < port < 2**16:
            raise ValueError(f"port: {port}; allowed: 1 to {2**16 - 1}")
        socket.create_connection((host, port), SECONDS).close()


def check_room(ray: Any, cpus: int, gpus: float) -> None:
    """Raise `ExecutorError` if no node can ever make a run, for which Ray would wait for ever.

    Args:
        ray: the package, connected.
        cpus: that a run takes.
        gpus: share of one that a run takes.

    Raises:
        ExecutorError: there is no such node; the message says what is too much.
    """
    nodes = [node.get("Resources", {}) for node in ray.nodes() if node.get("Alive", True)]
    if not nodes:
        raise ExecutorError("ray: the cluster has no node that is alive")
    most = {name: max(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    if cpus > most["CPU"]:
        raise ExecutorError(
            f"threads: {cpus} for a run, where no node has more than {most['CPU']:g} CPUs; "
            f"allowed: --threads up to {most['CPU']:g}"
        )
    if gpus > most["GPU"]:
        raise ExecutorError(
            f"gpu_share: {gpus:g} for a run, where no node has more than {most['GPU']:g} GPUs; "
            f"allowed: --gpu-share up to {most['GPU']:g}, or --device cpu"
        )
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        raise ExecutorError(
            f"threads: {cpus} CPUs and {gpus:g} GPUs for a run, which no node has together; "
            "allowed: smaller --threads or --gpu-share"
        )


@contextmanager
def telling(ray: Any) -> Iterator[None]:
    """Turn what Ray raises of a run into what the run itself raised, or into `ExecutorError`.

    Raises:
        ExecutorError: a worker was killed, memory was short, a node is gone, or it lacks something.
    """
    errors = ray.exceptions
    try:
        yield
    except Exception as error:
        told = " ".join(str(error).split())
        cause = getattr(error, "cause", None)
        if isinstance(error, _classes(errors, "RayTaskError")) and isinstance(cause, Exception):
            if isinstance(cause, ImportError):
                raise ExecutorError(
                    f"ray: a node cannot import what it needs ({cause}); every node needs "
                    "lfp-bench[ray] in the same version"
                ) from None
            raise cause from None
        if isinstance(error, _classes(errors, "OutOfMemoryError")):
            raise ExecutorError(
                f"ray: a run was killed as its node was short of memory, twice; allowed: larger "
                f"--threads, so that fewer runs share a node ({told})"
            ) from None
        if isinstance(error, _classes(errors, "WorkerCrashedError")):
            raise ExecutorError(f"ray: a run's worker died twice; {told}") from None
        if isinstance(error, _classes(errors, "RayError")):
            raise ExecutorError(f"ray: {type(error).__name__}: {told}") from None
        raise


def _classes(errors: Any, name: str) -> tuple[type[BaseException], ...]:
    """Return the class of errors of this name, if this version of Ray has it."""
    found = getattr(errors, name, None)
    return (found,) if isinstance(found, type) else ()
