"""Build the nodes of :mod:`lfp_core.native`: ``python -m lfp_core.build_native``.

It takes a C++ compiler, ninja and about half a minute, and writes one file into the package's
folder. Another version of torch or of Python needs another file, and runs without one until then.
"""

import os
import shutil
import sys
from pathlib import Path
from subprocess import SubprocessError
from sysconfig import get_path
from tempfile import TemporaryDirectory

from torch.utils import cpp_extension

from lfp_core.native import NAME, SOURCE, place


def build(file: Path) -> None:
    """Compile the nodes.

    Args:
        file: the library to write, in a folder that exists.

    Raises:
        RuntimeError: ninja or the compiler is missing, or the compiler fails.
        OSError: the file cannot be written.
        SubprocessError: the compiler does not say what it is.
    """
    # Where pip puts ninja, whether or not the environment is activated.
    os.environ["PATH"] = os.pathsep.join((get_path("scripts"), os.environ.get("PATH", "")))
    with TemporaryDirectory() as folder:  # where no build that was killed has left its lock
        cpp_extension.load(
            NAME,
            [str(SOURCE)],
            # A fused multiply-add rounds once, where torch's two operations round twice. And
            # comparisons that may trap keep a compiler from using vectors.
            extra_cflags=["-O3", "-ffp-contract=off", "-fno-trapping-math"],
            build_directory=folder,
        )
        unfinished = file.with_suffix(".unfinished")
        shutil.copyfile(Path(folder, f"{NAME}.so"), unfinished)
        unfinished.replace(file)


if __name__ == "__main__":
    try:
        build(place())
    except (RuntimeError, OSError, SubprocessError) as error:
        print(error, file=sys.stderr)
        sys.exit("The C++ nodes cannot be built, so LFP runs without them, with the same results.")
    print(f"built {place()}")
