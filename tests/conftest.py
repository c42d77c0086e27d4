"""The settings of :mod:`validation.conftest`, which plug-ins use too, hold here as well."""

from collections.abc import Iterator

import pytest

from validation.conftest import (
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_runtest_setup,
    small_swarms,
)

__all__ = [
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_runtest_setup",
    "small_swarms",
]


@pytest.fixture(scope="module")
def quick_costs() -> Iterator[None]:
    """Measure the costs of a comparison in two rounds, for all tests of a module."""
    from benchmarks.experiments.comparison import study  # noqa: PLC0415  (slow)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "COST_REPEATS", 2)
        yield
