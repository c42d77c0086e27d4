"""Regression by a reward: LFP against gradient descent on the mean squared error."""

from benchmarks.experiments.regression.experiment import Options, Regression

__all__ = ["Options", "Regression"]
