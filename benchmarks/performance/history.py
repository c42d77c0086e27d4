"""The performance history: measure commits with the asv suite, and store what it finds.

``lfp-bench perf history`` measures HEAD, or the commits that are named, with this Python and the
suite as it is now, into `benchmarks/asv/results`. What a commit already has is measured again; what
--bench leaves out stays. The machine should do nothing else. ``lfp-bench perf dashboard`` makes a
site of the results, and ``lfp-bench perf gate`` compares two commits.
"""

import os
import re
import subprocess
import sys

import torch
from asv.machine import Machine, MachineCollection

from benchmarks.storage import git
from benchmarks.storage.provenance import ROOT, processor


def machine_name(device: torch.device) -> str:
    """Return a name that tells what the machine is, and not whose: asv's own is the host's."""
    name = processor(device)
    if device.type == "cpu":
        name = f"{os.cpu_count()}-core-{name}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def register(name: str) -> None:
    """Tell asv about this machine, in its file in the user's home."""
    MachineCollection.save(name, {**Machine.get_defaults(), "machine": name})


def resolved(commit: str) -> str:
    """Return the full hash of a commit; `ValueError` if git does not know it."""
    found = git.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if found is None:
        raise ValueError(f"commit: {commit!r} is none of this repository")
    return found


def measure(
    commits: list[str], bench: list[str], *, new_only: bool = False, store: bool = True
) -> int:
    """Run asv on commits, in turn; return its exit code, 2 if a benchmark failed.

    With `new_only`, leave out what they have.

    Returns:
        The exit code.
    """
    on_gpu = torch.cuda.is_available()
    name = machine_name(torch.device("cuda" if on_gpu else "cpu"))
    register(name)
    command = [sys.executable, "-m", "asv", "run", "--machine", name, "--no-pull"]
    # Forked processes start at once, but cannot use a GPU.
    command += ["--launch-method", "spawn" if on_gpu else "forkserver", "--show-stderr"]
    command += [f"--bench={pattern}" for pattern in bench]
    command += ["--skip-existing-successful"] * new_only + ["--dry-run"] * (not store)
    hashes = "\n".join(map(resolved, commits))
    return subprocess.run(
        [*command, "HASHFILE:-"],
        input=hashes,
        text=True,
        cwd=ROOT,
        env=git.environment(),
        check=False,
    ).returncode
