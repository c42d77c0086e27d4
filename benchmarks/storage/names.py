"""Names that become a folder or a file, of studies and their parts: one rule for all of them."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

#: Bytes of a name. File systems allow 255, of which a size and an ending take some.
LONGEST = 200
#: Names of devices on Windows, with any ending.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def checked_name(field: str, name: str) -> str:
    """Return the name of a folder, which must not lead elsewhere nor mean another one somewhere.

    Raises:
        ValueError: it might; the message names the field, the name and what is allowed.
    """
    if not re.fullmatch(r"\w([\w.-]*[\w-])?", name) or DEVICES.fullmatch(name):
        raise ValueError(
            f"{field}: {_shown(name)} is no name for a folder; allowed: letters, digits and _, "
            "and . or - behind the first of them, but no . at the end"
        )
    if name.casefold().endswith(".log"):
        raise ValueError(
            f"{field}: {_shown(name)} is what the log of a study is called; allowed: names with "
            "another ending"
        )
    if len(name.encode(errors="surrogatepass")) > LONGEST:
        raise ValueError(f"{field}: {_shown(name)} is too long; allowed: at most {LONGEST} bytes")
    return name


def distinct(field: str, names: Iterable[str]) -> None:
    """Raise `ValueError` for two names that are one folder on some file systems."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFKC", name).casefold()
        if key in seen:
            raise ValueError(
                f"{field}: {_shown(seen[key])} and {_shown(name)} are one folder on some machines; "
                "allowed: names that differ by more than case"
            )
        seen[key] = name


def refuse_repeated(field: str, values: Iterable[Any]) -> None:
    """Raise `ValueError` for a value that equals an earlier one, as 1 and 1.0 do."""
    seen: list[Any] = []
    for value in values:
        if value in seen:
            raise ValueError(f"{field}: {value!r} is given twice; allowed: each once")
        seen.append(value)


def _shown(name: str) -> str:
    """Return the name as a message has it, shortened if it is long."""
    return ascii(name) if len(name) <= 60 else f"{name[:50]!a}... ({len(name)} letters)"
