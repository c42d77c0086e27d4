"""The comparison of methods: its study, its runs, and everything that tells what they found."""

from benchmarks.experiments.comparison.experiment import Comparison, Options

__all__ = ["Comparison", "Options"]
