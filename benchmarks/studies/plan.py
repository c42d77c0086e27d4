"""Studies that are written down: one YAML file each, in several sizes.

::

    title: LFP and SGD on three toy data sets
    source: arXiv 2308.12053, appendix A.7.1
    experiment: comparison                             the kind; this one may be left out
    common: {model: toy-mlp, methods: [lfp, sgd]}      what all parts have
    parts:                                             one table each
      blobs: {dataset: blobs}
      circles: {dataset: circles}
    grid: {epsilon: [0, 0.1]}                          or one for each part and combination of these
    sizes:                                             what a size changes, in all parts
      smoke: {seeds: 1, epochs: 1}
      cpu: {seeds: 3}                                  what two cores finish
      paper: {seeds: 5, parts: [blobs]}                `parts` of a size: those that it has

What a part may say is for the kind of experiment to tell (:mod:`benchmarks.experiments.kinds`);
of a comparison, it is the options of ``lfp-bench compare``
(:class:`benchmarks.experiments.comparison.experiment.Options`), with those of the methods: for all
that have them or, in ``options: {lfp: {epsilon: 0.1}}``, for one.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from baselines.registry import pick
from benchmarks.experiments.base import STRICT, Experiment
from benchmarks.experiments.options import refuse_repeated, unknown_key
from benchmarks.storage.names import checked_name, distinct
from benchmarks.studies import strict_yaml

FOLDER = Path(__file__).parent
SIZES = ("smoke", "cpu", "gpu", "paper")
#: Says in the folder of a study which file it was made of.
SOURCE = "source.json"
#: What a report writes beside the folders of the parts, which so cannot have these names.
TAKEN = ("study.json", "report.html", "report.md", "report.tex", "tables")
Size = Literal["smoke", "cpu", "gpu", "paper"]


class PlanError(ValueError):
    """A study file that does not say what it has to."""


def kind_of(experiment: str) -> Experiment[Any]:
    """Return the kind of this name; raises `ValueError` if there is no such experiment."""
    # All kinds together take seconds to import, and help texts need none.
    from benchmarks.experiments.kinds import EXPERIMENTS  # noqa: PLC0415

    return pick("experiment", experiment, EXPERIMENTS)()


class Plan(BaseModel):
    """The content of a study file; see the module."""

    model_config = STRICT

    title: str
    source: str = ""
    experiment: str = "comparison"
    common: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    sizes: dict[Size, dict[str, Any]]

    @property
    def kind(self) -> Experiment[Any]:
        """What all parts are; raises `ValueError` if there is no such experiment."""
        return kind_of(self.experiment)

    def options(self, size: str) -> dict[str, dict[str, Any]]:
        """Return the options of every part, by its name, as the size has them.

        Raises `ValueError` for a size or one of its parts that there is not, for one that is named
        twice, and for a name that a folder cannot have.
        """
        changes = dict(pick("size", size, {str(name): own for name, own in self.sizes.items()}))
        parts = _named_parts(self.parts, changes.pop("parts", None))
        for field, values in self.grid.items():
            refuse_repeated(f"grid.{field}", values)
        found = {}
        for (part, own), *point in product(
            (parts or {"": {}}).items(),
            *([(field, value) for value in values] for field, values in self.grid.items()),
        ):
            name = "-".join([*([part] if part else []), *(f"{f}-{v}" for f, v in point)])
            found[checked_name("grid", name)] = {**self.common, **own, **dict(point), **changes}
        distinct("grid", found)
        return found

    def studies(
        self, size: str, changes: Mapping[str, Any] | None = None, parts: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the options of every part, checked but for what only the data could tell.

        They are of the type that the kind of experiment has.

        Args:
            size: of the study.
            changes: options that all parts have instead of their own.
            parts: those that are wanted; all if there are none.

        Returns:
            The options by the names of the parts.

        Raises:
            PlanError: something is wrong; the message names its path.
        """
        kind, found, every = self.kind, {}, self.options(size)
        wanted = {part: pick("part", part, every) for part in parts} or every
        for name, own in wanted.items():
            options = {**own, **(changes or {})}
            try:
                # JSON has no truth values that are numbers, and no numbers in quotes.
                found[name] = kind.schema.model_validate_json(json.dumps(options), strict=True)
                kind.runs(found[name])
            except ValidationError as error:
                raise PlanError(f"{name} ({size}): {_first(error, kind.schema)}") from None
            except ValueError as error:
                raise PlanError(f"{name} ({size}): {error}") from None
        return found


def read(name: str) -> Plan:
    """Return the study of this name in the package, or in a file that ends with .yaml.

    Raises:
        PlanError: there is none, it is not YAML, or a field is wrong in one of the sizes.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if path.parent == FOLDER:
        pick("study", path.stem, dict.fromkeys(names()))
    try:
        content = strict_yaml.load(path.read_text("utf-8-sig"))
        plan = Plan.model_validate(content)
        if not plan.parts and not plan.grid:
            raise PlanError("parts: there is none, and no grid; allowed: at least one")
        for size in plan.sizes:
            plan.studies(size)
    except FileNotFoundError:
        raise PlanError(f"{name}: there is no such file") from None
    except OSError as error:
        raise PlanError(f"{name}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(f"{name}: not YAML; {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise PlanError(f"{name}: {_first(error, Plan)}") from None
    except ValueError as error:
        raise PlanError(f"{name}: {error}") from None
    return plan


def _named_parts(parts: Mapping[str, dict[str, Any]], chosen: Any) -> dict[str, dict[str, Any]]:
    """Return the parts that a size has chosen, or all; raise `ValueError` for a name."""
    for part in parts:
        checked_name("parts", part)
        if part in TAKEN or part.endswith(".log"):
            raise ValueError(f"parts: {part!r} is what a file of the report is called, or a log")
    distinct("parts", parts)
    if chosen is None:
        return dict(parts)
    if not isinstance(chosen, list) or not chosen or not all(isinstance(c, str) for c in chosen):
        raise ValueError(f"parts: {chosen!r}; allowed: a list of {', '.join(parts)}")
    refuse_repeated("parts", chosen)
    return {part: pick("parts", part, parts) for part in chosen}


def changed(given: Sequence[str]) -> dict[str, Any]:
    """Return options that are given as KEY=VALUE, where a value is written as in a study file.

    Raises:
        PlanError: one is not of this form, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise PlanError(f"{text!r} is not of the form KEY=VALUE")
        if key in found:
            raise PlanError(f"{key}: is given twice")
        try:
            found[key] = strict_yaml.load(value)
        except (ValueError, yaml.YAMLError) as error:
            raise PlanError(f"{key}: {' '.join(str(error).split())}") from None
    return found


def names() -> list[str]:
    """Return the names of the studies in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _first(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one of pydantic's complaints: where, what was given, and what is allowed.

    A key that is unknown explains one that is missing.
    """
    found = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in found["loc"]) or "the file"
    if found["type"] == "extra_forbidden":
        return unknown_key(path, model.model_fields)
    if found["type"] == "value_error":  # of a validator of ours, which says all
        return str(found["ctx"]["error"])
    return f"{path}: {found['msg']}, not {found['input']!r}"
