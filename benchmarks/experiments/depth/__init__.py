"""Accuracy against depth: whether a method trains fifty layers, and with which help.

Networks of one width are trained by every method, with any of plain layers, residual ones,
normalised ones, and both. Every method is tuned on the same few learning rates in every network,
with seeds of its own. Before LFP trains, the norms of the feedback, of the gradient and of |w|
times the gradient are measured in each layer on the same batch.
"""

from benchmarks.experiments.depth.experiment import Depth
from benchmarks.experiments.depth.options import Options

__all__ = ["Depth", "Options"]
