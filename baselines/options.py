"""What a method can be tuned by: frozen dataclasses of options, which pydantic checks."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from types import NoneType
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema
from typing_extensions import dataclass_transform

from baselines.registry import pick

T = TypeVar("T")

#: The largest finite number of float32, which a number may have to be made of in an operation.
LARGEST = (2 - 2**-23) * 2.0**127


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, Field))
def options(cls: type[T]) -> type[T]:
    """Make a frozen dataclass of a class, whose fields are checked when an instance is made.

    A field says what it allows and what it is by pydantic's `Field`::

        @options
        class Halving(Settings):
            factor: Annotated[float, Field(gt=0, le=1, description="Share of it that stays.")] = 0.5

    A value that is not allowed raises `ValueError` with one line that names the first such field,
    the value and what is allowed; so does a name that is no field, and a finite number that is
    infinite in float32, which networks are trained in.

    Returns:
        The class, as a frozen dataclass that checks its fields.
    """
    made: Any = checked_dataclass(cls, frozen=True, config=ConfigDict(extra="forbid"))
    checked = made.__init__

    @wraps(checked)
    def init(self: T, *args: Any, **kwargs: Any) -> None:
        try:
            checked(self, *args, **kwargs)
        except ValidationError as error:
            raise _refusal(error, made) from None
        for name, field in fields_of(made).items():
            _check_size(name, getattr(self, name), field)

    made.__init__ = init
    return made


@dataclass(frozen=True)
class Named:
    """Annotation of a field whose value is a name in a table, like ``Annotated[str, Named(T)]``."""

    table: Mapping[str, Any]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Check the name after its type."""
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def _known(self, name: str) -> str:
        if name not in self.table:
            raise ValueError("unknown name")
        return name


def fields_of(cls: type) -> dict[str, FieldInfo]:
    """Return the fields of a class that :func:`options` made, in their order."""
    return dict(cls.__pydantic_fields__)  # type: ignore[attr-defined]


def parts_of(annotation: Any) -> Iterator[Any]:
    """Yield the types and constraints that a field, or its annotation, consists of."""
    if isinstance(annotation, FieldInfo):
        yield from parts_of(annotation.annotation)
        yield from annotation.metadata
    elif get_origin(annotation) is Annotated:
        yield from parts_of(annotation.__origin__)
        for constraint in annotation.__metadata__:
            yield from constraint.metadata if isinstance(constraint, FieldInfo) else [constraint]
    elif get_args(annotation) and get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from parts_of(part)
    else:
        yield annotation


def allows_none(field: FieldInfo) -> bool:
    """Return whether None is a value of the field."""
    return NoneType in parts_of(field)


def allows_zero(field: FieldInfo) -> bool:
    """Return whether no lower bound of the field excludes 0."""
    parts = list(parts_of(field))
    return all(getattr(part, "ge", 0) <= 0 and getattr(part, "gt", -1) < 0 for part in parts)


def names_of(field: FieldInfo) -> list[str]:
    """Return the names that the field allows, if it is one of names."""
    for part in parts_of(field):
        if isinstance(part, Named):
            return list(part.table)
        if get_origin(part) is Literal:
            return list(get_args(part))
    return []


def is_list(field: FieldInfo) -> bool:
    """Return whether the field has several values, however many, as a tuple."""
    return ... in parts_of(field)


def allowed(field: FieldInfo) -> str:
    """Return what the field allows, as what follows "must" in a message."""
    told = f"{_range(field)}{_or_none(field)}"
    return f"list values, each of which must {told}" if is_list(field) else told


def _or_none(field: FieldInfo) -> str:
    if not allows_none(field):
        return ""
    return ", or None" if " and " in _range(field) else " or None"


def _range(field: FieldInfo) -> str:
    """Return what the field allows besides None."""
    parts = list(parts_of(field))
    if names := names_of(field):
        return f"be {' or '.join(map(repr, names))}"
    finite = any(getattr(part, "allow_inf_nan", True) is False for part in parts)
    low = next((part for part in parts if isinstance(part, Gt | Ge)), None)
    high = next((part for part in parts if isinstance(part, Lt | Le)), None)
    if low is not None and high is not None:
        left = f"({low.gt}" if isinstance(low, Gt) else f"[{low.ge}"
        return (
            f"lie in {left}, {high.lt})" if isinstance(high, Lt) else f"lie in {left}, {high.le}]"
        )
    bounds = [
        *(["finite"] if finite else []),
        *([f"> {low.gt}" if isinstance(low, Gt) else f">= {low.ge}"] if low is not None else []),
        *(
            [f"< {high.lt}" if isinstance(high, Lt) else f"<= {high.le}"]
            if high is not None
            else []
        ),
    ]
    kind = next(part for part in parts if isinstance(part, type) and part is not NoneType)
    return f"be {' and '.join(bounds) or 'of the type ' + kind.__name__}"


def _check_size(name: str, value: Any, field: FieldInfo) -> None:
    """Raise `ValueError` for a finite number, or one in a list, beyond those of float32."""
    for one in value if isinstance(value, tuple | list) else [value]:
        if isinstance(one, int | float) and LARGEST < abs(one) < math.inf:
            bounds = f"{allowed(field)}, and within {LARGEST:g}"
            raise ValueError(f"{name} must {bounds}, the largest number of float32, not {one!r}")


def _refusal(error: ValidationError, cls: type) -> ValueError:
    """Return what is wrong with the first field that is."""
    found, fields = error.errors()[0], fields_of(cls)
    at, value = found["loc"][0], found["input"]  # the place, if it was given by its place
    name = list(fields)[at] if isinstance(at, int) and at < len(fields) else str(at)
    try:
        field = pick("options", name, fields)
        for part in parts_of(field):
            if isinstance(part, Named):
                pick(name, value, part.table)
    except ValueError as unknown:
        return unknown
    if found["type"] == "missing":
        return ValueError(f"{name} must be given")
    if found["type"] == "value_error":  # of a validator that a plug-in has of its own
        return ValueError(f"{name}: {found['ctx']['error']}, not {value!r}")
    return ValueError(f"{name} must {allowed(field)}, not {value!r}")


class Search(Protocol):
    """The values of an option that a search may try."""

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that every other one lies between, or all of them."""


@dataclass(frozen=True)
class LogUniform:
    """Numbers from `low` to `high`, whose logarithms are equally likely.

    Attributes:
        low: the smallest number, > 0.
        high: the largest one.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Raise ValueError unless 0 < low < high < infinity."""
        if not 0 < self.low < self.high < float("inf"):
            raise ValueError(f"low and high must be 0 < low < high, not {self.low}, {self.high}")

    @property
    def ends(self) -> tuple[float, float]:
        """Both bounds."""
        return self.low, self.high

    def __str__(self) -> str:
        """Return the values as a table has them."""
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Choice:
    """Values that are equally likely.

    Attributes:
        values: all of them.
    """

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    def __str__(self) -> str:
        """Return the values as a table has them."""
        return " or ".join(map(str, self.values))
