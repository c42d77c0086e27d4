"""The settings of :mod:`validation.conftest`, which plug-ins use too, hold here as well."""

from validation.conftest import (
    pytest_collection_modifyitems,
    pytest_runtest_setup,
    small_swarms,
)

__all__ = ["pytest_collection_modifyitems", "pytest_runtest_setup", "small_swarms"]
