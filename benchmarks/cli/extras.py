"""What some commands need and not everybody has: extras of the package, and the repository."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from benchmarks.storage.git import ROOT

#: Packages that are imported by some commands alone: the extra that has them, and what it is for.
EXTRAS = {
    "ray": ("ray", "studies on many machines"),
    "asv": ("history", "the performance history"),
    "timm": ("zoos", "more models for coverage"),
    "transformers": ("zoos", "more models for coverage"),
    "pytest": ("test", "tests, also of plug-ins"),
    "hypothesis": ("test", "tests, also of plug-ins"),
}


def way_out(package: str) -> str:
    """Return how a package is installed that some commands need.

    >>> way_out("asv")
    "pip install 'lfp-bench[history]'"
    """
    return f"pip install 'lfp-bench[{EXTRAS[package][0]}]'"


def missing(error: ModuleNotFoundError) -> str | None:
    """Return a line on the package that was not found, if it is one of an extra."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"{package} is not installed, which is for {EXTRAS[package][1]}; {way_out(package)}"


def unloadable(error: ImportError) -> str | None:
    """Return a line on the package whose compiled part cannot be loaded, if it is that.

    The reason may be a limit of memory, or a library of the system that is missing.
    """
    path = Path(error.path or "")
    if not path.name.endswith(tuple(EXTENSION_SUFFIXES)):
        return None
    while (path.parent / "__init__.py").exists():
        path = path.parent
    return f"{path.name.partition('.')[0]} cannot be loaded: {' '.join(str(error).split())}"


def needs_repository(thing: str) -> None:
    """Raise `ValueError` where there is no repository, as what is installed has none."""
    if not (ROOT / "asv.conf.json").exists():
        raise ValueError(f"{thing} needs a clone of the repository, which {ROOT} is not")
