"""Regression by a reward: LFP against gradient descent on the mean squared error.

The experiment `regression` of study files. The paper trains an MLP with two hidden layers and the
reward ``r = sign(o) (y - o)^3`` on California Housing (arXiv 2308.12053, and its authors' notebook,
where a run ends with a test error of 0.33 after 100 epochs). Beside it stand LFP with the reward of
the squared error, ``r = -o dL/do``, gradient descent, and gradient descent scaled by ``|w|``, which
by Theorem 1 is what LFP with that reward becomes for epsilon 0.

What differs from the notebook: inputs are scaled by mean and standard deviation of the training
split (theirs by those of all data), and every seed draws a split of its own, with 30% of the
examples for the test. A sweep chooses learning rates on 15% of the training split, by the error
after as many epochs as reported runs have, so that what overfits is not preferred. The epoch with
the lowest mean error at that rate is reported too, as methods overfit at different times.
"""

from benchmarks.experiments.regression.experiment import Regression
from benchmarks.experiments.regression.options import Options

__all__ = ["Options", "Regression"]
