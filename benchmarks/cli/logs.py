"""What a command tells while it works: a bar on a terminal, lines with times and levels elsewhere.

Nobody watches a bar under nohup, in a job of SLURM or in continuous integration. There stderr gets
a line for a run that is done, at most one a second, and one a minute where none is done. A file
beside the folder of a study has all of them, whatever stderr is (:func:`log_of`).
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic

#: Whose messages are shown; other packages speak for themselves.
LOGGERS = ("baselines", "benchmarks")
FORMAT = "%(asctime)s %(levelname)s %(message)s"
OFTEN = 1.0  # seconds between lines on stderr, at least
SELDOM = 60.0  # seconds, at most

log = logging.getLogger(__name__)


class _File(logging.FileHandler):
    """Goes on where a line cannot be written, as on a full disk: results matter, and are told."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name of logging)
        """Leave the line out."""

    def close(self) -> None:
        """Close the file, which may not have room for what is left to be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def shown() -> Iterator[None]:
    """Show messages on stderr: warnings on a terminal, with times and levels and more elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: not getattr(record, "only_in_file", False))
    if sys.stderr.isatty():
        handler.setLevel(logging.WARNING)
    else:
        handler.setLevel(logging.INFO)
        handler.setFormatter(logging.Formatter(FORMAT))
    with _listening(handler):
        yield


def log_of(folder: Path) -> Path:
    """Return the log of the study in a folder; the folder itself holds results alone."""
    whole = folder.absolute()
    return whole.with_name(f"{whole.name}.log")


@contextmanager
def stored(folder: Path, command: str) -> Iterator[None]:
    """Append messages to the log of a study, with what begins it and what ends it.

    Raises:
        OSError: there can be no such file.
    """
    handler = _File(log_of(folder), encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter(FORMAT))
    with _listening(handler):
        _note(logging.INFO, f"begun: {command}")
        try:
            yield
        except BaseException as error:
            _note(logging.ERROR, f"ended by {type(error).__name__}: {error}")
            raise
        _note(logging.INFO, "done")


def _note(level: int, message: str) -> None:
    """Write a line to the log of the study alone: who gave the command knows it."""
    log.log(level, "%s", message, extra={"only_in_file": True})


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """Let a handler have our messages."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()


@contextmanager
def counted(total: int) -> Iterator[Callable[[str], None]]:
    """Yield what logs that one more of so many is done, and which."""
    lines, ended = _Lines(total), Event()
    thread = Thread(target=lines.keep_alive, args=(ended,), daemon=True)
    thread.start()
    try:
        yield lines.advance
    finally:
        ended.set()
        thread.join()


class _Lines:
    """How far the work is, as lines."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.told = total, 0, monotonic()
        self.latest = "nothing yet"

    def advance(self, what: str) -> None:
        """Tell that something is done; what comes too soon is for the file alone."""
        self.done, self.latest = self.done + 1, what
        due = self.done in (1, self.total) or monotonic() >= self.told + OFTEN
        if due:
            self.told = monotonic()
        extra = {"only_in_file": not due}
        log.info("%d of %d done: %s", self.done, self.total, what, extra=extra)

    def keep_alive(self, ended: Event) -> None:
        """Tell once a minute that the work goes on, where nothing is done meanwhile."""
        while not ended.wait(max(self.told + SELDOM - monotonic(), 0.01)):
            if monotonic() >= self.told + SELDOM:
                self.told = monotonic()
                log.info("at work: %d of %d done, last %s", self.done, self.total, self.latest)
