"""The nodes of small networks in C++, if ``python -m lfp_core.build_native`` has built them.

In a small network most of what LFP costs more than SGD is the Python of the classes in
:mod:`lfp_core.slopes`. The nodes in ``native.cpp`` do the same without it, bit for bit
(``validation/engine/test_native.py``). They take plain tensors of float32 and float64 on the CPU,
and leave others to the classes, as well as what ``torch.compile`` traces.
"""

import hashlib
import platform
import sys
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch

from lfp_core import _torch

NAME = "lfp_native"  # of the module
SOURCE = Path(__file__).with_suffix(".cpp")


def place() -> Path:
    """Return where the library is built, by a name that says of which source, torch and Python."""
    of = (torch.__version__, sysconfig.get_config_var("SOABI"), platform.machine())
    digest = hashlib.sha256(repr(of).encode() + SOURCE.read_bytes()).hexdigest()
    return SOURCE.with_name(f"_native.{digest[:12]}.so")


def load(file: Path) -> ModuleType | None:
    """Return the module in a file that was built, or None if there is none."""
    if not file.is_file():
        return None
    spec = spec_from_file_location(NAME, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: The functions of ``native.cpp``; None where they were not built.
nodes: ModuleType | None = load(place())


def usable() -> ModuleType | None:
    """Return the functions, if they were built, for code that torch.compile does not trace."""
    return None if _torch.is_compiling() else nodes
