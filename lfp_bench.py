"""The command `lfp-bench`, before it imports anything that takes time or may be another package.

The project's packages have names that a folder of one's own may have as well. One that is found
before ours, by PYTHONPATH or the current folder, would be imported in its place; so it is named
here, and nothing is begun. Also as ``python -m lfp_bench``.
"""

import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

PACKAGES = ("lfp_core", "baselines", "validation", "benchmarks")
HOME = Path(__file__).resolve().parent


def shadows() -> Iterator[tuple[str, Path]]:
    """Yield each of the project's packages that is not found here, with what is found instead."""
    for name in PACKAGES:
        found = find_spec(name)
        if found is None:
            continue
        # A folder without __init__.py has places, and no file.
        files = [found.origin] if found.origin else list(found.submodule_search_locations or [])
        first = Path(files[0]).resolve() if files else HOME
        if not first.is_relative_to(HOME / name):
            yield name, first.parent if first.name == "__init__.py" else first


def open_closed_streams() -> None:
    """Let a stream that was closed by the caller, as by ``>&-``, be one that keeps nothing.

    A file that is opened later would have its number otherwise, and get what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (until the end)


def main() -> None:
    """Run the command line; exit code 2 if packages are in the way, or the engine is missing.

    So it is in a current folder that was deleted, where libraries of torch end the process.
    """
    open_closed_streams()
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:  # and not started in the background, where Ctrl-C is for somebody else
        signal.signal(signal.SIGINT, _heed)
    if not _has_folder():
        print("error: the current folder was deleted; change to another one", file=sys.stderr)
        sys.exit(2)
    if found := list(shadows()):
        told = ", ".join(f"{path} shadows the package {name}" for name, path in found)
        way_out = "take what contains it off PYTHONPATH, or run the command in another folder"
        print(f"error: {told} of lfp-bench in {HOME}; {way_out}", file=sys.stderr)
        sys.exit(2)
    if find_spec("lfp_core") is None:  # a distribution of its own, unlike the others
        print("error: lfp_core is not installed; pip install lfp-core", file=sys.stderr)
        sys.exit(2)
    from benchmarks.cli import app  # noqa: PLC0415  (not before it is known whose it is)

    try:
        app(prog_name="lfp-bench")
    finally:  # what is left to do is to end
        if heeded:
            signal.signal(signal.SIGINT, _leave)


def _has_folder() -> bool:
    """Return whether the current folder is there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _heed(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`; end at once where modules are being imported.

    An exception could be lost on its way through the imports, or become another one; and no file
    is being written then.
    """
    at = frame
    while at is not None:
        if at.f_code.co_filename.startswith("<frozen importlib"):
            _leave(number, frame)
        at = at.f_back
    signal.default_int_handler(number, frame)


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once, and say so."""
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":
    main()
