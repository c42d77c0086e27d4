"""Looking a name up in a table, with an error that helps when the name is not there."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


def pick(field: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`.

    Raises `ValueError` naming the field, the value, the nearest allowed name and all of them:

    >>> pick("model", "lenett", {"mlp": 1, "lenet": 2})
    Traceback (most recent call last):
    ...
    ValueError: model: unknown name 'lenett'; did you mean 'lenet'? Allowed: mlp, lenet
    """
    if name in table:
        return table[name]
    nearest = get_close_matches(str(name).lower(), table, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    raise ValueError(f"{field}: unknown name {name!r}{hint} Allowed: {', '.join(table)}")
