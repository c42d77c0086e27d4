"""`lfp-bench` before its commands: version, help, Ctrl-C, and other packages of our names."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lfp_bench
from benchmarks.cli import app, checks
from benchmarks.cli.app import Commands

ROOT = Path(__file__).parent.parent


def command(*arguments: str, cwd: Path, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lfp_bench", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


# --- as every tool --------------------------------------------------------------------------------


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("lfp-bench")
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["-h"], ["--help"], ["compare", "-h"], ["perf", "gpu", "-h"]]
)
def test_help_is_told(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_without_a_command_the_help_comes_before_the_error() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage" in result.stderr
    assert "compare" in result.stderr
    assert result.stderr.splitlines()[-1] == "error: Missing command."


# --- what cannot be printed -----------------------------------------------------------------------


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # Python keeps what it could not write, and tries again when it ends, unless it is told not to.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["sh", "-c", line.replace("lfp-bench", f"'{sys.executable}' -m lfp_bench")],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    ["--version", "--help", "list", pytest.param("list --json", marks=pytest.mark.thorough)],
)
def test_an_output_that_is_full_is_one_line(arguments: str, tmp_path: Path) -> None:
    done = shell(f"lfp-bench {arguments} > /dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: standard output: No space left on device\n"
    assert shell(f"lfp-bench {arguments} > /dev/full 2>&1", tmp_path).returncode == 2
    assert shell("lfp-bench run nowhere 2> /dev/full", tmp_path).returncode == 2


def test_who_reads_may_have_seen_enough(tmp_path: Path) -> None:
    done = shell("(lfp-bench list; echo $? >&2) | true", tmp_path)
    assert done.stderr == "1\n"


def test_a_closed_stream_keeps_nothing(tmp_path: Path) -> None:
    done = shell("lfp-bench list 2>&-", tmp_path)
    assert done.returncode == 0
    assert "all-methods" in done.stdout
    refused = shell("lfp-bench run nowhere 2>&-", tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert shell("lfp-bench list <&- >&- 2>&-", tmp_path).returncode == 0
    told = shell("lfp-bench run nowhere >&-", tmp_path)
    assert (told.returncode, len(told.stderr.splitlines())) == (2, 1)


def test_a_current_folder_that_was_deleted_is_one_line(tmp_path: Path) -> None:
    for arguments in ("list", "status toy"):
        done = shell(
            f"mkdir -p gone && cd gone && rmdir ../gone && lfp-bench {arguments}", tmp_path
        )
        assert done.returncode == 2
        assert done.stderr == "error: the current folder was deleted; change to another one\n"


# --- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "name", "command"),
    [
        pytest.param(checks, "prepare", "verify", id="while a command runs"),
        pytest.param(Commands, "parse_args", "list", id="while arguments are read"),
    ],
)
def test_ctrl_c_in_any_command_is_one_line(
    where: object, name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, name, interrupted)
    result = CliRunner().invoke(app, [command])
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_ctrl_c_while_modules_are_imported_is_one_line(delay: float, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("")
    program = "import lfp_bench, sys; print('begun', flush=True); lfp_bench.main()"
    with subprocess.Popen(
        [sys.executable, "-c", f"{lfp_heed()}{program}", "compare", "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.05 + delay)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told == "interrupted\n"


def lfp_heed() -> str:
    """Heed Ctrl-C, which what runs in the background may not."""
    return "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


# --- other packages of our names ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", lfp_bench.PACKAGES)
@pytest.mark.parametrize("by", ["path", "folder"])
def test_a_folder_that_shadows_a_package_is_named(name: str, by: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / name
    mine.mkdir(parents=True)
    (mine / "__init__.py").touch()
    path = os.pathsep.join([str(mine.parent), str(ROOT)]) if by == "path" else str(ROOT)
    done = command("list", cwd=mine.parent if by == "folder" else tmp_path, path=path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {mine} shadows the package {name} of lfp-bench in {ROOT}")
    assert "PYTHONPATH" in line


def test_a_module_or_a_folder_without_code_can_shadow_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "baselines.py").touch()
    (tmp_path / "validation").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("baselines", "validation"):
        monkeypatch.delitem(sys.modules, name)
    found = dict(lfp_bench.shadows())
    assert found["baselines"] == tmp_path / "baselines.py"
    # One without __init__.py comes after all packages that have it.
    assert found.get("validation", tmp_path / "validation") == tmp_path / "validation"


def test_our_own_packages_are_no_shadows() -> None:
    assert list(lfp_bench.shadows()) == []


# --- packages that cannot be loaded ---------------------------------------------------------------


def raising(error: Exception) -> Callable[..., None]:
    def fail(*arguments: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("module", ["heavy_a._C", "heavy_b.deep._part", "heavy_c"])
def test_a_package_whose_compiled_part_cannot_be_loaded_is_one_line(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path.joinpath(*module.split(".")).with_suffix(".abi3.so")
    library.parent.mkdir(parents=True, exist_ok=True)
    for folder in set(library.parents) - {tmp_path, *tmp_path.parents}:
        (folder / "__init__.py").touch()
    library.write_bytes(b"not a library")
    package = module.partition(".")[0]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(checks, "prepare", lambda *_: importlib.import_module(module))
    result = CliRunner().invoke(app, ["verify"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {package} cannot be loaded: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        ImportError("cannot import name 'a' from 'b'", name="b", path="/somewhere/b.py"),
        ImportError("of no file"),
        ModuleNotFoundError("No module named 'b'", name="b"),
    ],
)
def test_an_import_that_is_wrong_in_the_code_is_not_hidden(
    error: ImportError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "prepare", raising(error))
    assert CliRunner().invoke(app, ["verify"]).exception is error


def test_a_library_of_the_system_that_cannot_be_loaded_is_not_the_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "prepare", raising(OSError("libdeps.so: cannot open")))
    result = CliRunner().invoke(app, ["verify"])
    assert result.exit_code == 2
    assert result.stderr == "error: libdeps.so: cannot open\n"
