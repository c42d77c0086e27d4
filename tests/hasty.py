"""The command `lfp-bench`, which saves the state of a run ten times a second.

So a run of a second or two has been saved when it is killed, which would otherwise take a minute.
Processes that work for the command import this file too.
"""

import lfp_bench
from benchmarks.runs import training

training.CHECKPOINT_SECONDS = 0.1

if __name__ == "__main__":
    lfp_bench.main()
