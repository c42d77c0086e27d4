"""A small GPT or Llama that learns English letter by letter: LFP's options against the gradient.

The text is what scikit-learn ships as descriptions of its data sets, 43 kB of prose and tables: its
last tenth is for the test, the tenth before for validation. That is little text, and a model that
is trained for minutes; what is compared is how far each arm gets in the same number of steps.

An arm is what fills ``p.grad`` (LFP with an epsilon and treatments of attention and of
normalisations, or the gradient of the cross-entropy) and the optimiser that follows it. Every arm
has the same learning rates to choose from, by the validation loss averaged over the seeds, and is
reported by its test loss there.
"""

from benchmarks.experiments.language.experiment import Language
from benchmarks.experiments.language.options import Options

__all__ = ["Language", "Options"]
