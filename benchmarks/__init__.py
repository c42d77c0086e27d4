"""The study: which methods are trained on what, how it is measured, stored and reported.

What a study needs: :mod:`~benchmarks.data`, :mod:`~benchmarks.models` and the methods of
:mod:`baselines`. What it does: :mod:`~benchmarks.experiments.comparison.study` plans runs and
executes them with :mod:`~benchmarks.runs.training`, chooses learning rates with
:mod:`~benchmarks.runs.tuning`, measures cost with :mod:`~benchmarks.costs.step` and
:mod:`~benchmarks.costs.memory`, and keeps everything in a :mod:`~benchmarks.runs.store`. What it
tells: :mod:`~benchmarks.experiments.comparison.summary` and
:mod:`~benchmarks.experiments.comparison.figure`. The command line is :mod:`~benchmarks.cli`.
"""
