"""Builds lfp-bench, which needs lfp-core, a distribution of its own, in the same version."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Engine(BuildHookInterface[Any]):
    """Lets what is built depend on lfp-core.

    An editable installation puts this folder on the path, and so has the engine as it is here;
    lfp-core as it was released must not come before it.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the dependency, unless the installation is to be an editable one."""
        if version != "editable":
            build_data["dependencies"].append(f"lfp-core=={self.metadata.version}")
