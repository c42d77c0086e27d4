"""What takes seconds to find out and seldom changes, kept in the user's cache folder.

Beside it stands which files were imported to find it out. It counts no longer when one of them has
changed, when Python looks for modules in other places, or when a package was installed or removed
that adds names to the harness. A folder that cannot be written makes commands slow, and no more.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from benchmarks.storage.files import write

#: When this process began, nearly; in ns, as the times of files are.
STARTED = time.time_ns()
#: What two changes of a file may be apart in ns and still have the same time, generously.
GRAIN = 10**9
#: How many environments are remembered: to each belongs a file.
MOST = 16


def recall(name: str) -> Any | None:
    """Return what was kept under the name; None if there is nothing, or it counts no longer."""
    try:
        kept = json.loads(_path(name).read_bytes())
    except (OSError, RuntimeError, ValueError):  # of a home that is not known, or of half a file
        return None
    match kept:
        case {"files": dict(files), "found": found}:
            return found if all(_stamp(file) == stamp for file, stamp in files.items()) else None
    return None


def keep(name: str, found: Any) -> None:
    """Keep what was found by means of the modules that this process has imported.

    Nothing is kept if one of their files was changed since, as it may say something else now.

    Args:
        name: that it is recalled by.
        found: what JSON can hold.
    """
    with suppress(OSError, RuntimeError):
        files = {file: _stamp(file) for file in _imported()}
        if any(max(stamp[1:]) > STARTED - GRAIN for stamp in files.values() if stamp):
            return
        path = _path(name)
        write(path, json.dumps({"files": files, "found": found}).encode())
        others = sorted(path.parent.glob(f"{name}-*.json"), key=lambda p: p.stat().st_mtime_ns)
        for old in others[:-MOST]:
            old.unlink(missing_ok=True)


def _path(name: str) -> Path:
    """Return the file for this Python, the places where it looks for modules, and the packages."""
    points = entry_points()
    added = sorted(
        (group, point.name, point.value, point.dist.version if point.dist else "")
        for group in points.groups
        if group.startswith("lfp_bench.")
        for point in points.select(group=group)
    )
    key = sha256(repr((sys.version, sys.prefix, sys.path, added)).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return folder / "lfp-bench" / f"{name}-{key}.json"


def _imported() -> Iterator[str]:
    """Yield the files of all modules that are imported."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            yield file


def _stamp(file: str) -> list[int] | None:
    """Return a file's size and times in ns, one of which differs if it has changed; or None.

    Torch has modules that name files which do not exist.
    """
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
