"""What the options of experiments have in common."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.fields import FieldInfo

from baselines import FAMILIES, Settings, Trainer
from baselines.options import allows_none, allows_zero, fields_of
from baselines.registry import pick

Whole = Annotated[int, Field(ge=1)]


Names = Annotated[list[str], Field(min_length=1)] | Literal["all"]


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


def by_method(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return a number for each method, in which families have been replaced by theirs."""
    return {
        method: number for name, number in numbers.items() for method in FAMILIES.get(name, (name,))
    }


def settings_by_method(
    methods: Mapping[str, type[Trainer]], given: Mapping[str, Any]
) -> dict[str, Settings]:
    """Return the options of each method: of those that are given, the ones that it has.

    The learning rate is 1 where none is given. 0 stands for None where 0 itself is not allowed.
    Raises `ValueError` for a value that is not allowed.
    """
    found = {}
    for name, method in methods.items():
        fields = fields_of(method.Options)
        own = {o: _meant(value, fields[o]) for o, value in given.items() if o in fields}
        found[name] = method.Options(**{"learning_rate": 1.0, **own})
    return found


def _meant(value: Any, field: FieldInfo) -> Any:
    """Return None for a 0 that can mean nothing else."""
    return None if value == 0 and allows_none(field) and not allows_zero(field) else value
