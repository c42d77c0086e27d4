"""When training is over: the same rule for all methods, which asks the training loss alone.

A loss that has not fallen by more than a least amount below the last one that did, for a number of
epochs in a row, is at rest. It is absolute (nats of cross-entropy), since a loss that goes to 0
falls by a share of itself for ever.
"""

from collections.abc import Sequence

from benchmarks.runs.run import Epoch


def at_rest(history: Sequence[Epoch], patience: int | None, fall: float) -> bool:
    """Return whether the training loss no longer falls.

    Args:
        history: of a run; what has no training loss, as before training, is passed over.
        patience: for how many epochs in a row; None for a loss that never counts as at rest.
        fall: by how much an epoch's loss has to lie below the last one that did.
    """
    lowest, waited = float("inf"), 0
    for epoch in history:
        if epoch.train_loss is None:
            continue
        if epoch.train_loss < lowest - fall:
            lowest, waited = epoch.train_loss, 0
        else:
            waited += 1
    return patience is not None and waited >= patience
