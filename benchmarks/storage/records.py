"""Measurements of the project's own speed: the records of one in one JSON file, each made once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.storage.files import read_json, write_json

Record = dict[str, Any]  # a run in plain JSON types: what identifies it, and what it measured


class Records:
    """The runs that a file holds, which is written whole after every new one.

    Args:
        path: of the file.
        common: what belongs to the description of every run that is asked for.

    Raises:
        ValueError: the file is there, but not JSON.
    """

    def __init__(self, path: Path, common: Mapping[str, Any] | None = None) -> None:
        """Read the file, if there is one."""
        self.path = path
        self.common = dict(common or {})
        self.runs: list[Record] = (read_json(path) or {"runs": []})["runs"]

    @property
    def own(self) -> list[Record]:
        """The runs in the file that have what all runs of this measurement have in common."""
        return [record for record in self.runs if record.items() >= self.common.items()]

    def get(self, description: Mapping[str, Any], make: Callable[[], Record]) -> Record:
        """Return the run that is described so; make and store what it measured if it is missing."""
        for record in self.own:
            if record.items() >= description.items():
                return record
        record = {**self.common, **description, **make()}
        self.runs.append(record)
        write_json(self.path, {"runs": self.runs})
        return record
