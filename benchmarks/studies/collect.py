"""What a study has stored so far, without making a run: all of it, or a part."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from benchmarks.experiments import conduct
from benchmarks.experiments.base import Experiment, Found
from benchmarks.storage.files import StoreError, read_json
from benchmarks.storage.schema import current
from benchmarks.studies.plan import Plan, kind_of, read
from benchmarks.studies.written import SIZES, SOURCE


class Description(NamedTuple):
    """What the `study.json` of a part says.

    Attributes:
        command: that was last at work on it.
        kind: of experiment.
        options: of the experiment.
        content: all of it.
    """

    command: str
    kind: Experiment[Any]
    options: BaseModel
    content: dict[str, Any]


def described(path: Path) -> Description | None:
    """Return what a `study.json` says; None if there is no file.

    Raises:
        StoreError: it does not say what a study is.
    """
    if not path.exists():
        return None
    try:
        content = current(read_json(path))
        kind = kind_of(content["experiment"])
        options = kind.schema.model_validate(content["options"])
        return Description(content["command"], kind, options, content)
    except (AttributeError, KeyError, TypeError, ValueError, StoreError) as error:
        told = " ".join(str(error).split())
        kept = "" if isinstance(error, StoreError) else f"{type(error).__name__}: "
        raise StoreError(f"{path}: does not say what the study is ({kept}{told})") from None


@dataclass(frozen=True)
class Part:
    """One part of a study, as far as it is made.

    Attributes:
        name: of the part; empty for a study of one.
        folder: where it is or will be.
        description: its `study.json`; None if it was not begun.
        found: what is stored.
    """

    name: str
    folder: Path
    description: Description | None
    found: Found = field(default_factory=Found)


@dataclass(frozen=True)
class Collection:
    """A study with all of its parts; `plan` and `size` are of one that is written down."""

    name: str
    folder: Path
    parts: tuple[Part, ...]
    plan: Plan | None = None
    size: str | None = None


def find(name: str, size: str | None, results: Path) -> Collection:
    """Return what there is of a study in the folder `results`.

    Args:
        name: of a folder there, or else as `lfp-bench run` takes it.
        size: of the latter; by default the one that is stored.
        results: where the studies are.

    Raises:
        ValueError: there is no such study, or several sizes of it.
        StoreError: nothing of it was begun, or a file cannot be read.
    """
    folder = results / name
    if re.fullmatch(r"\w[\w.-]*", name) and folder.is_dir():
        if (folder / "study.json").exists():
            return Collection(name, folder, (_part("", folder),))
        if (folder / SOURCE).exists():
            return _written_down(*_source(folder), results)
    return _written_down(name, size, results)


def _source(folder: Path) -> tuple[str, str]:
    """Return which study and size the folder says that it is of."""
    path = folder / SOURCE
    noted = read_json(path)
    study = noted.get("study") if isinstance(noted, dict) else None
    size = folder.name.rpartition("-")[2]
    if not isinstance(study, str) or size not in SIZES:
        raise StoreError(f"{path}: does not say what the study is")
    return str(folder / study) if study.endswith((".yaml", ".yml")) else study, size


def _written_down(name: str, size: str | None, results: Path) -> Collection:
    """Return a study with a file of its own."""
    plan = read(name)
    size = stored_size(name, size, results)
    folder = results / f"{Path(name).stem}-{size}"
    begun = sorted(path.parent.name for path in folder.glob("*/study.json"))
    if not begun:
        others = " or ".join(f"--size {one}" for one in stored_sizes(name, results))
        told = f"; there is {others}" if others else ""
        raise StoreError(f"{folder}: nothing of this study is stored there{told}")
    parts = dict.fromkeys([*plan.options(size), *begun])  # what the plan no longer has comes last
    return Collection(name, folder, tuple(_part(p, folder / p) for p in parts), plan, size)


def stored_sizes(name: str, results: Path) -> list[str]:
    """Return the sizes in which something of a study is stored."""
    stem = Path(name).stem
    return [size for size in SIZES if any((results / f"{stem}-{size}").glob("*/study.json"))]


def stored_size(name: str, size: str | None, results: Path) -> str:
    """Return a size that was asked for, or else the one that is stored, or else `cpu`.

    Raises:
        ValueError: several are stored.
    """
    if size is not None:
        return size
    found = stored_sizes(name, results)
    if len(found) > 1:
        raise ValueError(
            f"size: {Path(name).stem} is stored in several; allowed: "
            f"{' or '.join(f'--size {one}' for one in found)}"
        )
    return found[0] if found else "cpu"


def find_all(results: Path) -> list[Collection]:
    """Return all studies in the folder `results` of which a run is stored.

    Raises:
        ValueError: a study is named that there is not.
        StoreError: there is none, or a file cannot be read.
    """
    names = {p.parent.name for n in ("study.json", SOURCE) for p in results.glob(f"*/{n}")}
    begun = [name for name in sorted(names) if any((results / name).rglob("study.json"))]
    studies = [find(name, None, results) for name in begun]
    found = [one for one in studies if any(part.found.runs for part in one.parts)]
    if not found:
        raise StoreError(f"{results}: no run of a study is stored there")
    return found


def _part(name: str, folder: Path) -> Part:
    description = described(folder / "study.json")
    if description is None:
        return Part(name, folder, None)
    return Part(
        name, folder, description, conduct.find(description.kind, description.options, folder)
    )
