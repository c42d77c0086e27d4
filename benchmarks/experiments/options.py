"""What the options of experiments have in common."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from baselines import FAMILIES
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
