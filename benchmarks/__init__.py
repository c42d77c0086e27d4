"""The harness: which methods are trained on what, how it is measured, stored and reported.

Its packages, of which each imports those above it alone (`make lint` checks it):

* :mod:`~benchmarks.storage`: files, checkpoints, records, and what a result depends on;
* :mod:`~benchmarks.rendering`: tables as text, the style of figures, curves, and documents;
* :mod:`~benchmarks.data` and :mod:`~benchmarks.models`: data sets and networks by name;
* :mod:`~benchmarks.costs`: time and memory of a training step;
* :mod:`~benchmarks.asv`: the suite that is run on the project's commits, on all of the above;
* :mod:`~benchmarks.runs`: training runs, where they are made, and their store;
* :mod:`~benchmarks.analysis`: what is concluded from them;
* :mod:`~benchmarks.experiments`: what a study can ask for, the comparison of methods above all;
* :mod:`~benchmarks.studies`: studies that are written down, and the report of one;
* :mod:`~benchmarks.performance`: the measurements of the project's own speed;
* :mod:`~benchmarks.cli`: the command line.
"""
