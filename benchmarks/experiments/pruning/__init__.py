"""Do networks that were trained by LFP lose more weights before they lose accuracy?

The experiment `pruning` of study files: every method trains networks, at learning rates that were
chosen on the validation split, which then are pruned in small steps
(:mod:`benchmarks.analysis.sparsity`).

What is tested is decided in the code, for all studies: the two summaries of the curve by magnitude
over all layers, for each of :data:`~benchmarks.experiments.pruning.report.PAIRS`. These are the
paper's claim, that LFP leaves many weights small enough to be left out. Magnitude per layer and
relevance are shown with intervals alone:
Holm's correction for all 24 rows would ask of each a p that eight seeds cannot reach (2/2^8 at
least). A first run with the same eight seeds of swirls and digits had been seen before.
"""

from benchmarks.experiments.pruning.experiment import Pruning
from benchmarks.experiments.pruning.options import Options

__all__ = ["Options", "Pruning"]
