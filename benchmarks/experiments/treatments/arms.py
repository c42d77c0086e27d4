"""What is compared: the options of LFP by the names of the arms."""

from collections.abc import Mapping
from typing import Any

import torch

CPU = torch.device("cpu")
BATCH = 64  # as in the study's trainings on digits
GRADIENT = "gradient"

Options = Mapping[str, Any]
#: The options of LFP by the name of the arm; the gradient has none.
GATES: Mapping[str, Options | None] = {
    "signal": {"gates": "signal"},
    "uniform": {"gates": "uniform"},
    "uniform, reverse": {"gates": "uniform", "units": "reverse"},
    "uniform, shifted": {"gates": "uniform", "units": "shifted"},
    GRADIENT: None,
}
UNITS: Mapping[str, Options | None] = {
    "identity": {"units": "identity"},
    "reverse": {"units": "reverse"},
    "shifted": {"units": "shifted"},
    GRADIENT: None,
}
NORMALISATIONS: Mapping[str, Options | None] = {
    "gradient": {"normalisation": "gradient"},
    "identity": {"normalisation": "identity"},
    "no LFP": None,
}
