"""The options of methods as JSON has them, in studies and in results, those of older code too."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator

from baselines.methods import METHODS
from baselines.options import fields_of
from baselines.trainer import BasicSettings, Settings

S = TypeVar("S", bound=BasicSettings)


def stored_settings(kind: type[S], stored: Mapping[str, Any]) -> S | None:
    """Return options as JSON has them; None if one of them is no option any more.

    Once every method had all options of :class:`Settings`. Those that a method ignored, and no
    longer has, are left out.

    Raises:
        ValueError: a value that is not allowed.
    """
    own = fields_of(kind)
    if not stored.keys() <= own.keys() | fields_of(Settings).keys():
        return None
    return kind(**{name: value for name, value in stored.items() if name in own})


def settings_of(method: str, stored: BasicSettings | Mapping[str, Any]) -> BasicSettings:
    """Return the options of a method, which may come as JSON has them.

    Raises:
        ValueError: a value that is not allowed, or what is no option of the method.
        KeyError: there is no such method.
    """
    if isinstance(stored, BasicSettings):
        return stored
    kind = METHODS[method].Options
    found = stored_settings(kind, stored)
    return kind(**stored) if found is None else found  # which says what is wrong


def are_known(stored: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether there are these methods, and whether they have these options.

    Results that older code has stored may have others.
    """
    return all(
        method in METHODS and stored_settings(METHODS[method].Options, own) is not None
        for method, own in stored.items()
    )


#: The options of several methods, each of the method's own class.
SettingsByMethod = Annotated[
    dict[str, BasicSettings],
    BeforeValidator(lambda stored: {m: settings_of(m, own) for m, own in stored.items()}),
]
