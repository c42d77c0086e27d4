"""The state of a run that is under way, in a file, from which it can go on bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.storage.files import StoreError, replacing

#: What an environment says of the moment.
PASSING = ("date", "load")


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds the state of one run, or is not there.

    Attributes:
        path: of the file.
        environment: what the run is made in (:func:`benchmarks.storage.provenance.describe`). A
            state of another environment, or of other code, is not gone on from: it could not give
            the bits of an uninterrupted run.
    """

    path: Path
    environment: Mapping[str, Any]

    def load(self) -> dict[str, Any] | None:
        """Return the state on the CPU; None if there is none to go on from.

        Raises:
            StoreError: the file is not one that :meth:`save` wrote.
            OSError: it cannot be read.
        """
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            origin, state = saved["origin"], saved["state"]
        except FileNotFoundError:
            return None
        except OSError:
            raise
        except Exception as error:  # what unpickling rubbish may raise is not documented
            raise StoreError(
                f"{self.path}: not a checkpoint of this harness ({type(error).__name__}); delete "
                "it to have its run made from the beginning"
            ) from None
        return state if origin == self._origin() else None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace what the file holds, in one step."""
        with replacing(self.path) as file:
            torch.save({"origin": self._origin(), "state": dict(state)}, file)

    def remove(self) -> None:
        """Delete the file, if it is there."""
        self.path.unlink(missing_ok=True)

    def _origin(self) -> dict[str, Any]:
        return {key: value for key, value in self.environment.items() if key not in PASSING}
