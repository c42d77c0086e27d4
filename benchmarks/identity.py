"""A short, stable name for what a dataclass describes."""

import json
from dataclasses import asdict
from hashlib import sha256
from typing import Any


def identity(description: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a dataclass instance as canonical JSON.

    Raises `ValueError` if a field is NaN or infinite, which JSON does not have.

    >>> from dataclasses import make_dataclass
    >>> identity(make_dataclass("Point", ["x", "y"])(1, 2))
    '689a8f1db9540258'
    """
    canonical = json.dumps(
        asdict(description), sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return sha256(canonical.encode()).hexdigest()[:16]
