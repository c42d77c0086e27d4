"""Studies that are written down: the shipped ones, what they mean, and what is refused."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.experiments.comparison.experiment import Options
from benchmarks.storage.provenance import ROOT
from benchmarks.studies.plan import Plan, read
from benchmarks.studies.plan import changed as options_of
from benchmarks.studies.written import SIZES, PlanError, names

GOOD: dict[str, Any] = {
    "title": "a study",
    "common": {"model": "toy-mlp", "methods": ["lfp", "sgd"], "activations": ["relu"]},
    "parts": {"one": {"dataset": "blobs"}, "two": {"dataset": "circles", "epochs": 7}},
    "sizes": {"smoke": {"seeds": 1}, "cpu": {"seeds": 4, "epochs": 2}},
}


def changed(*path: str, to: Any) -> dict[str, Any]:
    """Return the good study with one value set; the path leads to it."""
    study: dict[str, Any] = copy.deepcopy(GOOD)
    place = study
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = to
    return study


def written(folder: Path, content: Any) -> str:
    path = folder / "study.yaml"
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", names())
def test_shipped_studies_have_all_sizes(name: str) -> None:
    plan = read(name)
    assert [size for size in SIZES if size in plan.sizes] == list(plan.sizes)
    assert {"smoke", "cpu", "paper"} <= set(plan.sizes)
    runs = [sum(map(plan.kind.runs, plan.studies(size).values())) for size in plan.sizes]
    assert runs[0] <= runs[1] <= runs[-1]
    assert plan.source
    assert runs[0] <= 120, "too many for a smoke test"


def test_the_shipped_studies_are_those_of_the_paper() -> None:
    assert {"toy", "activations", "optimizers", "snn", "rstdp", "rewards"} <= set(names())


def test_reproduce_makes_studies_that_are_there_and_compares_nothing_else() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (listed,) = re.findall(r"^STUDIES := (.+)$", text, re.MULTILINE)
    studies = listed.split()
    assert set(studies) <= set(names())
    assert len(set(studies)) == len(studies)
    assert all("cpu" in read(name).sizes for name in studies)
    assert "for study in $(STUDIES)" in text
    assert not re.findall(r"lfp-bench compare[ \t]+(?!--help)\S+", text)


def test_a_size_comes_before_a_part_before_what_is_common(tmp_path: Path) -> None:
    plan = read(written(tmp_path, GOOD))
    smoke, cpu = (
        {part: options.study() for part, options in plan.studies(size).items()}
        for size in ("smoke", "cpu")
    )
    assert list(smoke) == ["one", "two"]
    assert (smoke["one"].dataset, smoke["two"].dataset) == ("blobs", "circles")
    assert [s.seeds for s in (*smoke.values(), *cpu.values())] == [1, 1, 4, 4]
    assert (smoke["two"].epochs, cpu["two"].epochs) == (7, 2)
    assert smoke["one"] == Options(dataset="blobs", **GOOD["common"], seeds=1).study()


def test_a_grid_makes_every_combination(tmp_path: Path) -> None:
    grid = changed("grid", to={"epsilon": [0.0, 0.1], "momentum": [0.5, 0.9]})
    studies = read(written(tmp_path, grid)).studies("smoke")
    assert len(studies) == 2 * 4
    found = studies["two-epsilon-0.1-momentum-0.5"]
    assert (found.epsilon, found.momentum) == (0.1, 0.5)
    del grid["parts"]
    assert next(iter(read(written(tmp_path, grid)).studies("smoke"))) == "epsilon-0.0-momentum-0.5"


def test_a_size_may_have_some_of_the_parts(tmp_path: Path) -> None:
    plan = read(written(tmp_path, changed("sizes", "cpu", "parts", to=["two"])))
    assert list(plan.studies("cpu")) == ["two"]
    assert list(plan.studies("smoke")) == ["one", "two"]


def test_families_stand_for_their_methods() -> None:
    study = Options(dataset="digits", methods=["pso"], seconds={"pso": 3.0}).study()
    assert study.methods == ("pso-paper", "pso-stable")
    assert study.budgets == {"pso-paper": 3.0, "pso-stable": 3.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("title: [", "not YAML"),
        ("\x00", "not YAML"),
        ("", "the file: Input should be"),
        ("just text", "the file: Input should be"),
        ({"title": "a"}, "sizes: Field required, not"),
        (changed("titel", to="a"), "titel: unknown key; did you mean 'title'?"),
        (
            changed("experiment", to="comparson"),
            "experiment: unknown name 'comparson'",
        ),
        (changed("title", to=3), "title: Input should be a valid string, not 3"),
        (changed("sizes", to={"huge": {}}), "sizes.huge"),
        (changed("grid", to={"epsilon": []}), "grid.epsilon: List should have at least 1 item"),
        (
            changed("sizes", "cpu", "parts", to=["on"]),
            "parts: unknown name 'on'; did you mean 'one'",
        ),
        (changed("parts", to={}), "parts: there is none, and no grid"),
        (changed("parts", "one", "epoch", to=1), "one (smoke): epoch: unknown key; did you mean"),
        (changed("common", "epochs", to=0), "epochs: Input should be greater than or equal to 1"),
        (changed("common", "epochs", to="many"), "one (smoke): epochs: Input should be a valid"),
        (changed("sizes", "cpu", "seeds", to=-1), "one (cpu): seeds: Input should be greater"),
        (changed("common", "methods", to=[]), "one (smoke): methods"),
        (changed("common", "methods", to=["sdg"]), "unknown name 'sdg'; did you mean 'sgd'?"),
        (changed("common", "learning_rates", to=[]), "learning_rates: List should have at least 1"),
        (changed("common", "momentum", to=2), "momentum must lie in [0, 1), not 2"),
        (
            changed("parts", "one", "dataset", to="blob"),
            "unknown name 'blob'; did you mean 'blobs'",
        ),
        (changed("common", "seconds", to={"lfp": 0}), "seconds: 0.0 for lfp; allowed: finite"),
    ],
)
def test_a_wrong_file_is_refused_by_path_and_reason(
    tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(PlanError) as raised:
        read(written(tmp_path, content))
    assert message in str(raised.value)
    assert "study.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="there is no such file"):
        read(str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match="study: unknown name 'toys'; did you mean 'toy'"):
        read("toys")
    with pytest.raises(ValueError, match="size: unknown name 'paper'"):
        Plan.model_validate(GOOD).studies("paper")


@pytest.mark.parametrize("value", ["", " ", "\n", "# nothing but a remark", "---"])
def test_an_option_of_the_command_line_is_given_a_value(value: str) -> None:
    with pytest.raises(PlanError) as refused:
        options_of([f"epochs={value}"])
    assert str(refused.value) == (
        "epochs: nothing is given; allowed: a value; null says that there is none"
    )
    given = options_of(["epochs=null", "model=''"])
    assert given == {"epochs": None, "model": ""}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("yes", "seeds: yes does not mean the same in all versions of YAML"),
        ("[1, 010]", "seeds.1: 010 does not mean the same in all versions of YAML"),
        ("{a: {b: }}", "seeds.a.b: nothing is given"),
        ("{a: 1, a: 2}", "seeds.a: the key is given twice"),
        (".inf", "seeds: .inf; allowed: finite numbers"),
        ("&a 1", "seeds: the anchor 'a'; allowed: values in full"),
        ("!!int 1", "seeds: the tag 'tag:yaml.org,2002:int'; allowed: values without a tag"),
        ("[" * 21 + "]" * 21, "seeds: nested too deeply; allowed: 20 levels"),
        ("1" * 1_000_001, "seeds: 1000001 letters; allowed: at most 1000000"),
        ("[", "seeds: not YAML; "),
    ],
)
def test_a_refusal_of_an_option_names_the_option_and_no_file(value: str, told: str) -> None:
    with pytest.raises(PlanError) as refused:
        options_of([f"seeds={value}"])
    assert str(refused.value).startswith(told)
