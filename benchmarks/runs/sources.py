"""The code of other packages that has a part in a run: where it changes, the run is another one."""

import inspect
import sys
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from baselines import REWARDS, BasicSettings
from baselines.registry import plug_ins
from benchmarks.data import DATASETS
from benchmarks.models import ACTIVATIONS, MODELS
from benchmarks.runs.run import Run
from benchmarks.storage.provenance import PACKAGES, digest

#: The code of these belongs to every result, or their versions stand in its environment.
KNOWN = {
    *("lfp_core", "baselines", "benchmarks", "validation"),
    *PACKAGES,
    *sys.stdlib_module_names,
} - {"__main__"}


def code_of(code: str, run: Run) -> str:
    """Return the version of all code that a run depends on, given that of ours."""
    method, data = run.methods.get(run.method), DATASETS.get(run.dataset)
    network, rewards = _made_of(run.activation, run.model), _rewards(run.settings)
    return combined(code, (method, None if data is None else data.load, *network, *rewards))


def code_of_steps(
    code: str, settings: Mapping[str, BasicSettings], activation: str, model: str
) -> str:
    """Return the version of all code that the steps of methods depend on, given that of ours."""
    rewards = [reward for one in settings.values() for reward in _rewards(one)]
    methods = (Run.methods.get(method) for method in settings)
    return combined(code, (*methods, *_made_of(activation, model), *rewards))


def combined(code: str, used: Iterable[Any]) -> str:
    """Return the version of our code, or one that changes with what is used besides as well."""
    files = [path for item in used if item is not None for path in files_of(item)]
    return _digest(code, *dict.fromkeys(files)) if files else code


@cache
def _digest(code: str, *files: Path) -> str:
    return digest(code, *files)


def files_of(item: Any) -> tuple[Path, ...]:
    """Return the files of the package or module that a function or class is from, if not known."""
    while isinstance(item, partial) or hasattr(item, "__wrapped__"):
        item = item.func if isinstance(item, partial) else inspect.unwrap(item)
    module = getattr(item, "__module__", None) or type(item).__module__
    top = module.partition(".")[0]
    return () if top in KNOWN else _files_of_package(top)


@cache
def _files_of_package(name: str) -> tuple[Path, ...]:
    module = sys.modules.get(name)
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    if folders:
        return tuple(sorted(path for folder in folders for path in folder.rglob("*.py")))
    file = getattr(module, "__file__", None)
    return () if file is None else (Path(file),)


def plug_ins_of(run: Run) -> str:
    """Return the kinds and names of the plug-ins that have a part in a run."""
    return plug_ins(
        (run.methods, run.method),
        (ACTIVATIONS, run.activation),
        (MODELS, run.model),
        (DATASETS, run.dataset),
        (REWARDS, getattr(run.settings, "reward", "")),
    )


def _made_of(activation: str, model: str) -> tuple[Any, Any]:
    units, network = ACTIVATIONS.get(activation), MODELS.get(model)
    return None if units is None else units.make, None if network is None else network.layers


def _rewards(settings: BasicSettings) -> list[Any]:
    reward = REWARDS.get(getattr(settings, "reward", ""))
    return [] if reward is None else [reward]
