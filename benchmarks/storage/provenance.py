"""What a result depends on besides its configuration: code, versions and machine."""

import ast
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, with_config
from typing_extensions import NotRequired, TypedDict

from benchmarks.storage import git
from benchmarks.storage.fields import Magnitude, Several

#: The code that decides what a run or a step measures.
CODE = (
    *("lfp_core/**/*.py", "baselines/**/*.py"),
    *(f"benchmarks/{package}/**/*.py" for package in ("data", "models", "costs", "runs")),
)
PACKAGES = (
    *("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "snntorch", "pyswarms"),
    "lfp-bench",
)
CPUS = Path("/proc/cpuinfo")
NOT_RESULTS = (":!benchmarks/stored", ":!benchmarks/asv/results")
ROOT = git.ROOT


class Environment(TypedDict):
    """What every environment that is stored says; those of newer code say more (:func:`describe`).

    pydantic refuses what has not these.
    """

    commit: str | None
    dirty: bool | None
    python: str
    torch: str
    numpy: str
    platform: str
    device: str
    processor: str
    threads: Several
    date: NotRequired[str]
    code: NotRequired[str]
    cores: NotRequired[Several | None]
    load: NotRequired[Magnitude | None]
    nodes: NotRequired[str]
    plugins: NotRequired[dict[str, str]]
    determinism: NotRequired[dict[str, Any]]


with_config(ConfigDict(extra="allow"))(Environment)


def describe(device: torch.device) -> dict[str, Any]:
    """Return the environment as it is now, in plain JSON types, without paths or host names."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **_commit(),
        "code": code_version(),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "platform": platform.platform(),
        "device": device.type,
        "processor": processor(device),
        "cores": os.cpu_count(),
        "load": load(),
        "threads": torch.get_num_threads(),
        # What the engine has loaded (lfp_core/native.py): it changes costs, and no results.
        "nodes": "C++" if "lfp_native" in sys.modules else "Python",
        # Runs ask torch for deterministic algorithms whatever this says (benchmarks.runs.training).
        "determinism": {
            "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
        "plugins": _plugins(),
    }


def load() -> float | None:
    """Return how many processes wanted a core in the last minute; None where nobody knows."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _commit() -> dict[str, Any]:
    """Return the commit of this code, and whether the code differs from it; None if not known.

    The environment variable LFP_COMMIT says it for a copy that has no history, or another one, with
    ``-dirty`` behind it if the code differs.
    """
    named = " ".join(os.environ.get("LFP_COMMIT", "").split())
    if named:
        return {"commit": named.removesuffix("-dirty") or None, "dirty": named.endswith("-dirty")}
    return checked_out(ROOT)


@cache  # a process runs the code that it has loaded, whatever is committed meanwhile
def checked_out(root: Path) -> dict[str, Any]:
    """Return the commit of a folder, and whether its code differs, at the first time of asking."""
    commit = git.ask("rev-parse", "--verify", "HEAD", root=root)
    # Results are no code: a study that is stored again must not call itself uncommitted.
    tracked = ("--porcelain", "--untracked-files=no", "--", *NOT_RESULTS)
    changes = git.ask("status", *tracked, root=root)
    unknown = commit is None or changes is None
    return {"commit": commit, "dirty": None if unknown else changes != ""}


@cache
def _version(package: str) -> str | None:
    """Return the version of an installed package; None for this one where it is a copy only."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _plugins() -> dict[str, str]:
    """Return the versions of the packages that add names (:mod:`baselines.registry`)."""
    groups = [group for group in entry_points().groups if group.startswith("lfp_bench.")]
    points = [point for group in groups for point in entry_points(group=group)]
    return {p.dist.name: p.dist.version for p in points if p.dist is not None}


def processor(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = CPUS.read_text(errors="replace") if CPUS.exists() else ""
    return _model(info) or platform.processor() or platform.machine()


def _model(info: str) -> str:
    """Return the model that Linux's list of CPUs tells; nothing if it tells none.

    On ARM that is the codes of its designer and of its part, and of each kind of core if a chip has
    several (https://www.kernel.org/doc/html/latest/arch/arm64/cpu-feature-registers.html).
    """
    found: dict[str, list[str]] = {}
    for line in info.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), []).append(value.strip())
    cores = zip(found.get("CPU implementer", []), found.get("CPU part", []), strict=False)
    if kinds := dict.fromkeys(f"implementer {maker} part {part}" for maker, part in cores):
        return f"ARM {', '.join(kinds)}"
    keys = ("model name", "cpu model", "cpu", "uarch")  # of x86, MIPS, POWER and RISC-V
    return next((found[key][0] for key in keys if key in found), "")


@cache
def code_version(*more: Path) -> str:
    """Return 16 hexadecimal digits that change with the code that decides what is measured.

    That is :data:`CODE`, and more files with an experiment of their own. Of the sources alone,
    committed or not, without comments and docstrings, whatever the version of Python.

    Raises `FileNotFoundError` for a pattern without files: code that was moved would count no more.
    """
    return digest("", *dict.fromkeys((*_code(), *more)))


def digest(begin: str, *paths: Path) -> str:
    """Return 16 hexadecimal digits of a text and of sources, without comments and docstrings."""
    found = sha256(begin.encode())
    for path in paths:
        found.update(path.name.encode() + _without_comments(path.read_bytes()))
    return found.hexdigest()[:16]


@cache  # as most sources are in the versions of all experiments
def _without_comments(source: bytes) -> bytes:
    """Return the text of a source's syntax tree, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[0] = ast.Pass()
    return _canonical(tree).encode()


def _canonical(node: Any) -> str:
    """Return a syntax tree as text, without the fields that are empty.

    Every version of Python adds fields, empty where the source has nothing for them, and some of
    3.12 add empty parts to f-strings; so `ast.dump` differs from version to version.
    """
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    if isinstance(node, ast.JoinedStr):
        node.values = [v for v in node.values if not (isinstance(v, ast.Constant) and not v.value)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
    return f"{type(node).__name__}({','.join(f'{n}={_canonical(v)}' for n, v in fields)})"


def _code() -> list[Path]:
    """Return the files of :data:`CODE`, in the order of their paths."""
    found = {pattern: list(ROOT.glob(pattern)) for pattern in CODE}
    for pattern, paths in found.items():
        if not paths:
            raise FileNotFoundError(f"CODE: a pattern matches no file: {pattern!r}")
    return sorted(path for paths in found.values() for path in paths)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def identity(description: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a mapping or dataclass as canonical JSON.

    Raises `ValueError` if a field is NaN or infinite, which JSON does not have.

    >>> from dataclasses import make_dataclass
    >>> identity(make_dataclass("Point", ["x", "y"])(1, 2))
    '689a8f1db9540258'
    """
    plain = description if isinstance(description, Mapping) else asdict(description)
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(canonical.encode()).hexdigest()[:16]
