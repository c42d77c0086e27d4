"""See :mod:`benchmarks.experiments.treatments`."""

import sys

from benchmarks.experiments.treatments.studies import main

if __name__ == "__main__":
    main(*sys.argv[1:])
