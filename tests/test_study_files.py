"""What a study file may say: values that mean one thing, and names that stay in their folder."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.cli.options import by_method
from benchmarks.experiments.options import by_method as by_family
from benchmarks.storage.names import checked_name
from benchmarks.studies import strict_yaml
from benchmarks.studies.plan import read
from benchmarks.studies.strict_yaml import StrictYAMLError
from benchmarks.studies.written import PlanError, names

GOOD = """title: a study
common: {model: toy-mlp, methods: [lfp, sgd], activations: [relu], dataset: blobs}
parts: {one: {epochs: 1}}
sizes: {smoke: {seeds: 1}}
"""


def refused(folder: Path, text: str) -> str:
    """Ask for a study that must be refused; return the line that says why."""
    path = folder / "mine.yaml"
    path.write_text(text)
    result = CliRunner().invoke(app, ["run", str(path), "--size", "smoke", "--results", "results"])
    assert result.exit_code == 2, result.output
    assert [other.name for other in folder.iterdir()] == ["mine.yaml"], "nothing was begun"
    (line,) = result.stderr.splitlines()
    assert str(path) in line
    return line


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- values ---------------------------------------------------------------------------------------

AMBIGUOUS = [
    *("yes", "no", "on", "off", "Yes", "ON", "y", "N", "010", "0o10", "0x10", "0b11", "08", "+010"),
    *("1:30", "12:30:45", "190:20:30.5", "1_000", "1_000.5", "2026-11-26", "2026-11-26 10:00:00Z"),
    *("=", "1__0", "00.5"),
]


@pytest.mark.parametrize("value", AMBIGUOUS)
def test_a_value_with_two_meanings_is_refused_with_its_path(value: str, tmp_path: Path) -> None:
    line = refused(tmp_path, GOOD.replace("seeds: 1", f"seeds: {value}"))
    assert f"sizes.smoke.seeds: {value}" in line
    assert "allowed: true, false, 10" in line


@pytest.mark.parametrize("value", [".nan", ".inf", "-.INF", "+.inf", "1e999"])
def test_a_number_that_is_not_finite_is_refused(value: str, tmp_path: Path) -> None:
    line = refused(tmp_path, GOOD.replace("epochs: 1", f"epsilon: {value}"))
    assert f"parts.one.epsilon: {value}; allowed: finite numbers" in line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0", 0),
        ("-7", -7),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ('"yes"', "yes"),
        ("'010'", "010"),
        ("[on-off, 'on']", ["on-off", "on"]),
        ("mnist-lenet", "mnist-lenet"),
        ("1.2.3", "1.2.3"),
        ("{a: [1, {b: 2}]}", {"a": [1, {"b": 2}]}),
    ],
)
def test_what_means_one_thing_is_read(text: str, value: Any) -> None:
    found = strict_yaml.load(f"key: {text}")
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


@pytest.mark.parametrize("name", names())
def test_shipped_studies_mean_what_pyyaml_reads(name: str) -> None:
    path = Path(strict_yaml.__file__).parent / f"{name}.yaml"
    assert strict_yaml.load(path.read_text()) == yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{one: {epochs: 1}}",
            "{one: {epochs: 1}, one: {epochs: 2}}",
            "parts.one: the key is given",
        ),
        ("epochs: 1", "epochs: 1, epochs: 1", "parts.one.epochs: the key is given twice"),
        ("seeds: 1", "seeds: 1, 'seeds': 2", "sizes.smoke.seeds: the key is given twice"),
        ("title", "title: first\ntitle", "title: the key is given twice"),
        ("epochs: 1", "options: {lfp: {epsilon: 0, epsilon: 1}}", "options.lfp.epsilon: the key"),
        ("epochs: 1", "epochs: ", "parts.one.epochs: nothing is given"),
        ("epochs: 1", "epochs", "parts.one.epochs: nothing is given"),
        ("epochs: 1", "1: 1", "parts.one: the key '1' is no string"),
        ("epochs: 1", "on: 1", "parts.one: on does not mean the same"),
        ("epochs: 1", "[a]: 1", "parts.one: a key that is a list"),
        ("epochs: 1", "<<: {epochs: 1}", "parts.one: '<<'; allowed: keys and values in full"),
        ("{epochs: 1}", "&it {epochs: 1}", "line 3: the anchor 'it'"),
        ("epochs: 1", "epochs: !!int '1'", "line 3: the tag 'tag:yaml.org,2002:int'"),
        ("epochs: 1", "epochs: !!python/name:os.system 1", "line 3: the tag"),
        ("epochs: 1", "epochs: " + "[" * 30 + "]" * 30, "line 3: nested too deeply"),
        ("epochs: 1", "epochs: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("epochs: 1", "epochs: " + "9" * 5000, "parts.one.epochs: a number of 5000 digits"),
        ("title: a study", "title: a study\n---\ntitle: b", "not YAML"),
        ("epochs: 1", "epsilon: 1e-400", "parts.one.epsilon: 1e-400 is 0 in 64 bits; allowed: 0"),
        ("[relu]", str(["relu"] * 1001), "common.activations: a list of 1001 values; allowed: at"),
        (
            "parts:",
            f"grid: {{seeds: {list(range(100))}, epochs: {list(range(100))}}}\nparts:",
            "grid: 10000 parts; allowed: at most 1000",
        ),
        # The path is that of the value, without what was expected there.
        ("[lfp, sgd]", "lfp", "one (smoke): methods: Input should be a valid array, not 'lfp'"),
        ("[lfp, sgd]", "[]", "methods: List should have at least 1 item after validation, not []"),
        ("[lfp, sgd]", "[[lfp]]", "methods.0: Input should be a valid string, not ['lfp']"),
        ("toy-mlp", "''", "one (smoke): model: unknown name ''"),
        ("epochs: 1", "time_steps: 100000", "time_steps: Input should be less than or equal to"),
        # Types are those that are written.
        ("epochs: 1", "epochs: true", "one (smoke): epochs: Input should be a valid integer"),
        ("epochs: 1", "epochs: '1'", "one (smoke): epochs: Input should be a valid integer"),
        ("epochs: 1", "epochs: 1.0", "one (smoke): epochs: Input should be a valid integer"),
        ("epochs: 1", "epsilon: true", "epsilon must be finite and >= 0, not True"),
        ("epochs: 1", "options: {lfp: {epsilon: '0.1'}}", "epsilon must be finite and >= 0, not"),
        ("epochs: 1", "clip_norm: false", "clip_norm must be > 0 or None, not False"),
        # Each value once.
        ("parts: {one: {epochs: 1}}", "grid: {epsilon: [0.1, 1e-1]}", "grid.epsilon: 0.1 is given"),
        ("parts: {one: {epochs: 1}}", "grid: {seeds: [1, 1.0]}", "grid.seeds: 1.0 is given twice"),
        ("parts: {one: {epochs: 1}}", "grid: {clip_norm: [~, ~]}", "grid.clip_norm: None is given"),
        ("[lfp, sgd]", "[lfp, lfp]", "methods: 'lfp' is given twice"),
        ("[relu]", "[relu, tanh, relu]", "activations: 'relu' is given twice"),
        ("{seeds: 1}", "{parts: [one, one]}", "parts: 'one' is given twice"),
        ("{seeds: 1}", "{parts: one}", "parts: 'one'; allowed: a list of one"),
        ("{seeds: 1}", "{parts: [[one]]}", "parts: [['one']]; allowed: a list of one"),
        ("{seeds: 1}", "{parts: []}", "parts: []; allowed: a list of one"),
        (
            "[lfp, sgd], activations: [relu]",
            "[pso], activations: [relu], seconds: {pso: 1, pso-paper: 2}",
            "'pso-paper' is given twice, by its name and its family",
        ),
    ],
)
def test_what_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in GOOD
    assert message in refused(tmp_path, GOOD.replace(old, new))


def test_references_cannot_take_the_memory() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(50))
    with pytest.raises(StrictYAMLError, match="the anchor 'a'"):
        strict_yaml.load(bomb)


@pytest.mark.parametrize("value", [str([0] * 90000), "- [[1], [2]]\n" * 9000])
def test_more_values_than_any_study_has_take_no_time(value: str) -> None:
    begun = time.process_time()
    with pytest.raises(StrictYAMLError, match=r"too many values; allowed: 10000"):
        strict_yaml.load(value)
    assert time.process_time() - begun < 10


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(PlanError, match=r"folder\.yaml: cannot be read"):
        read("folder.yaml")
    (tmp_path / "marked.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert read("marked.yaml").title == "a study"


# --- names ----------------------------------------------------------------------------------------

NOT_NAMES = [
    *("", ".", "..", "../../escaped", "/absolute", "a/b", "a\\b", "a..", "a.", "a ", " a", "a b"),
    *(
        ".hidden",
        "-option",
        "a\tb",
        "a\nb",
        "a\x00b",
        "a\x1bb",
        "con",
        "NUL.txt",
        "com1",
        "a:b",
        "a*b",
    ),
    *("x" * 300, "ä" * 150, "~", "$HOME", "a\u202eb", "a\n"),
]


@pytest.mark.parametrize("name", NOT_NAMES)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="allowed: "):
        checked_name("parts", name)


@pytest.mark.parametrize(
    "name", ["a", "lfp-0.3", "mnist_mlp", "1e-6", "größe", "_", "a.b-c", "x" * 200]
)
def test_a_name_that_stays_is_kept(name: str) -> None:
    assert checked_name("parts", name) == name


@pytest.mark.parametrize("name", [name for name in NOT_NAMES if name.isprintable()])
def test_a_part_must_have_such_a_name(name: str, tmp_path: Path) -> None:
    line = refused(
        tmp_path,
        GOOD.replace(
            "{one:",
            "{" + yaml.safe_dump(name, width=1000).strip().removesuffix("...").strip() + ":",
        ),
    )
    assert "mine.yaml: parts: " in line


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("{tables: {}}", "parts: 'tables' is what a file beside the parts is called"),
        ("{one.log: {}}", "parts: 'one.log' is what the log of a study is called; allowed: names"),
        ("{study.json: {}}", "parts: 'study.json' is what a file"),
        ("{source.json: {}}", "parts: 'source.json' is what a file"),
        ("{Report.HTML: {}}", "parts: 'Report.HTML' is what a file"),
        ("{One: {}, one: {}}", "parts: 'One' and 'one' are one folder on some machines"),
        ("{one: {}}\ngrid: {reward: [../../x]}", "grid: 'one-reward-../../x' is no name"),
        ("{one: {}}\ngrid: {methods: [[lfp], [sgd]]}", "is no name for a folder"),
        ("{a: {}, a-epsilon-1: {}}\ngrid: {epsilon: [1], epsilon-1-epsilon: [1]}", "unknown key"),
    ],
)
def test_names_of_parts(parts: str, message: str, tmp_path: Path) -> None:
    assert message in refused(tmp_path, GOOD.replace("{one: {epochs: 1}}", parts))


@pytest.mark.parametrize(
    ("study", "commands"),
    [
        ("../x", ("compare", "speed", "diagnose")),
        *((name, ("speed",)) for name in ("/tmp/x", "a.", "x" * 300, "", "a\nb", "nul", "x.Log")),
    ],
)
def test_a_study_on_the_command_line_has_the_same_rule(
    study: str, commands: tuple[str, ...], tmp_path: Path
) -> None:
    for command in commands:
        own = ["--dataset", "blobs"] if command == "diagnose" else []
        result = CliRunner().invoke(app, [command, *own, "--study", study])
        assert result.exit_code == 2, (command, result.output)
        assert "error: study: " in result.stderr
    assert list(tmp_path.iterdir()) == []


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--learning-rate", "lfp=0.1", "--learning-rate", "lfp=0.5"), "learning_rate: 'lfp' is"),
        (("--learning-rate", "lfp=0.1", "--learning-rate", "lfp=0.1"), "learning_rate: 'lfp' is"),
        (("--seconds", "lfp=1", "--seconds", "lfp=2"), "seconds: 'lfp' is given twice"),
        (("--methods", "lfp,lfp"), "methods: 'lfp' is given twice"),
        (("--methods", "lfp, sgd,lfp "), "methods: 'lfp' is given twice"),
        (("--activations", "relu,tanh,relu"), "activations: 'relu' is given twice"),
        (("--learning-rates", "0.1,1e-1"), "learning_rates: "),
    ],
)
def test_what_is_given_twice(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["compare", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_other_lists_have_the_same_rule() -> None:
    for arguments in (("speed", "--models", "mlp,mlp"), ("perf", "steps", "--models", "mlp,mlp")):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert "models: 'mlp' is given twice" in result.stderr


def test_methods_and_families() -> None:
    assert by_method("seconds", "SECONDS", ["lfp=1", "sgd=2"]) == {"lfp": 1.0, "sgd": 2.0}
    assert by_family({"pso": 1, "lfp": 2}) == {"pso-paper": 1, "pso-stable": 1, "lfp": 2}
    with pytest.raises(ValueError, match="'pso-paper' is given twice"):
        by_family({"pso-paper": 1, "pso": 2})
