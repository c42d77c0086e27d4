"""The command line.

Studies: `lfp-bench compare`, `run`, `resume`, `status`, `report` and `list`. Without a study:
`speed` and `diagnose`. What is stored: `pack` and `migrate`. What is there: `verify`, `coverage`,
`doctor` and `data`. The project's own speed: `perf` and its commands.

Results go to stdout (one JSON document with `--json`), everything else to stderr. Exit codes: 0,
1 for a check that fails or if all reported runs diverged, 2 for bad input (with one line that says
what is wrong), 130 for Ctrl-C.
The commands are in :mod:`~benchmarks.cli.studies`, :mod:`~benchmarks.cli.listing`,
:mod:`~benchmarks.cli.reports`, :mod:`~benchmarks.cli.measurements`,
:mod:`~benchmarks.cli.storage`, :mod:`~benchmarks.cli.checks`, :mod:`~benchmarks.cli.coverage` and
:mod:`~benchmarks.cli.perf`; what they share is in the other modules. None of them imports torch
or what brings it before a command is run, so that lists, help and TAB come at once.
"""

from benchmarks.cli.app import app

__all__ = ["app"]
