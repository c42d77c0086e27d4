"""Files that are written whole or not at all, and what is said of those that were not."""

import hashlib
import json
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

#: The names of temporary files: who writes it, where that is known, and what no other one has.
LEFTOVER = re.compile(r"\.(?:(?P<host>[0-9a-f]{8})-(?P<process>[0-9]{1,9})-)?[0-9a-f]{32}\.tmp")
#: Seconds in which every file is written, after which nobody writes it any more.
OLD = 24 * 60 * 60

#: A line of a note on files: a digest and a name, as `sha256sum` writes them.
NOTED = re.compile(r"([0-9a-f]{64})  (.+)")


class StoreError(RuntimeError):
    """A file of a study is not what this harness wrote."""


def read_json(path: Path) -> Any | None:
    """Return what the file holds, None if there is no file.

    Raises:
        ValueError: it is not JSON, or null, or nested more deeply than anything that is written
            here.
        OSError: it cannot be read.
    """
    try:
        found = parsed(path.read_bytes())
    except FileNotFoundError:
        return None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if found is None:  # which is not to be taken for a file that is missing
        raise ValueError("null is no content")
    return found


def parsed(text: str | bytes) -> Any:
    """Return what strict JSON says; raises `ValueError` for what is not, NaN and 1e999 included."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    """Return a number that is finite."""
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON with :func:`write`; raises `ValueError` for NaN and infinities."""
    write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write(path: Path, content: bytes) -> None:
    """Make the file hold `content`, as :func:`replacing` does."""
    with replacing(path) as file:
        file.write(content)


def write_all(folder: Path, files: Mapping[Path, bytes], note: str) -> None:
    """Write files into a folder, in place of all that the last call with the same note wrote.

    Of those, what is not to be written again is deleted, unless somebody has changed it since.
    Other files stay.

    Args:
        folder: that the paths are in.
        files: contents by paths in the folder, none of which leads out of it.
        note: name of a file in the folder that lists what was written.
    """
    for path, digest in _noted(folder / note).items():
        if path not in files and _digest_of(folder / path) == digest:
            (folder / path).unlink()
    lines = (f"{_digest(content)}  {path.as_posix()}\n" for path, content in files.items())
    write(folder / note, "".join(lines).encode())
    for path, content in files.items():
        write(folder / path, content)


def _noted(note: Path) -> dict[Path, str]:
    """Return the digests of files by their paths in a folder, as a note says; none without one."""
    lines = note.read_text("utf-8", errors="replace").splitlines() if note.exists() else []
    found = {Path(line[2]): line[1] for line in map(NOTED.fullmatch, lines) if line}
    return {path: digest for path, digest in found.items() if _is_within(path)}


def _is_within(path: Path) -> bool:
    """Return whether a path leads into the folder that it is joined to."""
    return not path.is_absolute() and ".." not in path.parts


def _digest_of(path: Path) -> str | None:
    """Return the digest of a file; None if there is no file."""
    return _digest(path.read_bytes()) if path.is_file() else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of `path` in one step when it is complete.

    At no time is there a part of it: if the block raises, `path` stays as it was. Ctrl-C takes
    effect afterwards. A kill can leave a temporary file beside it (:func:`remove_leftovers`), never
    half a file. Who may read and write it is for the umask to say, as for every file that a program
    makes.

    Raises:
        OSError: it cannot be written; the message names `path`.
    """
    with _uninterrupted():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(_temporary())
        try:
            with scratch.open("x+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except BaseException as error:
            with suppress(OSError):  # a disk that can only be read refuses it even where none is
                scratch.unlink()
            # What the reader of the message knows; a write that fails tells no name at all.
            named = isinstance(error, OSError) and error.filename not in (None, str(scratch))
            if isinstance(error, OSError) and error.errno is not None and not named:
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise


def remove_leftovers(folder: Path, *, below: bool = True) -> None:
    """Delete what :func:`replacing` had begun in the folder when it was killed.

    What others are writing there stays. Of a process of another machine nobody knows here whether
    it is at work, so that its file is deleted when it is old.

    Args:
        folder: where files were written.
        below: whether to look into the folders in it as well.
    """
    for path in folder.rglob(".*.tmp") if below else folder.glob(".*.tmp"):
        name = LEFTOVER.fullmatch(path.name)
        if name and (_has_ended(name["host"], name["process"]) or _is_old(path)):
            path.unlink(missing_ok=True)


def _temporary() -> str:
    """Return the name of a file that this process writes."""
    return f".{_host()}-{os.getpid()}-{uuid4().hex}.tmp"


def _host() -> str:
    """Return what tells this machine from others, as short as names of files have to be."""
    return _digest(platform.node().encode())[:8]


def _has_ended(host: str | None, process: str | None) -> bool:
    """Return whether a process is known to work no more."""
    if process is None or host != _host():
        return False
    try:
        os.kill(int(process), 0)  # which asks alone
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's
        pass
    return False


def _is_old(path: Path) -> bool:
    """Return whether nobody has written to a file for longer than a file takes."""
    try:
        return time.time() - path.stat().st_mtime > OLD
    except FileNotFoundError:
        return False


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done; signals reach the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupts:
        raise KeyboardInterrupt
