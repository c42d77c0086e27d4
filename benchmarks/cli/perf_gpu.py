"""The commands `lfp-bench perf gpu`, which need torch to be described."""

from benchmarks.cli.perf import perf
from benchmarks.performance import gpu_session

perf.add_typer(gpu_session.app, name="gpu", no_args_is_help=False)
