"""Studies that are written down: one YAML file each, in three sizes.

::

    title: LFP and SGD on three toy data sets
    source: arXiv 2308.12053, appendix A.7.1
    common: {model: toy-mlp, methods: [lfp, sgd]}      what all parts have
    parts:                                             one table each
      blobs: {dataset: blobs}
      circles: {dataset: circles}
    grid: {epsilon: [0, 0.1]}                          or one for each part and combination of these
    sizes:                                             what a size changes, in all parts
      smoke: {seeds: 1, epochs: 1}
      cpu: {seeds: 3}
      paper: {seeds: 5}

All fields are those of :class:`Options`, which are the options of ``lfp-bench compare``.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from baselines import FAMILIES, METHODS, Settings, Spiking
from benchmarks.models import ACTIVATIONS
from benchmarks.registry import pick
from benchmarks.study import PRESETS, Study

FOLDER = Path(__file__).parent / "studies"
SIZES = ("smoke", "cpu", "paper")
Size = Literal["smoke", "cpu", "paper"]
Whole = Annotated[int, Field(ge=1)]
Names = Annotated[list[str], Field(min_length=1)] | Literal["all"]


class PlanError(ValueError):
    """A study file that does not say what it has to."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Options(_Strict):
    """How methods are compared; None leaves a number to the data set's preset.

    Attributes:
        dataset, model: names.
        methods, activations: names, or "all"; a family of methods stands for all in it.
        seeds: reported runs of each method and activation.
        epochs, batch_size: of them.
        momentum, clip_norm, reduction, epsilon, schedule, adaptive_clip, normaliser, max_norm: as
            in :class:`baselines.Settings`, but that 0 stands for no clipping.
        learning_rates: the grid of the sweep.
        learning_rate: of methods that have no sweep.
        sweep_epochs, sweep_seeds: of the sweep.
        beta, time_steps, encoding: of the activation lif.
        seconds: time budget of a run, by method.
    """

    dataset: str = "digits"
    model: str | None = None
    methods: Names = ["lfp", "sgd", "wsgd"]
    activations: Names = "all"
    seeds: Whole = 3
    epochs: Whole | None = None
    batch_size: Whole | None = None
    momentum: float = 0.9
    clip_norm: float = 3.0
    reduction: str = "mean"
    epsilon: float = 1e-6
    learning_rates: Annotated[list[float], Field(min_length=1)] = [
        0.003,
        0.01,
        0.03,
        0.1,
        0.3,
        1,
        3,
    ]
    learning_rate: dict[str, float] = {}
    sweep_epochs: Whole | None = None
    sweep_seeds: Whole = 2
    schedule: str = "constant"
    adaptive_clip: float = 0.0
    max_norm: bool = False
    normaliser: str = "current"
    beta: float = Spiking.beta
    time_steps: int = Spiking.steps
    encoding: str = Spiking.encoding
    seconds: dict[str, float] = {}

    def study(self) -> Study:
        """Return the study; raises `ValueError` naming a field, its value and what is allowed."""
        preset = pick("dataset", self.dataset, PRESETS)
        return Study(
            dataset=self.dataset,
            model=self.model or preset.model,
            methods=chosen("methods", self.methods, METHODS, FAMILIES),
            activations=chosen("activations", self.activations, ACTIVATIONS),
            seeds=self.seeds,
            epochs=self.epochs or preset.epochs,
            batch_size=self.batch_size or preset.batch_size,
            settings=Settings(
                learning_rate=1.0,  # the study's runs have others
                momentum=self.momentum,
                clip_norm=self.clip_norm or None,
                reduction=self.reduction,  # type: ignore[arg-type]  # checked by Settings, as others
                epsilon=self.epsilon,
                schedule=self.schedule,  # type: ignore[arg-type]
                adaptive_clip=self.adaptive_clip or None,
                normaliser=self.normaliser,  # type: ignore[arg-type]
                max_norm=self.max_norm,
            ),
            spiking=Spiking(self.beta, self.time_steps, self.encoding),  # type: ignore[arg-type]
            rates=tuple(self.learning_rates),
            fixed_rates=_by_method(self.learning_rate),
            budgets=_by_method(self.seconds),
            sweep_epochs=self.sweep_epochs or preset.sweep_epochs,
            sweep_seeds=self.sweep_seeds,
        )


def chosen(
    field: str,
    names: list[str] | str,
    known: Mapping[str, Any],
    families: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[str, ...]:
    """Return the names in the order of the known ones; a family stands for all in it.

    Raises:
        ValueError: a name is not known.
    """
    if names == "all":
        return tuple(known)
    allowed = {**(families or {}), **{name: (name,) for name in known}}
    picked = {n for given in names for n in pick(field, given, allowed)}
    return tuple(name for name in known if name in picked)


def _by_method(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return a number for each method, in which families have been replaced by theirs."""
    return {
        method: number for name, number in numbers.items() for method in FAMILIES.get(name, (name,))
    }


class Plan(_Strict):
    """The content of a study file; see the module."""

    title: str
    source: str = ""
    common: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    sizes: dict[Size, dict[str, Any]]

    def options(self, size: str) -> dict[str, dict[str, Any]]:
        """Return the options of every part, by its name, as the size has them."""
        changes = pick("size", size, {str(name): own for name, own in self.sizes.items()})
        found = {}
        for (part, own), *point in product(
            (self.parts or {"": {}}).items(),
            *([(field, value) for value in values] for field, values in self.grid.items()),
        ):
            name = "-".join([*([part] if part else []), *(f"{f}-{v}" for f, v in point)])
            found[name] = {**self.common, **own, **dict(point), **changes}
        return found

    def studies(self, size: str) -> dict[str, Study]:
        """Return every part; raises :class:`PlanError` naming the path of what is wrong."""
        found = {}
        for name, options in self.options(size).items():
            try:
                found[name] = Options.model_validate(options, strict=False).study()
            except ValidationError as error:
                raise PlanError(f"{name} ({size}): {_first(error, Options)}") from None
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
        content = yaml.safe_load(path.read_text())
        plan = Plan.model_validate(content)
        if not plan.parts and not plan.grid:
            raise PlanError("parts: there is none, and no grid; allowed: at least one")
        for size in plan.sizes:
            plan.studies(size)
    except FileNotFoundError:
        raise PlanError(f"{name}: there is no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(f"{name}: not YAML; {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise PlanError(f"{name}: {_first(error, Plan)}") from None
    except PlanError as error:
        raise PlanError(f"{name}: {error}") from None
    return plan


def names() -> list[str]:
    """Return the names of the studies in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _first(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first of pydantic's complaints: where, what was given, and what is allowed."""
    found = error.errors()[0]
    path = ".".join(str(part) for part in found["loc"]) or "the file"
    if found["type"] == "extra_forbidden":
        fields = list(model.model_fields)
        nearest = get_close_matches(path, fields, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        return f"{path}: unknown key{hint} Allowed: {', '.join(fields)}"
    return f"{path}: {found['msg']}, not {found['input']!r}"
