"""Which commit a result is told to be of: of this code's own repository, or of none."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.performance import history
from benchmarks.storage import git, provenance

CPU = torch.device("cpu")


def repository(folder: Path, content: str = "a\n") -> str:
    """Make a repository with one commit, and return its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "code.py").write_text(content)
    for command in (
        ("init", "-q"),
        ("add", "code.py"),
        (*("-c", "user.name=a", "-c", "user.email=a@example.org"), "commit", "-q", "-m", content),
    ):
        subprocess.run(["git", "-C", str(folder), *command], check=True, env=clean())
    found = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "HEAD"],
        check=True,
        env=clean(),
        capture_output=True,
        text=True,
    )
    return found.stdout.strip()


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what tells the commit and whether it is dirty, of the code in `own`."""
    monkeypatch.delenv("LFP_COMMIT", raising=False)
    code = provenance.code_version()
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "own")
    monkeypatch.setattr(provenance, "code_version", lambda: code)

    def tell() -> tuple[str | None, bool | None]:
        provenance.checked_out.cache_clear()
        found = provenance.describe(CPU)
        return found["commit"], found["dirty"]

    return tell


@pytest.mark.parametrize(
    "names",
    [
        ("GIT_DIR",),
        ("GIT_DIR", "GIT_WORK_TREE"),
        ("GIT_DIR", "GIT_INDEX_FILE"),
        ("GIT_OBJECT_DIRECTORY",),
        ("GIT_COMMON_DIR",),
        ("GIT_NAMESPACE",),
    ],
)
def test_variables_of_another_repository_change_nothing(
    names: tuple[str, ...], told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = repository(tmp_path / "own"), repository(tmp_path / "other", "b\n")
    assert own != other
    values = {
        "GIT_DIR": ".git",
        "GIT_WORK_TREE": "",
        "GIT_INDEX_FILE": ".git/index",
        "GIT_OBJECT_DIRECTORY": ".git/objects",
        "GIT_COMMON_DIR": ".git",
        "GIT_NAMESPACE": "x",
    }
    for name in names:
        monkeypatch.setenv(name, str(tmp_path / "other" / values[name]))
    assert told() == (own, False)
    (tmp_path / "own" / "code.py").write_text("changed\n")
    assert told() == (own, True)


def test_a_process_tells_the_commit_that_it_began_with(told: Any, tmp_path: Path) -> None:
    first = repository(tmp_path / "own"), False
    assert told() == first
    (tmp_path / "own" / "code.py").write_text("changed\n")
    found = provenance.describe(CPU)
    assert (found["commit"], found["dirty"]) == first
    assert told() != first


def test_a_repository_around_the_code_is_not_its_own(told: Any, tmp_path: Path) -> None:
    repository(tmp_path)
    (tmp_path / "own").mkdir()
    assert told() == (None, None)
    (tmp_path / "own" / ".git").mkdir()  # which is no repository, so that git looks further up
    assert told() == (None, None)


@pytest.mark.parametrize("refused", ["", "status", "rev-parse"])
def test_what_git_refuses_is_unknown(
    refused: str, told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path / "own")
    stub = tmp_path / "bin" / "git"
    stub.parent.mkdir()
    stub.write_text(
        f'#!/bin/sh\ncase "$*" in *"{refused}"*) echo "fatal: detected dubious ownership" >&2; '
        "exit 128;; esac\necho 0123456789\n"
    )
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(stub.parent), prepend=os.pathsep)
    commit, dirty = told()
    assert dirty is None
    assert commit == ("0123456789" if refused == "status" else None)


def test_without_git_nothing_is_known(
    told: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path / "own")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert told() == (None, None)


def test_a_repository_without_a_commit_is_unknown(told: Any, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path / "own")], check=True, env=clean())
    assert told()[0] is None
    assert told()[1] is None


def test_the_variables_that_say_what_is_allowed_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/etc/mine")
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    found = git.environment()
    assert found["GIT_CONFIG_GLOBAL"] == "/etc/mine"
    assert "GIT_DIR" not in found
    assert found["PATH"] == os.environ["PATH"]


def test_commits_of_another_repository_are_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    for commit in (other, "--help", "-x"):
        with pytest.raises(ValueError, match="is none of this repository"):
            history.resolved(commit)


# --- the processor --------------------------------------------------------------------------------

X86 = "processor : 0\nmodel name\t: AMD EPYC 9B14\ncpu MHz : 2600\n\n" * 2
ARM = "processor\t: {}\nBogoMIPS\t: 50.00\nCPU implementer\t: {}\nCPU part\t: {}\n\n"


@pytest.mark.parametrize(
    ("info", "name"),
    [
        (X86, "AMD EPYC 9B14"),
        (ARM.format(0, "0x41", "0xd0c") * 2, "ARM implementer 0x41 part 0xd0c"),
        (ARM.format(0, "0x61", "0x032"), "ARM implementer 0x61 part 0x032"),
        (
            ARM.format(0, "0x41", "0xd05") + ARM.format(1, "0x41", "0xd0b"),
            "ARM implementer 0x41 part 0xd05, implementer 0x41 part 0xd0b",
        ),
        (
            "model name : ARMv7 Processor rev 4 (v7l)\nCPU implementer : 0x41\nCPU part: 0xd03\n",
            "ARM implementer 0x41 part 0xd03",
        ),
        ("processor : 0\ncpu : POWER9, altivec supported\n", "POWER9, altivec supported"),
        ("hart : 0\nuarch : sifive,u74-mc\n", "sifive,u74-mc"),
    ],
)
def test_processors_have_names(
    info: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(info)
    monkeypatch.setattr(provenance, "CPUS", tmp_path / "cpuinfo")
    assert provenance.processor(CPU) == name


def test_a_processor_without_a_list_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "CPUS", tmp_path / "none")
    assert provenance.processor(CPU)
