"""What the options of experiments have in common, above all those that go to methods."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from baselines import FAMILIES, METHODS, BasicSettings, Trainer
from baselines.options import (
    allowed,
    allows_none,
    allows_zero,
    fields_of,
    is_list,
    names_of,
    parts_of,
)
from baselines.registry import Registry, pick, unknown_key
from benchmarks.storage.names import refuse_repeated

#: A number of things to be done, bounded so that a slip of the finger cannot fill the memory.
Whole = Annotated[int, Field(ge=1, le=1_000_000)]
#: A number of runs of the same.
Seeds = Annotated[int, Field(ge=1, le=10_000)]
#: Steps of a spiking network, all of which the memory holds at a time.
TimeSteps = Annotated[int, Field(ge=1, le=10_000)]

Names = Annotated[list[str], Field(min_length=1)] | Literal["all"]

#: The options of a method that an experiment decides in another way.
DECIDED = ("learning_rate", "total_steps")

V = TypeVar("V")


class Option(NamedTuple):
    """An option of methods.

    Attributes:
        field: as the first of them declares it.
        defaults: of each method that has it.
    """

    field: FieldInfo
    defaults: dict[str, Any]

    @property
    def methods(self) -> list[str]:
        """The methods that have it."""
        return list(self.defaults)


def options_of(methods: Mapping[str, type[Trainer]]) -> dict[str, Option]:
    """Return all options that methods have, by name."""
    found: dict[str, Option] = {}
    for name, method in methods.items():
        for option, field in fields_of(method.Options).items():
            if option not in DECIDED:
                found.setdefault(option, Option(field, {})).defaults[name] = field.default
    return found


class MethodOptions(BaseModel):
    """Options of an experiment that trains with methods: its own, and those of the methods.

    What stands beside the experiment's own options goes to every chosen method that has an option
    of this name; what stands in `options`, to one method or family, and comes before::

        epsilon: 0.3
        options: {lfp: {epsilon: 0.1}}

    The names are those that the methods declare (:attr:`baselines.Trainer.Options`), so that the
    methods of other packages have theirs. One that the experiment has as well can only be given in
    `options`.

    Attributes:
        options: options of methods, by the name of a method or of a family of methods.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    #: The methods that there are.
    table: ClassVar[Mapping[str, type[Trainer]]] = METHODS
    #: Where the experiment's defaults are others than the methods'.
    defaults: ClassVar[Mapping[str, Any]] = {}

    options: dict[str, dict[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _has_no_unknown_key(cls, given: Any) -> Any:
        """Raise `ValueError` for a key that is neither a field nor an option of a method."""
        # Only if there is one, as packages are imported to know what they have.
        if others := given.keys() - cls.model_fields.keys() if isinstance(given, dict) else ():
            known = [*cls.model_fields, *options_of(cls.table)]
            for key in sorted(others - set(known)):
                raise ValueError(unknown_key(key, known))
        return given

    def settings(self, method: str, learning_rate: float = 1.0) -> BasicSettings:
        """Return the options of a method; raises `ValueError` naming one that is wrong.

        0 stands for None where 0 itself is not allowed.
        """
        declared = fields_of(self.table[method].Options)
        fields = {name: field for name, field in declared.items() if name not in DECIDED}
        own = by_method(self.options).get(method, {})
        for name in own:
            pick(f"options.{method}", name, fields)
        shared = {**self.defaults, **(self.model_extra or {})}
        given = {**{n: value for n, value in shared.items() if n in fields}, **own}
        meant = {name: _meant(name, value, fields[name]) for name, value in given.items()}
        return self.table[method].Options(learning_rate=learning_rate, **meant)

    def settings_by_method(self, methods: Iterable[str]) -> dict[str, BasicSettings]:
        """Return the options of the chosen methods.

        Raises:
            ValueError: an option that is wrong, or that none of the methods has.
        """
        chosen = list(methods)
        for method in by_method(self.options):
            pick("options", method, dict.fromkeys(chosen))
        for name in self.model_extra or {}:
            having = options_of(self.table)[name].methods
            if not set(having) & set(chosen):
                told = f"{name}: not an option of {', '.join(chosen)}"
                raise ValueError(f"{told}; allowed with: {', '.join(having)}")
        return {method: self.settings(method) for method in chosen}

    def told(self, option: str, methods: Iterable[str]) -> str:
        """Return in words the values that an option has for those of the methods that have it."""
        every = map(self.settings, methods)
        values = [str(getattr(own, option)) for own in every if hasattr(own, option)]
        return " or ".join(dict.fromkeys(values)) or "their own"


def _meant(name: str, value: Any, field: FieldInfo) -> Any:
    """Return what an option is given as, None for a 0 that can mean nothing else.

    Raises:
        ValueError: a truth value or a text, where the field has another type: pydantic would make a
            number of them.
    """
    types = [*parts_of(field), *map(type, names_of(field))]
    for one in value if is_list(field) and isinstance(value, list | tuple) else [value]:
        if isinstance(one, bool | str) and type(one) not in types and Any not in types:
            raise ValueError(f"{name} must {allowed(field)}, not {one!r}")
    return None if value == 0 and zero_is_none(field) else value


def zero_is_none(field: FieldInfo) -> bool:
    """Return whether 0 can only mean None, which a command line has no word for."""
    return allows_none(field) and not allows_zero(field)


def chosen(
    field: str,
    names: list[str] | str,
    known: Mapping[str, Any],
    families: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[str, ...]:
    """Return the names in the order of the known ones; a family stands for all in it.

    "all" are ours: a package that is installed changes no study that does not name what it adds.

    Raises:
        ValueError: a name is not known, or given twice.
    """
    if names == "all":
        return tuple(known.own if isinstance(known, Registry) else known)
    refuse_repeated(field, names)
    there = {**(families or {}), **{name: (name,) for name in known}}
    picked = {n for given in names for n in pick(field, given, there)}
    return tuple(name for name in known if name in picked)


def by_method(values: Mapping[str, V]) -> dict[str, V]:
    """Return a value for each method, in which families have been replaced by theirs.

    Raises:
        ValueError: a method and its family both have one.
    """
    found: dict[str, V] = {}
    for name, value in values.items():
        for method in FAMILIES.get(name, (name,)):
            if method in found:
                both = f"{', '.join(values)}: {method!r} is given twice, by its name and its family"
                raise ValueError(f"{both}; allowed: either")
            found[method] = value
    return found
