"""An environment for asv: the Python that runs asv, with the project as it was at a commit.

asv would build an environment for each commit, with a torch of its own in each (5 GB and minutes).
Commits are told apart by what is checked out on the import path. Of the nodes in C++, which are
optional, each checkout has its own.
`asv.conf.json` names this module as a plugin.
"""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from asv.environment import Environment
from asv.util import check_output


class Checkout(Environment):  # type: ignore[misc]  # asv has no types
    """This Python with a checkout of the commit, kept in asv's own folder, before all else."""

    tool_name = "checkout"

    def __init__(
        self, conf: Any, python: str, requirements: dict[str, str], env_vars: dict[Any, str]
    ) -> None:
        """Be called by the versions of Python and torch, and not by a path."""
        python = ".".join(platform.python_version_tuple()[:2])
        torch = version("torch").partition("+")[0]
        self._requirements = {**requirements, "torch": torch}  # asv asks for it too early
        super().__init__(conf, python, self._requirements, env_vars)

    @classmethod
    def matches(cls, python: str) -> bool:
        """Take any Python that the configuration names for this one."""
        return True

    def check_presence(self) -> bool:
        """Tell that there is nothing to create."""
        os.makedirs(self._path, exist_ok=True)
        return True

    def run(self, args: list[str], **options: Any) -> Any:
        """Run Python on one of asv's scripts, which puts the checkout first on its path."""
        variables = {**options.pop("env", os.environ), "ASV_PYTHONPATH": self._build_root}
        return check_output([sys.executable, *args], env=variables, **options)

    def _install_project(self, repo: Any, commit_hash: str, build_dir: str) -> None:
        """Build the engine's nodes in C++, of commits that have them."""
        if Path(build_dir, "lfp_core", "build_native.py").exists():
            build = [sys.executable, "-m", "lfp_core.build_native"]
            check_output(build, cwd=build_dir, valid_return_codes=None)  # or it runs without them
