"""The performance history: measure commits with the asv suite, and store what it finds.

``lfp-bench perf history`` measures HEAD, or the commits that are named, with this Python and the
suite as it is now, into `benchmarks/asv/results`. What a commit already has is measured again; what
--bench leaves out stays. The machine should do nothing else. ``lfp-bench perf dashboard`` makes a
site of the results, and ``lfp-bench perf gate`` compares two commits.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from asv.machine import MachineCollection

from benchmarks.performance.hosts import MACHINE, identify
from benchmarks.storage import git
from benchmarks.storage.files import read_json, write_json
from benchmarks.storage.provenance import ROOT

RESULTS = ROOT / "benchmarks" / "asv" / "results"


def register(host: str, results: Path) -> None:
    """Tell asv about this host, in its file in the user's home, as it is stored in the results.

    asv writes what it is told into the results again, and so changes nothing there.
    """
    MachineCollection.save(host, read_json(results / host / MACHINE))


def resolved(commit: str) -> str:
    """Return the full hash of a commit; `ValueError` if git does not know it."""
    found = git.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if found is None:
        raise ValueError(f"commit: {commit!r} is none of this repository")
    return found


def measure(
    commits: list[str],
    bench: list[str],
    *,
    new_only: bool = False,
    store: bool = True,
    results: Path = RESULTS,
) -> int:
    """Run asv on commits, in turn; return its exit code, 2 if a benchmark failed.

    Args:
        commits: to be measured.
        bench: patterns of benchmarks; all if there is none.
        new_only: leave out what they have.
        store: keep the numbers.
        results: where they are kept.

    Returns:
        The exit code.
    """
    hashes = "\n".join(map(resolved, commits))
    on_gpu = torch.cuda.is_available()
    with TemporaryDirectory() as folder:
        results = results if store else Path(folder)
        host = identify(results, torch.device("cuda" if on_gpu else "cpu"))
        register(host, results)
        command = [sys.executable, "-m", "asv", "run", "--machine", host, "--no-pull"]
        command += ["--config", str(_configuration(Path(folder), results))]
        # Forked processes start at once, but cannot use a GPU.
        command += ["--launch-method", "spawn" if on_gpu else "forkserver", "--show-stderr"]
        command += [f"--bench={pattern}" for pattern in bench]
        command += ["--skip-existing-successful"] * new_only + ["--dry-run"] * (not store)
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.run(
            [*command, "HASHFILE:-"],
            input=hashes,
            text=True,
            cwd=ROOT,
            env={**git.environment(), "PYTHONPATH": path},
            check=False,
        ).returncode


def _configuration(folder: Path, results: Path) -> Path:
    """Write asv's configuration into the folder, with these results and paths from the root."""
    content = read_json(ROOT / "asv.conf.json")
    assert content is not None
    content["results_dir"] = str(results.absolute())
    for field in ("repo", "benchmark_dir", "env_dir", "html_dir"):
        content[field] = str(ROOT / content[field])
    path = folder / "asv.conf.json"
    write_json(path, content)
    return path
