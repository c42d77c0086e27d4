"""Settings of the whole suite."""

import gc
import os
from collections.abc import Iterator
from dataclasses import replace

import hypothesis
import pytest
import torch

from baselines import METHODS
from baselines.options import options
from baselines.pso import PSO
from lfp_core import _torch, native

# They need packages of environments of their own just to be imported: `tox -e peer`, `mutation`.
collect_ignore = ["peer/authors.py", "mutation"]

#: Markers of tests that are run when they are asked for by name.
LONG = ("coverage", "soak", "thorough")

# The networks of the tests are tiny: threads would only wait for each other.
torch.set_num_threads(1)

# Tests put wrong formulas into the classes in Python, which the nodes in C++ would not see. Where
# these were built, only what compares the two uses them.
native.nodes = None

# A run of CI is reproducible; `LFP_PROFILE=explore` looks for new examples, ten times as many
# (validation/selection.py).
hypothesis.settings.register_profile(
    "fixed", deadline=None, derandomize=True, database=None, print_blob=True
)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.register_profile(  # for validation/mutation.py, which wants no small example
    "mutation",
    hypothesis.settings.get_profile("fixed"),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)
hypothesis.settings.load_profile(os.environ.get("LFP_PROFILE", "fixed"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine or this version of torch cannot do, and say so."""
    if item.get_closest_marker("compiled") and _torch.RELEASE < _torch.OLDEST_COMPILED:
        pytest.skip("this torch does not compile what a context does")
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless ``-m`` names it."""
    unasked = [name for name in LONG if name not in config.option.markexpr]
    long = [item for item in items if any(map(item.get_closest_marker, unasked))]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_collection_finish() -> None:
    """Keep what was imported until now out of all later collections of garbage.

    Every cost is measured after a full one, which takes half a second of so many objects.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def double() -> Iterator[None]:
    """Make models and data in float64, the same in every test."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def small_swarms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every swarm have 20 particles: what is tested does not depend on it, but time does."""
    for method in METHODS.values():
        if issubclass(method, PSO):

            @options
            class Few(method.Options):  # type: ignore[misc, name-defined]
                particles: int = 20

            monkeypatch.setattr(method, "Options", Few)
            monkeypatch.setattr(method, "recipe", replace(method.recipe, particles=20))
