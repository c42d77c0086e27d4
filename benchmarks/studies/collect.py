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


def find(name: str, size: str, results: Path) -> Collection:
    """Return what there is of a study in the folder `results`.

    Args:
        name: of a folder there with a `study.json`, or else as `lfp-bench run` takes it.
        size: of the latter.
        results: where the studies are.

    Raises:
        ValueError: there is no such study.
        StoreError: nothing of it was begun, or a file cannot be read.
    """
    if re.fullmatch(r"\w[\w.-]*", name) and (results / name / "study.json").exists():
        return Collection(name, results / name, (_part("", results / name),))
    plan = read(name)
    folder = results / f"{Path(name).stem}-{size}"
    begun = sorted(path.parent.name for path in folder.glob("*/study.json"))
    if not begun:
        raise StoreError(f"{folder}: nothing of this study is stored there")
    parts = dict.fromkeys([*plan.options(size), *begun])  # what the plan no longer has comes last
    return Collection(name, folder, tuple(_part(p, folder / p) for p in parts), plan, size)


def _part(name: str, folder: Path) -> Part:
    description = described(folder / "study.json")
    if description is None:
        return Part(name, folder, None)
    return Part(
        name, folder, description, conduct.find(description.kind, description.options, folder)
    )
