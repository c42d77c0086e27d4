"""The version of what is stored: files of another one are refused, and told how to be brought on.

Version 1 is the first that says so. What was written before has no version, and
:mod:`benchmarks.studies.migration` makes version 1 of it.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.storage.files import StoreError

VERSION = 1


def versioned(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with the version that it has."""
    return {"schema": VERSION, **content}


def current(content: Any) -> dict[str, Any]:
    """Return the content without its version.

    Raises:
        StoreError: the version is another one, and the message says what to do; or the content is
            no object of JSON.
    """
    if not isinstance(content, Mapping):
        raise StoreError(f"not a JSON object, but {content!r:.40}")
    plain = dict(content)
    version = plain.pop("schema", 0)
    if version == VERSION:
        return plain
    if version == 0:
        way_out = "it is of an older version; `lfp-bench migrate FOLDER` brings a study on"
    else:
        way_out = "a newer version has written it, which can read it"
    raise StoreError(f"schema: {version!r}; allowed: {VERSION} ({way_out})")
