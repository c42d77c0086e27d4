"""What this machine has of all that the harness can use, what is in its way, and the way out."""

import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import torch

import lfp_bench
from baselines.machine import THREADS, available_memory, memory_limit, threads_for, usable_cpus
from benchmarks.cli.extras import EXTRAS, way_out
from benchmarks.data import ARCHIVES, DataError, default_root
from benchmarks.storage import git
from benchmarks.storage.provenance import PACKAGES, processor
from lfp_core import native

GIGABYTE = 1e9
#: Bytes of disk that results, checkpoints and data sets need at most, and of memory for MNIST.
NEEDED = 2 * GIGABYTE
OPTIONAL = {
    **{package: f"{use}: {way_out(package)}" for package, (_, use) in EXTRAS.items()},
    "lfprop": "comparison with the authors' code: tox -e peer",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHOOSE_DATA = "set $LFP_DATA to a folder that can be written"

Verdict = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        thing: what it is.
        verdict: "ok"; "warning" for what some commands lack, or what is slow or not recorded then;
            "error" for what has to be mended first.
        detail: what was found, and the way out.
    """

    thing: str
    verdict: Verdict
    detail: str


def examine(results: Path) -> Iterator[Finding]:
    """Yield what is found of packages, machine and data, and of the folder for the results."""
    yield from _packages()
    yield _cpus()
    yield _memory()
    if torch.cuda.is_available():
        gpu = torch.device("cuda")
        yield Finding("GPU", "ok", f"{processor(gpu)}, CUDA {torch.version.cuda}")
    else:
        yield Finding("GPU", "ok", "torch finds none; everything runs on the CPU too")
    yield _nodes()
    yield _repository()
    yield from _data()
    for module, use in OPTIONAL.items():
        yield Finding(module, "ok" if find_spec(module) else "warning", use)
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    yield Finding("browser", "ok" if browser else "warning", browser or "to see HTML reports")
    yield _writable("results folder", results, "choose another with --results")
    yield _space(results)


def _packages() -> Iterator[Finding]:
    """Look for packages that are missing, and for those that shadow ours."""
    for package in PACKAGES:
        try:
            yield Finding(package, "ok", version(package))
        except PackageNotFoundError:
            yield Finding(package, "error", f"missing; pip install {package}")
    shadows = dict(lfp_bench.shadows())
    for name, path in shadows.items():
        told = f"{path} is found in its place; take what contains it off PYTHONPATH"
        yield Finding(f"package {name}", "error", told)
    if not shadows:
        names = ", ".join(lfp_bench.PACKAGES)
        yield Finding("own packages", "ok", f"{names} are found in {lfp_bench.HOME}")


def _cpus() -> Finding:
    """Compare the CPUs that can be used with the threads that torch would start."""
    usable, there, threads = usable_cpus(), os.cpu_count() or 1, torch.get_num_threads()
    told = f"{processor(torch.device('cpu'))}; {usable} of {there} CPUs can be used"
    if usable < there:
        told += " (affinity, control group or scheduler)"
    if threads > usable:
        told += f", and torch starts {threads} threads; export {THREADS}={usable}"
        return Finding("CPU", "warning", told)
    return Finding("CPU", "ok", f"{told}; large models get {threads_for(1)} threads")


def _memory() -> Finding:
    """Tell how much memory is left, and by whose limit."""
    free, limit = available_memory(), memory_limit()
    if free == math.inf:
        return Finding("memory", "ok", "this system tells no limit")
    told = f"{free / GIGABYTE:.1f} GB are available"
    if limit < math.inf:
        told += f", of {limit / GIGABYTE:.1f} GB that the control group allows"
    if free < NEEDED:
        return Finding("memory", "warning", f"{told}; use fewer --jobs, or ask for more memory")
    return Finding("memory", "ok", told)


def _nodes() -> Finding:
    """Tell whether small networks learn as fast as they can."""
    if native.nodes is not None:
        return Finding("C++ nodes", "ok", "built, for this torch and Python")
    command = "python -m lfp_core.build_native"
    return Finding("C++ nodes", "ok", f"not built; for faster small networks on a CPU: {command}")


def _repository() -> Finding:
    """Tell whether results can name the commit of this code."""
    if named := os.environ.get("LFP_COMMIT"):
        return Finding("commit", "ok", f"{named}, as $LFP_COMMIT says")
    try:
        commit = git.asked("rev-parse", "--verify", "HEAD")
    except FileNotFoundError as error:
        told = f"unknown ({error}); results name the version alone, or what $LFP_COMMIT says"
        return Finding("commit", "ok", told)
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join(str(getattr(error, "stderr", "") or error).split())
        told = f"results do not name it, as git refuses ({reason}); if the folder is yours: "
        way_out = f"git config --global --add safe.directory {git.ROOT}"
        return Finding("commit", "warning", told + way_out)
    return Finding("commit", "ok", commit)


def _data() -> Iterator[Finding]:
    """Look for the files of data sets, and at the folder that they are in or will be."""
    try:
        root = default_root()
        there = {name: archive.is_there(root) for name, archive in ARCHIVES.items()}
    except DataError as error:
        yield Finding("data folder", "error", str(error))
        return
    folder = _writable("data folder", root, CHOOSE_DATA)
    if folder.verdict == "error" and all(there.values()):
        folder = Finding("data folder", "ok", f"{root} can only be read, and has all data sets")
    yield folder
    for name, archive in ARCHIVES.items():
        if there[name]:
            yield Finding(f"data: {name}", "ok", str(archive.folder(root)))
        else:
            yield Finding(f"data: {name}", "warning", f"get it with: lfp-bench data {name}")


def _nearest(path: Path) -> Path:
    """Return the path or the nearest folder above it that exists."""
    places = (path.absolute(), *path.absolute().parents)
    return next((place for place in places if os.path.lexists(place)), Path("/"))


def _writable(thing: str, folder: Path, way_out: str) -> Finding:
    try:
        with TemporaryFile(dir=_nearest(folder)):
            return Finding(thing, "ok", f"{folder} can be written")
    except OSError as error:
        told = f"{folder} cannot be written ({error.strerror}); {way_out}"
        return Finding(thing, "error", told)


def _space(results: Path) -> Finding:
    try:
        free = shutil.disk_usage(_nearest(results)).free
    except OSError as error:
        return Finding("disk", "error", f"{results}: {error.strerror}; choose another --results")
    told = f"{free / GIGABYTE:.1f} GB are free, {NEEDED / GIGABYTE:.0f} GB may be needed"
    if free < NEEDED:
        return Finding("disk", "error", f"{told}; make room, or choose another --results")
    return Finding("disk", "ok", told)
