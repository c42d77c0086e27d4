"""Putting a changed text of one module into a running process."""

import gc
import inspect
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

ENGINE = "lfp_core"
OURS = (ENGINE, "baselines", "validation", "benchmarks")


def _shell(code: CodeType) -> tuple[Any, ...]:
    """Return what a piece of code does itself, without what the functions in it do."""
    constants = tuple(type(c) if isinstance(c, CodeType) else c for c in code.co_consts)
    return code.co_code, constants, code.co_names


def _functions(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _changed(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Yield the functions that differ, inner and outer, with what replaces them."""
    for before, after in zip(_functions(old), _functions(new), strict=True):
        yield from _changed(before, after)
        if before != after:
            yield before, after


def functions_of_engine() -> list[FunctionType]:
    """Return every function of the engine that exists now, also those in closures and classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what a look at an object deprecates
        everything = [each for each in gc.get_objects() if type(each) is FunctionType]
    folder = f"{os.sep}{ENGINE}{os.sep}"
    return [each for each in everything if folder in each.__code__.co_filename]


def swap(module: ModuleType, source: str, functions: list[FunctionType]) -> bool:
    """Replace the code of the functions that a change is in; return False if it is elsewhere."""
    assert module.__spec__ is not None
    loader: Any = module.__spec__.loader
    old = loader.get_code(module.__name__)
    new = compile(source, str(module.__file__), "exec")
    codes = dict(_changed(old, new))
    outside = [(old, new), *codes.items()]
    if any(_shell(a) != _shell(b) for a, b in outside if not a.co_flags & inspect.CO_OPTIMIZED):
        return False  # the module's or a class's own statements
    for function in functions:
        function.__code__ = codes.get(function.__code__, function.__code__)
    return True


class ChangedLoader(SourceFileLoader):
    """Loads a module from another text than its file has."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the changed text."""
        return compile(self.source, self.path, "exec")


class ChangedFinder(MetaPathFinder):
    """Finds that module alone."""

    def __init__(self, loader: ChangedLoader) -> None:
        self.loader = loader

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return the module's specification."""
        if fullname != self.loader.name:
            return None
        package = [str(Path(self.loader.path).parent)] if fullname == ENGINE else None
        spec = spec_from_loader(fullname, self.loader, is_package=package is not None)
        if spec is not None and package:
            spec.submodule_search_locations = package
        return spec


def import_again(name: str, path: str, source: str) -> None:
    """Forget all of the project's modules, and let the next import of one take another text."""
    for each in [each for each in sys.modules if each.split(".")[0] in OURS]:
        if not each.startswith(__package__):
            del sys.modules[each]
    sys.meta_path.insert(0, ChangedFinder(ChangedLoader(name, path, source)))
