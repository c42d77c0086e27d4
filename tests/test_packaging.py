"""The two distributions: what is in them, what they depend on, and how they tell what they lack."""

import re
import signal
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import lfp_bench
import lfp_core
from benchmarks.cli import app, extras
from benchmarks.storage.provenance import ROOT

RELATIVE = re.compile(r"\]\((?!https?://)")


def built(folder: Path, into: Path, version: str = "standard") -> Path:
    """Return the wheel of one of the projects; skips where what builds it is missing."""
    pytest.importorskip("hatch_fancy_pypi_readme")
    wheel = pytest.importorskip("hatchling.builders.wheel")
    (path,) = wheel.WheelBuilder(str(folder)).build(directory=str(into), versions=[version])
    return Path(path)


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as file:
        (name,) = (n for n in file.namelist() if n.endswith(".dist-info/METADATA"))
        return message_from_bytes(file.read(name))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the wheels of the engine and of the application."""
    into = tmp_path_factory.mktemp("dist")
    return built(ROOT / "lfp_core", into), built(ROOT, into)


# --- what is built --------------------------------------------------------------------------------


def test_the_engine_needs_torch_alone(wheels: tuple[Path, Path]) -> None:
    told = metadata(wheels[0])
    needed = told.get_all("Requires-Dist") or []
    assert [one for one in needed if "extra ==" not in one] == ["torch>=2.8"]
    assert told["Version"] == lfp_core.__version__
    with zipfile.ZipFile(wheels[0]) as file:
        names = {n.partition("/")[2] for n in file.namelist() if n.startswith("lfp_core/")}
    modules = {path.name for path in (ROOT / "lfp_core").glob("*.py")}
    assert names == {*modules, "native.cpp", "py.typed", "VERSION"}


def test_the_application_needs_the_engine_of_its_version(wheels: tuple[Path, Path]) -> None:
    told = metadata(wheels[1])
    assert f"lfp-core=={lfp_core.__version__}" in (told.get_all("Requires-Dist") or [])
    with zipfile.ZipFile(wheels[1]) as file:
        names = file.namelist()
    own = {"lfp_bench.py", "baselines", "benchmarks", "validation"}
    assert {n.partition("/")[0] for n in names if ".dist-info" not in n} == own
    assert not [n for n in names if "/stored/" in n or "/results/" in n]
    for needed in ("benchmarks/rendering/templates/report.html", "benchmarks/studies/toy.yaml"):
        assert needed in names


def test_an_editable_installation_has_the_engine_beside_it(tmp_path: Path) -> None:
    needed = metadata(built(ROOT, tmp_path, "editable")).get_all("Requires-Dist") or []
    assert "torch>=2.8" in needed
    assert not [one for one in needed if one.startswith("lfp-core")]


def test_a_description_has_no_links_into_the_repository(wheels: tuple[Path, Path]) -> None:
    for wheel in wheels:
        description = str(metadata(wheel).get_payload())
        assert "lfp.feedback" in description
        assert not RELATIVE.search(description)
    assert RELATIVE.search((ROOT / "README.md").read_text()), "so this test would notice one"


@pytest.mark.slow
def test_what_is_installed_runs_without_the_repository(
    wheels: tuple[Path, Path], tmp_path: Path
) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as file:
            file.extractall(site)
    program = f"import sys; sys.path.insert(0, {str(site)!r}); import lfp_bench; lfp_bench.main()"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, "list"], cwd=empty, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"all-methods" in done.stdout
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("command", ["history", "gate v0.1.0", "dashboard"])
def test_what_needs_the_repository_says_so(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "ROOT", tmp_path)
    told = CliRunner().invoke(app, ["perf", *command.split()])
    assert told.exit_code == 2
    assert told.stderr.endswith(f"needs a clone of the repository, which {tmp_path} is not\n")
    assert told.stderr.count("\n") == 1


# --- one version, one licence ---------------------------------------------------------------------


def test_the_version_stands_in_one_place() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"lfp-bench {lfp_core.__version__}\n"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == lfp_core.__version__
    changes = re.findall(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changes[0] == lfp_core.__version__


def test_both_distributions_have_one_licence() -> None:
    assert (ROOT / "lfp_core" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


# --- what is missing ------------------------------------------------------------------------------


@pytest.fixture
def _without_asv(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("benchmarks.performance.history")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [n for n in sys.modules if n.partition(".")[0] == "asv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asv", None)


@pytest.mark.usefixtures("_without_asv")
@pytest.mark.parametrize("command", ["history", "gate HEAD", "dashboard"])
def test_a_command_names_the_extra_that_it_lacks(command: str) -> None:
    told = CliRunner().invoke(app, ["perf", *command.split()])
    assert told.exit_code == 2
    assert told.stderr == (
        "error: asv is not installed, which is for the performance history; "
        "pip install 'lfp-bench[history]'\n"
    )


def test_the_engine_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lfp_bench, "find_spec", lambda name: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    with pytest.raises(SystemExit, match="2"):
        lfp_bench.main()
    assert capsys.readouterr().err == "error: lfp_core is not installed; pip install lfp-core\n"


def test_a_module_of_no_extra_stays_an_error() -> None:
    assert extras.missing(ModuleNotFoundError(name="torch._missing")) is None
    assert extras.missing(ModuleNotFoundError()) is None


def test_every_extra_has_what_it_is_said_to_have() -> None:
    core = pytest.importorskip("hatchling.metadata.core")
    manager = pytest.importorskip("hatchling.plugin.manager").PluginManager()
    declared = core.ProjectMetadata(str(ROOT), manager).core.optional_dependencies
    for package, (extra, _) in extras.EXTRAS.items():
        assert any(one.startswith(package) for one in declared[extra]), package


@pytest.mark.slow
def test_spiking_networks_name_the_extra_that_they_lack() -> None:
    program = (
        "import sys; sys.modules['snntorch'] = None\n"
        "try:\n    import lfp_core.spiking\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "lfp_core.spiking needs snntorch; pip install 'lfp-core[spiking]'\n"
