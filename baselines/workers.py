"""Processes that work for this one: Ctrl-C is this one's to hear, and they end when it does."""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context
from typing import Any, TypeVar

#: What takes seconds to import: torch, and what its optimisers import at their first step.
IMPORTED = ("torch", "torch._dynamo")

#: Bytes of the folder of temporary files, at most: sockets in it have paths of less than 104, on
#: Linux 108, of which multiprocessing takes 32 for names of its own.
LONGEST = 70

T = TypeVar("T")
R = TypeVar("R")


def pool_of(
    jobs: int, prepare: Callable[..., Any] | None = None, *given: Any
) -> ProcessPoolExecutor:
    """Return a pool of processes, which begin when there is work.

    Args:
        jobs: how many processes there are.
        prepare: what each of them calls first, if anything.
        given: to that.

    Returns:
        The pool; work goes to it by :func:`submitted` alone.
    """
    # Processes that were forked from this one would share the locks of threads that they do not
    # have. On Linux one without threads forks them all, so that they have torch at once and share
    # its memory; elsewhere what libraries of the system do is not made for that.
    context = get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload([*IMPORTED])
    return ProcessPoolExecutor(jobs, context, _begin, (dict(os.environ), prepare, *given))


def submitted(
    pool: ProcessPoolExecutor, work: Callable[[T], R], items: Iterable[T]
) -> dict[Future[R], T]:
    """Give the pool the work on each item.

    Processes that begin now inherit that Ctrl-C is held back, or it would be told by each of them
    while it imports, which takes seconds.

    Returns:
        The items by what their results will be in.

    Raises:
        ValueError: processes cannot talk to each other, for the path of their sockets is too long.
    """
    with _without_interrupts(), _telling_of_long_paths():
        return {pool.submit(work, item): item for item in items}


def ended(pool: ProcessPoolExecutor) -> None:
    """End the processes at once; nobody waits for the work that is under way."""
    for process in multiprocessing.active_children():
        process.terminate()
    pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back in this thread, and in threads and processes that it begins meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _telling_of_long_paths() -> Iterator[None]:
    """Name the variable that says where sockets are, if their paths are too long.

    Raises:
        ValueError: they are.
        OSError: as it was raised, of everything else.
    """
    try:
        yield
    except OSError as error:
        if "AF_UNIX path too long" not in str(error):
            raise
        folder = tempfile.gettempdir()
        raise ValueError(
            f"$TMPDIR: {folder!r} is too long for the sockets of several processes "
            f"({len(os.fsencode(folder))} bytes); allowed: at most {LONGEST} bytes, or --jobs 1"
        ) from error


def _begin(environment: Mapping[str, str], prepare: Callable[..., Any] | None, *given: Any) -> None:
    """Leave Ctrl-C to the parent process, which was held back so far, and end when it does.

    The process that this one was forked from may have been begun in another environment.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    if prepare is not None:
        prepare(*given)


def _end_with(sentinel: int) -> None:
    """Wait for the end of the parent process, and end then."""
    connection.wait([sentinel])
    os._exit(1)
