"""What a study has stored so far, without making a run: all of it, or a part."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from baselines.registry import pick
from benchmarks.experiments import conduct
from benchmarks.experiments.base import Experiment, Found
from benchmarks.runs.store import readable
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
        kind.runs(options)  # which looks at what the options are together
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
            if size is not None:
                raise ValueError(
                    f"size: {size!r}; allowed: none, as {folder} is not of a study file"
                )
            return Collection(name, folder, (_part("", folder),))
        if (folder / SOURCE).exists():
            study, own = _source(folder)
            if size not in (None, own):
                raise ValueError(f"size: {size!r}; allowed: {own!r}, which {folder} is of")
            return _written_down(study, own, results)
    return _written_down(name, size, results)


def noted_study(folder: Path) -> str | None:
    """Return which study the folder says that it is of; None if it says nothing.

    Raises:
        StoreError: the file that says so is not one that was written here.
    """  # noqa: DOC501  (`readable` makes that error)
    path = folder / SOURCE
    with readable(path):
        noted = read_json(path)
        if noted is None:
            return None
        study = current(noted)["study"]
        if not isinstance(study, str) or not study:
            raise TypeError(f"study: {study!r}; allowed: the name of a study, or its file")
    return study


def _source(folder: Path) -> tuple[str, str]:
    """Return which study and size the folder says that it is of."""
    study, size = noted_study(folder), folder.name.rpartition("-")[2]
    if study is None or size not in SIZES:
        raise StoreError(f"{folder / SOURCE}: does not say what the study is")
    return str(folder / study) if study.endswith((".yaml", ".yml")) else study, size


def _written_down(name: str, size: str | None, results: Path) -> Collection:
    """Return a study with a file of its own."""
    plan = read(name)
    size = stored_size(name, size, results, plan.sizes)
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


def stored_size(name: str, size: str | None, results: Path, sizes: Iterable[str]) -> str:
    """Return a size that was asked for, or else the one that is stored, or else a first one.

    Args:
        name: of the study.
        size: that was asked for, if one was.
        results: where studies are stored.
        sizes: that the study has. If nothing is stored, `cpu` comes first.

    Returns:
        The size.

    Raises:
        ValueError: the study has no such size, or several are stored.
    """
    own = list(sizes)
    if size is not None:
        pick("size", size, dict.fromkeys(own))
        return size
    found = stored_sizes(name, results)
    if len(found) > 1:
        raise ValueError(
            f"size: {Path(name).stem} is stored in several; allowed: "
            f"{' or '.join(f'--size {one}' for one in found)}"
        )
    return found[0] if found else next(one for one in ("cpu", *own) if one in own)


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
