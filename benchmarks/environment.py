"""What a result depends on besides its configuration: code, versions and machine."""

import platform
import subprocess
from datetime import datetime, timezone
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

CODE = ("lfp_core", "baselines", "benchmarks")
PACKAGES = (
    *("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "snntorch", "pyswarms"),
    "lfp-bench",
)
ROOT = Path(__file__).parent.parent


def describe(device: torch.device) -> dict[str, Any]:
    """Return the environment as it is now, in plain JSON types, without paths or host names."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        # Results are no code: a study that is stored again must not call itself uncommitted.
        "dirty": bool(
            _git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/stored")
        ),
        "code": _code(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "platform": platform.platform(),
        "device": device.type,
        "processor": processor(device),
        "threads": torch.get_num_threads(),
    }


def processor(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _code() -> str:
    """Return 16 hexadecimal digits of the SHA-256 of this code, committed or not."""
    digest = sha256()
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str | None:
    """Return what git says about this code's own repository; None if it has none."""
    if not (ROOT / ".git").exists():  # installed somewhere, perhaps inside another repository
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
