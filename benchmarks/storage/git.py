"""What git says of this code's own repository, whatever the environment says of another one."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Variables of git that say what is allowed, and not which repository is meant.
KEPT = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_SYSTEM", "GIT_EXEC_PATH")
SECONDS = 60.0  # that git may take


def environment(root: Path = ROOT) -> Mapping[str, str]:
    """Return the variables with which git looks for its repository in `root`, and not above it.

    A hook of git, for one, has the variables of its repository for all that it starts.
    """
    others = {n: v for n, v in os.environ.items() if not n.startswith("GIT_") or n in KEPT}
    # To look at a repository must not change it: it may be on a disk that cannot be written.
    return {**others, "GIT_CEILING_DIRECTORIES": str(root.parent), "GIT_OPTIONAL_LOCKS": "0"}


def ask(*arguments: str, root: Path = ROOT) -> str | None:
    """Return what git prints about the repository in `root`.

    None if there is none (the code is installed, perhaps inside of another repository), if git is
    missing, or if it refuses, as it does where the folder belongs to somebody else.
    """
    try:
        return asked(*arguments, root=root)
    except (OSError, subprocess.SubprocessError):
        return None


def asked(*arguments: str, root: Path = ROOT) -> str:
    """Return what git prints about the repository in `root`, and say why where it does not.

    Raises:
        FileNotFoundError: there is no repository, or no git.
        subprocess.SubprocessError: git refuses, or takes too long.
    """
    if not (root / ".git").exists():
        raise FileNotFoundError(f"{root} is no repository of git")
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
        timeout=SECONDS,
        env=environment(root),
    )
    return done.stdout.strip()
