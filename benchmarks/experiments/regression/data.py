"""The data sets, and how they are split and scaled."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import fetch_california_housing, load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks.data import SILENCE, DataError, Split, default_root, socket_timeout

Numbers = NDArray[np.float64]


def california() -> tuple[Numbers, Numbers]:
    """Return 20640 districts: inputs (N, 8), and median house values in 100000 dollars (N,).

    Raises:
        DataError: they are not there and cannot be fetched.
    """
    home = default_root() / "california"
    try:
        with socket_timeout(SILENCE):  # as scikit-learn sets none
            return fetch_california_housing(data_home=home, return_X_y=True, n_retries=1)
    except OSError as error:  # URLError, HTTPError, timeouts
        raise DataError(
            f"dataset: 'california' could not be fetched to {home} ($LFP_DATA; {error}); it "
            "needs a network, 'diabetes' does not"
        ) from None


def diabetes() -> tuple[Numbers, Numbers]:
    """Return scikit-learn's 442 patients: inputs (N, 10), and progressions in hundreds (N,).

    In hundreds, as then they are about as large as California's values, and so are rates.
    """
    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    return inputs, targets / 100


DATASETS: dict[str, Callable[[], tuple[Numbers, Numbers]]] = {
    "california": california,
    "diabetes": diabetes,
}


def split(inputs: Numbers, targets: Numbers, share: float, seed: int) -> tuple[Split, Split]:
    """Draw a share of the examples to test on; scale all inputs by statistics of the others.

    Args:
        inputs: (N, features).
        targets: (N,), which stay as they are.
        share: of N, in (0, 1).
        seed: of the draw.

    Returns:
        Training and test split in float32.
    """
    parts = train_test_split(inputs, targets, test_size=share, random_state=seed)
    train_inputs, test_inputs, train_targets, test_targets = parts
    scaler = StandardScaler().fit(train_inputs)

    def tensors(inputs: Numbers, targets: Numbers) -> Split:
        scaled = scaler.transform(inputs)
        return Split(torch.from_numpy(scaled).float(), torch.from_numpy(targets).float())

    return tensors(train_inputs, train_targets), tensors(test_inputs, test_targets)
