"""Study files as they are written: titles, sizes and parts, without what a part asks for.

This needs neither torch nor the kinds of experiments, so a list or a name comes at once. What is in
a file says :mod:`benchmarks.studies.plan`.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from baselines.registry import pick, unknown_key
from benchmarks.storage.names import checked_name, distinct, refuse_repeated
from benchmarks.studies import strict_yaml

FOLDER = Path(__file__).parent
SIZES = ("smoke", "cpu", "gpu", "paper")
#: Says in the folder of a study which file it was made of.
SOURCE = "source.json"
#: What is written beside the folders of the parts, which so cannot have these names.
TAKEN = (SOURCE, "study.json", "report.html", "report.md", "report.tex", "tables")
#: Parts with the points of a grid: more than any study needs, and fewer than take time.
MOST_PARTS = 1000
Size = Literal["smoke", "cpu", "gpu", "paper"]


class PlanError(ValueError):
    """A study file that does not say what it has to."""


class Written(BaseModel):
    """The content of a study file.

    Attributes:
        title: what the study is about, as the heading of its report.
        source: where the experiment comes from, such as a paper and its section.
        experiment: the kind of all parts, one of those below.
        common: keys that all parts have.
        parts: the keys of each part, by its name; every part becomes a table. Without parts the
            study is a single one.
        grid: values of one or more keys: there is one part for each combination of them, and of the
            parts above.
        sizes: by `smoke`, `cpu`, `gpu` or `paper`: keys that replace those of all parts, but for
            those of the grid, and `parts`, a list of the parts that the size has.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str = ""
    experiment: str = "comparison"
    common: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    sizes: Annotated[dict[Size, dict[str, Any]], Field(min_length=1)]

    def options(self, size: str) -> dict[str, dict[str, Any]]:
        """Return the options of parts as a size has them.

        Args:
            size: of the study.

        Returns:
            The options by the names of the parts.

        Raises:
            ValueError: there is no such size or part, one is named twice, there are too many, or a
                folder cannot have a name.
        """
        changes = dict(pick("size", size, {str(name): own for name, own in self.sizes.items()}))
        parts = _named_parts(self.parts, changes.pop("parts", None))
        for field, values in self.grid.items():
            refuse_repeated(f"grid.{field}", values)
        points = prod([len(parts) or 1, *map(len, self.grid.values())])
        if points > MOST_PARTS:
            raise ValueError(f"grid: {points} parts; allowed: at most {MOST_PARTS}")
        self.refuse_of_grid(f"sizes.{size}.", changes)
        found = {}
        for (part, own), *point in product(
            (parts or {"": {}}).items(),
            *([(field, value) for value in values] for field, values in self.grid.items()),
        ):
            name = "-".join([*([part] if part else []), *(f"{f}-{v}" for f, v in point)])
            found[_checked_part("grid", name)] = {**self.common, **own, **dict(point), **changes}
        distinct("grid", found)
        return found

    def refuse_of_grid(self, path: str, changes: Iterable[str]) -> None:
        """Refuse a key of the grid among those that replace the keys of all parts.

        The parts would keep the names of values that they do not have.

        Raises:
            ValueError: there is one.
        """
        for key in changes:
            if key in self.grid:
                others = "keys that are not in the grid, which parts are named after"
                raise ValueError(f"{path}{key}: the grid has this key; allowed: {others}")


W = TypeVar("W", bound=Written)


def path_of(name: str) -> Path:
    """Return the file of the study of this name in the package, or one that ends with .yaml.

    Raises:
        ValueError: there is no such study in the package.
    """
    if not name.endswith((".yaml", ".yml")):
        pick("study", name, dict.fromkeys(names()))
        return FOLDER / f"{name}.yaml"
    path = Path(name)
    if path.parent == FOLDER:
        pick("study", path.stem, dict.fromkeys(names()))
    return path


def read_as(form: type[W], name: str) -> W:
    """Return the study of this name in the package, or in a file that ends with .yaml.

    Raises:
        PlanError: there is none, it is not YAML, or a field is wrong.
    """
    path = path_of(name)
    try:
        written = form.model_validate(strict_yaml.load(path.read_text("utf-8-sig")))
        if not written.parts and not written.grid:
            raise PlanError("parts: there is none, and no grid; allowed: at least one")
        for size in written.sizes:
            written.options(size)
    except FileNotFoundError:
        raise PlanError(f"{name}: there is no such file") from None
    except OSError as error:
        raise PlanError(f"{name}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(f"{name}: not YAML; {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise PlanError(f"{name}: {first(error, form)}") from None
    except ValueError as error:
        raise PlanError(f"{name}: {error}") from None
    return written


def names() -> list[str]:
    """Return the names of the studies in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def first(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one of pydantic's complaints: where, what was given, and what is allowed.

    A key that is unknown explains one that is missing.
    """
    found = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    # Of types that are allowed one beside the other, pydantic adds the one that it tried.
    path = ".".join(part for part in map(str, found["loc"]) if "[" not in part) or "the file"
    if found["type"] == "extra_forbidden":
        return unknown_key(path, model.model_fields)
    if found["type"] == "value_error":  # of a validator of ours, which says all
        return str(found["ctx"]["error"])
    told = found["msg"].partition(", not ")[0]
    return f"{path}: {told}, not {found['input']!r}"


def _checked_part(field: str, name: str) -> str:
    """Return the name of a part's folder; raise `ValueError` if something else has it."""
    checked_name(field, name)
    if name.casefold() in TAKEN:
        raise ValueError(
            f"{field}: {name!r} is what a file beside the parts is called; allowed: another name"
        )
    return name


def _named_parts(parts: Mapping[str, dict[str, Any]], chosen: Any) -> dict[str, dict[str, Any]]:
    """Return the parts that a size has chosen, or all; raise `ValueError` for a name."""
    for part in parts:
        _checked_part("parts", part)
    distinct("parts", parts)
    if chosen is None:
        return dict(parts)
    if not isinstance(chosen, list) or not chosen or not all(isinstance(c, str) for c in chosen):
        raise ValueError(f"parts: {chosen!r}; allowed: a list of {', '.join(parts)}")
    refuse_repeated("parts", chosen)
    return {part: pick("parts", part, parts) for part in chosen}
