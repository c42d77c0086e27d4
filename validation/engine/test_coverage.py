"""Which modules and models the engine trains, and that the suite that tells so can fail."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import lfp_core as lfp
from benchmarks.cli import app
from lfp_core import slopes
from validation.coverage import models, modules, records, suite
from validation.coverage.check import (
    Fault,
    Net,
    compare,
    default_loss,
    examine,
    is_finite,
    kept_buffers,
    prepared,
    run_plain,
    seeded,
)
from validation.coverage.document import document
from validation.coverage.modules import CASES, CLASSES, LAYOUTS, inputs_of, warm_up
from validation.coverage.records import GOALS, Record, faults, summaries
from validation.networks import Concatenation, Residual
from validation.selection import examples

pytestmark = pytest.mark.slow

# --- torch.nn -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", modules.names())
def test_module(name: str) -> None:
    assert not faults(modules.examine_module(name))


@pytest.mark.thorough  # all but those that are refused on purpose, as each is tried above
def test_of_torch_nn_nearly_all_works() -> None:
    found = [record for name in modules.names() for record in modules.examine_module(name)]
    (summary,) = summaries(found)
    assert summary.works >= GOALS[summary.group] * summary.counted, str(summary)


def test_every_class_of_torch_has_a_case() -> None:
    assert set(modules.classes()) <= {*modules.CASES, *modules.LOSSES}


def test_classes_are_found_by_looking_into_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = type("Newest", (nn.Module,), {"__module__": "torch.nn.modules.newest"})
    monkeypatch.setattr(nn, "Newest", newest, raising=False)
    assert "Newest" in modules.names()
    (record,) = modules.examine_module("Newest")
    assert record.verdict == "error"
    assert "no case" in record.reason


# --- whole models ---------------------------------------------------------------------------------

#: One of each kind of block that small models have: plain, fire, shuffled, inverted, gated.
SMALL = ("resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5", "mobilenet_v3_small")


@pytest.mark.parametrize(
    "name",
    ["efficientnet_b0", *(pytest.param(name, marks=pytest.mark.thorough) for name in SMALL)],
)
def test_small_model(name: str) -> None:
    assert not faults(models.examine_model(name))


def test_theorem_1_is_checked_where_there_is_only_relu() -> None:
    checked = {
        name: any("theorem_error" in r.figures for r in models.examine_model(name))
        for name in ("squeezenet1_1", "mobilenet_v2")  # which has ReLU6
    }
    assert checked == {"squeezenet1_1": True, "mobilenet_v2": False}


def test_all_classification_models_are_there() -> None:
    assert len(models.KINDS["torchvision classification"].names()) >= 80
    assert len(models.names()) == len(set(models.names()))


@pytest.mark.coverage
@pytest.mark.parametrize("name", [name for name in models.names() if name not in SMALL])
def test_model(name: str) -> None:
    assert not faults(models.examine_model(name))


@pytest.mark.coverage
@pytest.mark.parametrize("group", ["timm", "transformers"])
def test_of_other_peoples_models_nearly_all_work(group: str) -> None:
    pytest.importorskip(group)
    found = [r for _, of_name in suite.run(group, suite.select(group, "*")) for r in of_name]
    (summary,) = summaries(found)
    assert summary.counted >= 40
    assert summary.works >= GOALS[group] * summary.counted, str(summary)


# --- random nets of such modules ------------------------------------------------------------------

WIRINGS = ("plain", "residual", "concatenation")
COMPOSED = ("features", "length")


@dataclass(frozen=True)
class Part:
    """A module of a random net: its name in CASES, and how it is wired."""

    name: str
    wiring: str


@st.composite
def compositions(draw: st.DrawFn) -> tuple[str, list[Part], int]:
    """Draw a layout, two to four modules for it, and a seed."""
    layout = draw(st.sampled_from(COMPOSED))
    fitting = sorted(
        name
        for name, case in CASES.items()
        if case.layout == layout and case.dtype == torch.float64
    )
    part = st.builds(Part, st.sampled_from(fitting), st.sampled_from(WIRINGS))
    return layout, draw(st.lists(part, min_size=2, max_size=4)), draw(st.integers(0, 2**16))


@cache
def keeps_its_shape(name: str) -> bool:
    """Return whether what the module gives can be added to what it gets."""
    case = CASES[name]
    with modules.default_dtype(torch.float64), torch.no_grad():
        inputs = inputs_of(case.layout)
        return bool(case.build()(inputs).shape == inputs.shape)


def composed(layout: str, parts: list[Part]) -> nn.Sequential:
    """Return a net of the parts, with layers in between where the shapes would not fit."""
    shape, front = LAYOUTS[layout]
    layers = [front()]
    for part in parts:
        module, keeps = CASES[part.name].build(), keeps_its_shape(part.name)
        if keeps and part.wiring == "residual":
            module = Residual(module)
        elif keeps and part.wiring == "concatenation":
            module = Concatenation(nn.Identity(), module)
        layers.append(module)
        if not keeps or part.wiring == "concatenation":
            size = torch.Size(shape).numel()
            layers += [nn.Flatten(), nn.LazyLinear(size), nn.Unflatten(1, shape)]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(CLASSES))


def feedback_of(
    model: nn.Module, inputs: Tensor, epsilon: float, strict: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return outputs and feedback, with everything random as in any other call."""
    model.zero_grad(set_to_none=True)
    with seeded(), kept_buffers(model):
        with lfp.feedback(epsilon, strict=strict):
            outputs = model(inputs)
        lfp.backward(outputs, lfp.rewards.from_loss(default_loss)(outputs))
    return outputs.detach(), [
        torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()
    ]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # some modules are deprecated
@examples(150)
@given(compositions(), st.sampled_from([0.0, 1e-6, 0.1]), st.booleans())
def test_fuzz_modules(
    composition: tuple[str, list[Part], int], epsilon: float, training: bool
) -> None:
    layout, parts, seed = composition
    with modules.default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, inputs = composed(layout, parts), inputs_of(layout)
        warm_up(model, inputs)
    model.train(training)
    with seeded(), kept_buffers(model):
        expected = model(inputs)
    gradients = torch.autograd.grad(
        default_loss(expected), list(model.parameters()), allow_unused=True
    )
    assume(all(is_finite(g) for g in gradients if g is not None))
    loose = feedback_of(model, inputs, epsilon, strict=False)
    again = feedback_of(model, inputs, epsilon, strict=False)
    assert torch.allclose(loose[0], expected, rtol=1e-10, atol=1e-12)
    assert all(map(torch.equal, loose[1], again[1])), "two runs differ"
    try:
        strict = feedback_of(model, inputs, epsilon, strict=True)
    except lfp.UnsupportedOperation:
        return  # by name, as the error says
    assert torch.equal(strict[0], loose[0])
    assert all(map(torch.equal, strict[1], loose[1])), "strict=False gives other feedback"
    assert all(map(is_finite, strict[1]))


# --- the suite can fail ---------------------------------------------------------------------------


def relu_net(theorem: bool = True, call: Callable[[nn.Module], Tensor] | None = None) -> Net:
    """Return a net for which everything holds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    inputs = torch.randn(4, 6).double()
    behind = list(model[0].parameters())
    return Net(model, call or (lambda m: m(inputs)), behind, theorem=theorem)


def verdict_of(net: Callable[[], Net]) -> tuple[str, str]:
    """Return the verdict on a net, and the reason."""
    record = examine("torch.nn", "net", net, training=False, epsilons=(0.0,))
    return record.verdict, record.reason


def test_what_is_fine_works() -> None:
    assert verdict_of(relu_net) == ("works", "")


def test_plain_gradients_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slopes.WeightScale, "backward", staticmethod(lambda ctx, g: g))
    verdict, reason = verdict_of(relu_net)
    assert verdict == "wrong"
    assert "Theorem 1" in reason


def test_another_forward_pass_is_noticed() -> None:
    drawn = iter(range(100))
    verdict, reason = verdict_of(
        lambda: relu_net(call=lambda m: m(torch.ones(4, 6).double() * next(drawn)))
    )
    assert verdict == "wrong"
    assert "outputs differ" in reason


@pytest.mark.parametrize(("value", "reason"), [(float("nan"), "not finite"), (0.0, "no feedback")])
def test_useless_feedback_is_noticed(
    monkeypatch: pytest.MonkeyPatch, value: float, reason: str
) -> None:
    broken = staticmethod(lambda ctx, g: torch.full_like(g, value))
    monkeypatch.setattr(slopes.WeightScale, "backward", broken)
    verdict, told = verdict_of(lambda: relu_net(theorem=False))
    assert verdict == "wrong"
    assert reason in told


def test_what_torch_does_not_run_is_not_counted() -> None:
    def impossible(model: nn.Module) -> Tensor:
        raise RuntimeError("no such kernel")

    verdict, reason = verdict_of(lambda: relu_net(call=impossible))
    assert verdict == "not counted"
    assert "no such kernel" in reason


def test_only_the_engines_errors_are_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    net = prepared(relu_net)
    reference = run_plain(net, training=False)

    def broken(*args: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(lfp, "backward", broken)
    with pytest.raises(Fault, match="KeyError") as caught:
        compare(net, reference, 0.0, training=False)
    assert caught.value.verdict == "error"


def test_buffers_are_as_before() -> None:
    def build() -> Net:
        model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
        nets.append(Net(model, lambda m: m(torch.ones(4, 6) + torch.eye(4, 6))))
        return nets[0]

    nets: list[Net] = []
    record = examine("torch.nn", "net", build, training=True, epsilons=(0.1, 1e-6))
    assert record.verdict == "works"
    normalisation = nets[0].model[1]  # type: ignore[index]
    assert int(normalisation.num_batches_tracked) == 0


# --- records, document, command -------------------------------------------------------------------


def record(verdict: records.Verdict, name: str = "resnet18", group: str = "timm") -> Record:
    """Return a record of a model."""
    return Record(group, name, "training", verdict, reason="" if verdict == "works" else "because")


def test_a_refusal_has_to_be_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(faults([record("refused")])) == 1
    monkeypatch.setitem(records.REFUSED_ON_PURPOSE, "timm:resnet*", "for a test")
    assert not faults([record("refused")])
    assert len(faults([record("wrong")])) == 1


def test_what_works_is_not_refused_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(records.REFUSED_ON_PURPOSE, "timm:resnet18", "for a test")
    assert "is listed" in faults([record("works")])[0]
    assert not faults([record("refused"), record("works")])


def test_what_torch_has_to_run_is_counted() -> None:
    assert not faults([record("not counted")])
    assert faults([record("not counted", group="torch.nn")])


def test_a_name_has_its_worst_verdict() -> None:
    (summary,) = summaries(
        [record("works"), record("refused"), record("works", "vit"), record("not counted", "x")]
    )
    assert (summary.counted, summary.works) == (2, 1)
    assert str(summary) == "timm: 1 of 2 work (50.0%); 1 not counted; 1 refused"


def test_the_document_tells_what_does_not_work() -> None:
    text = document([record("works", "ReLU", "torch.nn"), record("wrong", "Odd", "torch.nn")])
    assert "Works: `ReLU`." in text
    assert "| Odd | wrong | training | because |" in text
    assert "| torch.nn | 1 | 2 | 50.0% | 97% | 0 | 1 | 0 |" in text


def invoke(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["coverage", *arguments])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder with two groups: a few modules, and a package that is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    listed = {
        "nn": suite.Group(lambda: ["Linear", "ReLU"], modules.examine_module),
        "timm": suite.Group(list, modules.examine_module, requires="no_such_package"),
    }
    monkeypatch.setattr(suite, "GROUPS", listed)


@pytest.mark.usefixtures("few")
def test_the_command_writes_the_document(tmp_path: Path) -> None:
    result = invoke("--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["faults"] == []
    assert {r["name"] for r in found["records"]} == {"Linear", "ReLU"}
    assert "timm is left out, as no_such_package is not installed" in result.stderr
    assert "torch.nn: 2 of 2 work (100.0%)" in result.stderr
    written = tmp_path / "docs" / "coverage.md"
    assert "Works: `Linear`, `ReLU`." in written.read_text()
    stored = json.loads((tmp_path / "results" / "coverage" / "nn.json").read_text())
    assert stored["records"] == found["records"]


@pytest.mark.usefixtures("few")
def test_a_selection_is_not_stored(tmp_path: Path) -> None:
    assert invoke("--name", "Lin*").exit_code == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few")
def test_a_fault_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slopes.WeightScale, "backward", staticmethod(lambda ctx, g: g))
    result = invoke("--name", "Linear")
    assert result.exit_code == 1
    assert "Theorem 1 is violated" in " ".join(result.stdout.split())


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--group", "keras"), "group: unknown name 'keras'"),
        (("--group", "timm"), "group: timm cannot be run without their packages"),
        (("--name", "nothing*"), "name: 'nothing*' matches nothing in nn"),
        (("--jobs", "0"), "'0'; allowed: whole numbers from 1"),
        (("--limit", "soon"), "'soon'; allowed: whole numbers from 1"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


def test_a_model_may_not_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(model: nn.Module) -> Tensor:
        while True:
            model(torch.ones(4, 6).double())

    group = suite.Group(
        lambda: ["net"],
        lambda name: [
            examine("timm", name, lambda: relu_net(call=endless), training=t, epsilons=(0.0,))
            for t in (True, False)
        ],
    )
    monkeypatch.setattr(suite, "GROUPS", {"timm": group})
    ((_, found),) = suite.run("timm", ["net"], limit=0.2)
    assert [r.verdict for r in found] == ["not counted"] * 2
    assert all("took longer than 0.2 s" in r.reason for r in found)


def test_jobs_give_the_same_records() -> None:
    names = ["Linear", "ReLU"]
    assert dict(suite.run("nn", names, jobs=2)) == dict(suite.run("nn", names))
