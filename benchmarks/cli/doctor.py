"""What this machine has of all that the harness can use, and how to get what is missing."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import torch

from benchmarks.data import ARCHIVES, default_root
from benchmarks.storage.provenance import PACKAGES, processor

GIGABYTE = 1e9
#: Of disk that results, checkpoints and the data sets need at most.
NEEDED = 2 * GIGABYTE
EXTRAS = {
    "ray": "runs on a cluster: pip install 'lfp-bench[ray]'",
    "asv": "the performance history: pip install asv",
    "lfprop": "comparison with the authors' code: tox -e peer",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for; the verdict says whether it is there, or else needed."""

    thing: str
    verdict: Literal["there", "optional", "missing"]
    detail: str


def examine(results: Path) -> Iterator[Finding]:
    """Look for everything; `results` is where studies are to be stored."""
    for package in PACKAGES:
        try:
            yield Finding(package, "there", version(package))
        except PackageNotFoundError:
            yield Finding(package, "missing", f"pip install {package}")
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    threads = torch.get_num_threads()
    yield Finding("CPU", "there", f"{processor(cpu)}; torch has {threads} threads unless told")
    if torch.cuda.is_available():
        yield Finding("GPU", "there", f"{processor(gpu)}, CUDA {torch.version.cuda}")
    else:
        yield Finding("GPU", "optional", "torch finds none; everything runs on the CPU too")
    for name, archive in ARCHIVES.items():
        if archive.is_there(default_root()):
            yield Finding(f"data: {name}", "there", str(archive.folder(default_root())))
        else:
            yield Finding(f"data: {name}", "optional", f"get it with: lfp-bench data {name}")
    for module, use in EXTRAS.items():
        yield Finding(module, "there" if find_spec(module) else "optional", use)
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    yield Finding("browser", "there" if browser else "optional", browser or "to see HTML reports")
    yield _writable(results)
    yield _space(results)


def _nearest(path: Path) -> Path:
    """Return the path or the nearest folder above it that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _writable(results: Path) -> Finding:
    try:
        with TemporaryFile(dir=_nearest(results)):
            return Finding("results folder", "there", f"{results} can be written")
    except OSError as error:
        told = f"{results} cannot be written ({error.strerror}); choose another with --results"
        return Finding("results folder", "missing", told)


def _space(results: Path) -> Finding:
    free = shutil.disk_usage(_nearest(results)).free
    told = f"{free / GIGABYTE:.1f} GB are free, {NEEDED / GIGABYTE:.0f} GB may be needed"
    return Finding("disk", "there" if free >= NEEDED else "missing", told)
