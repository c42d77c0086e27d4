"""See :mod:`benchmarks.performance.roofline`."""

import sys
from pathlib import Path

from benchmarks.performance.roofline.report import FOLDER, main

if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)
