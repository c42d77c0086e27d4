"""Types of what is read of stored files, which pydantic checks.

A number that is stored has no text or truth value in its place, and a record no other fields.
"""

from typing import Annotated

from annotated_types import Ge
from pydantic import ConfigDict, Strict

STORED = ConfigDict(extra="forbid")
Number = Annotated[float, Strict()]
Magnitude = Annotated[float, Strict(), Ge(0)]
Count = Annotated[int, Strict(), Ge(0)]
Several = Annotated[int, Strict(), Ge(1)]
