"""Parameters that LFP cannot move are named, and learn once they have been started.

Models that begin with zeros are trained on one batch that they have to learn by heart. Each has a
twin that is not started, in which what was named must not have moved by a bit.
"""

import json
import runpy
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import prune
from torchvision.models import ConvNeXt, VisionTransformer, resnet18
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import Bottleneck, ResNet
from typer.testing import CliRunner

import lfp_core as lfp
from baselines import LFPSettings, Settings
from benchmarks import cli
from benchmarks.analysis.diagnosis import before_and_after, dead_notes
from benchmarks.data import Dataset, Split, load
from benchmarks.runs.run import Result, Run
from benchmarks.runs.training import execute
from lfp_core.dead import DeadParameters
from lfp_core.propagation import Attention
from validation.selection import examples

CPU = torch.device("cpu")
EPSILON = 1e-6


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# --- models that begin with zeros -----------------------------------------------------------------


def zero(module: nn.Module) -> nn.Module:
    """Set all parameters of a module to 0."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Branch(nn.Module):
    """``x + factor * body(x)``, the factor being a parameter if there is one."""

    def __init__(self, body: nn.Module, factor: Tensor | None = None) -> None:
        super().__init__()
        self.body = body
        self.factor = None if factor is None else nn.Parameter(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (batch, features)."""
        change = self.body(x)
        return x + (change if self.factor is None else change * self.factor)


class LoRA(nn.Module):
    """A frozen layer, plus two small matrices of which the second is 0."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Transform (batch, features)."""
        return self.base(x) + F.linear(F.linear(x, self.a), self.b)


def vit() -> nn.Module:
    """Return torchvision's ViT, whose head is 0."""
    return VisionTransformer(
        **{"image_size": 8, "patch_size": 4, "num_layers": 1, "num_heads": 2},
        **{"hidden_dim": 16, "mlp_dim": 32, "num_classes": 10},
    )


def resnet(*blocks: int) -> Callable[[], nn.Module]:
    """Return a maker of a ResNet with so many blocks, all switched off by their last layer."""
    return lambda: ResNet(Bottleneck, list(blocks), zero_init_residual=True, num_classes=10)


def convnext() -> nn.Module:
    """Return a ConvNeXt with LayerScale at 0, of which the blocks alone are trained."""
    model = ConvNeXt([CNBlockConfig(16, None, 2)], layer_scale=0.0, num_classes=10)
    model.requires_grad_(False)
    model.features[1].requires_grad_(True)
    model.classifier[-1].weight.mul_(20)  # as it is, no features could make it certain
    return model


def lora() -> nn.Module:
    """Return a frozen MLP with LoRA on both of its layers."""
    return nn.Sequential(nn.Flatten(), LoRA(nn.Linear(192, 64)), nn.ReLU(), LoRA(nn.Linear(64, 10)))


def frozen_around(*layers: nn.Module) -> nn.Module:
    """Return what trains the layers alone, on 32 features, between two frozen ones."""
    first, last = nn.Linear(192, 32), nn.Linear(32, 10)
    for layer in (first, last):
        layer.requires_grad_(False)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), *layers, last)


def adapter() -> nn.Module:
    """Return a bottleneck beside a frozen network; what leads out of it is 0."""
    body = nn.Sequential(nn.Linear(32, 8), nn.GELU(), zero(nn.Linear(8, 32)))
    return frozen_around(Branch(body))


def output_projection() -> nn.Module:
    """Return two blocks of dense layers whose last weights are 0, their biases are not."""
    blocks = []
    for _ in range(2):
        last = nn.Linear(64, 32)
        nn.init.zeros_(last.weight)
        blocks.append(Branch(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.SiLU(), last)))
    return frozen_around(*blocks)


def rezero() -> nn.Module:
    """Return a block behind one number that is 0."""
    body = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
    return frozen_around(Branch(body, torch.tensor(0.0)))


@dataclass(frozen=True)
class Case:
    """A model, how many of its tensors are 0 and without feedback, and how long it is trained."""

    build: Callable[[], nn.Module]
    zero: int
    unreached: int
    side: int = 8
    size: int = 16
    steps: int = 60
    optimizer: str = "adam"


CASES = {
    "torchvision's ViT": Case(vit, 9, 11),
    "ResNet, zero_init_residual": Case(
        resnet(1, 1, 1, 1), 21, 20, side=32, size=8, steps=20, optimizer="sgd"
    ),
    "ResNet-50, zero_init_residual": Case(
        resnet(3, 4, 6, 3), 69, 80, side=32, size=8, steps=20, optimizer="sgd"
    ),
    "ConvNeXt, LayerScale 0": Case(convnext, 10, 8, steps=120),
    "LoRA": Case(lora, 2, 2),
    "adapter": Case(adapter, 2, 2, steps=120),
    "zero output projections": Case(output_projection, 4, 6),
    "ReZero": Case(rezero, 1, 4),
}


@cache
def digits(side: int, size: int) -> tuple[Tensor, Tensor]:
    """Return images (size, 3, side, side) and classes (size,)."""
    split = load("digits").train
    return F.interpolate(split.inputs[:size].expand(-1, 3, -1, -1), side), split.targets[:size]


def propagate(model: nn.Module, inputs: Tensor, targets: Tensor, epsilon: float = EPSILON) -> float:
    """Leave the feedback of a batch on the model; return its loss."""
    model.zero_grad()
    with lfp.feedback(epsilon):
        logits = model(inputs)
    lfp.backward(logits, lfp.rewards.softmax(logits, targets))
    return float(F.cross_entropy(logits.detach(), targets))


def learn(model: nn.Module, case: Case) -> float:
    """Train on one batch; return the loss at the end."""
    inputs, targets = digits(case.side, case.size)
    if case.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(case.steps):
        propagate(model, inputs, targets)
        nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
    return propagate(model, inputs, targets)


def started(model: nn.Module, seed: int = 0) -> nn.Module:
    """Start a model, and return it."""
    lfp.start_parameters(model, generator=torch.Generator().manual_seed(seed))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.thorough if name.startswith("ResNet") else ())
        for name in CASES
    ],
)
def test_what_begins_with_zeros_learns_once_it_is_started(name: str) -> None:
    case = CASES[name]
    model = case.build()
    before = deepcopy(dict(model.named_parameters()))
    propagate(model, *digits(case.side, case.size))
    dead = lfp.dead_parameters(model)
    assert (len(dead.zero), len(dead.unreached or ())) == (case.zero, case.unreached)
    twin = started(deepcopy(model))
    propagate(twin, *digits(case.side, case.size))
    assert lfp.dead_parameters(twin).names == ()

    without, with_start = learn(model, case), learn(twin, case)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert not moved & set(dead.names), "nothing that was named has moved"
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert moved == trainable - set(dead.names), "and all else has"
    assert with_start < without / 3


# --- what is named --------------------------------------------------------------------------------


class Tied(nn.Module):
    """Two layers that share their weight, which is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        nn.init.zeros_(self.first.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (batch, 4)."""
        return self.second(torch.tanh(self.first(x)))


class SelfAttention(nn.Module):
    """torch's attention (its biases are 0) over two tokens of four features."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 4) to (batch, 4)."""
        tokens = torch.stack([x, x.flip(1)], dim=1)
        found: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return found[:, 0]


class Lookup(nn.Module):
    """Attention with a layer each for queries, keys and values, over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 4) to (batch, 4)."""
        return F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))


def normalised() -> nn.Module:
    """Return a network with torch's normalisations, whose shifts are 0."""
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.LayerNorm(8))


def silent() -> nn.Module:
    """Return a network none of whose hidden units says anything."""
    first = nn.Linear(4, 8)
    nn.init.constant_(first.bias, -100.0)
    return nn.Sequential(first, nn.ReLU(), nn.Linear(8, 4))


def behind_frozen_zeros() -> nn.Module:
    """Return a layer before one that is 0 and frozen."""
    return nn.Sequential(
        nn.Linear(4, 4), zero(nn.Linear(4, 4)).requires_grad_(False), nn.Tanh(), nn.Linear(4, 4)
    )


def unused() -> nn.Module:
    """Return a network with a layer that it does not use."""
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_parameter("spare", nn.Parameter(torch.ones(2)))
    return model


def pruned_away() -> nn.Module:
    """Return a network with a layer whose mask is 0, its weights are not."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    prune.custom_from_mask(model[2], "weight", torch.zeros(4, 4))
    return model


def faint() -> nn.Module:
    """Return three layers with activations far below epsilon."""
    layers = [nn.Linear(4, 4, bias=False) for _ in range(3)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1e-8)
    return nn.Sequential(*layers, nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("build", "zeros", "unreached"),
    [
        (normalised, ["1.bias", "3.bias"], []),
        (SelfAttention, ["attention.in_proj_bias", "attention.out_proj.bias"], []),
        (Tied, ["first.weight"], ["first.bias"]),
        (silent, [], ["0.weight", "0.bias", "2.weight"]),
        (behind_frozen_zeros, [], ["0.weight", "0.bias", "3.weight"]),
        (unused, [], ["spare"]),
        (pruned_away, [], ["0.weight", "0.bias", "2.weight_orig"]),
        (faint, [], ["0.weight", "1.weight"]),
        (lambda: faint().double(), [], []),
        (lambda: nn.Sequential(nn.Linear(4, 4)), [], []),
    ],
)
def test_what_cannot_learn_is_named(
    build: Callable[[], nn.Module], zeros: list[str], unreached: list[str]
) -> None:
    model = build()
    dtype = next(model.parameters()).dtype
    propagate(model, torch.randn(6, 4, dtype=dtype), torch.arange(6) % 4, epsilon=0.1)
    found = lfp.dead_parameters(model)
    assert list(found.zero) == zeros
    assert list(found.unreached or ()) == unreached
    # The twin: whatever is not named gets some.
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached != (name in found.names or not parameter.requires_grad)


@pytest.mark.parametrize(("treatment", "unreached"), [("uniform", 0), ("constant", 2)])
def test_queries_and_keys_without_feedback_are_named(treatment: Attention, unreached: int) -> None:
    model = Lookup()
    with lfp.feedback(0.1, attention=treatment):
        out = model(torch.randn(6, 4))
    lfp.backward(out, torch.ones_like(out))
    names = ("query.weight", "key.weight")[:unreached]
    assert lfp.dead_parameters(model).unreached == names


def test_without_a_backward_pass_nobody_knows_what_is_reached() -> None:
    model = nn.Sequential(nn.Linear(4, 4), zero(nn.Linear(4, 4)))
    found = lfp.dead_parameters(model)
    assert found == DeadParameters(4, ("1.weight", "1.bias"), None, {})
    assert found.names == ("1.weight", "1.bias")
    assert str(lfp.dead_parameters(nn.Linear(2, 2))) == "none of 2 trainable tensors is zero"


def test_zeros_in_part_are_counted_and_left_to_learn() -> None:
    model = nn.Embedding(5, 3, padding_idx=0)
    assert lfp.dead_parameters(model).partly_zero == {"weight": 3}
    before = model.weight.detach().clone()
    assert lfp.start_parameters(model) == []
    assert torch.equal(model.weight, before)
    assert lfp.start_parameters(model, elements=True) == ["weight"]
    assert lfp.dead_parameters(model).partly_zero == {}
    assert torch.equal(model.weight[1:], before[1:])


def test_sparse_feedback_is_counted() -> None:
    model = nn.Embedding(5, 3, sparse=True)
    model(torch.tensor([1, 2])).sum().backward()
    assert lfp.dead_parameters(model).unreached == ()
    model.zero_grad()
    (0 * model(torch.tensor([1, 2]))).sum().backward()
    assert lfp.dead_parameters(model).unreached == ("weight",)


def test_it_is_told_in_one_sentence() -> None:
    dead = DeadParameters(9, ("a",), ("b", "c", "d", "e", "f"), {})
    assert str(dead) == (
        "1 of 9 trainable tensors is zero, which LFP never changes (a); "
        "5 of 9 trainable tensors get no feedback (b, c, d, e and 1 more)"
    )
    assert str(DeadParameters(9, ("a", "b", "c", "d"), ("e",), {})) == (
        "4 of 9 trainable tensors are zero, which LFP never changes (a, b, c, d); "
        "1 of 9 trainable tensors gets no feedback (e)"
    )


# --- how parameters are started -------------------------------------------------------------------

SHAPES = st.lists(st.integers(1, 5), max_size=4).map(tuple)


class Holder(nn.Module):
    """A parameter of any shape and dtype, which is 0."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.zeros(shape, dtype=dtype))


@examples(100)
@given(
    SHAPES,
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.floats(1e-3, 10),
)
def test_every_element_lies_between_half_of_the_bound_and_the_bound(
    shape: tuple[int, ...], dtype: torch.dtype, scale: float
) -> None:
    model = Holder(shape, dtype)
    assert lfp.start_parameters(model, scale) == ["p"]
    fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 1
    relative = model.p.detach().double().abs() * fan_in**0.5 / scale
    assert model.p.dtype == dtype
    assert float(relative.min()) > 0.49  # as half a precision rounds
    assert float(relative.max()) < 1.01


def test_the_bound_is_that_of_torchs_own_layers() -> None:
    for layer in (nn.Linear(30, 500), nn.Conv2d(4, 50, 5), nn.ConvTranspose2d(4, 50, 5)):
        torch_own = float(layer.weight.detach().abs().max())
        lfp.start_parameters(zero(layer), scale=1.0)
        assert float(layer.weight.detach().abs().max()) == pytest.approx(torch_own, rel=0.01)
        assert abs(float(layer.weight.detach().sign().mean())) < 0.1, "both signs are as frequent"


def test_what_is_not_zero_or_not_trained_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), zero(nn.Linear(4, 4)))
    model[2].bias.requires_grad_(False)
    before = deepcopy(model.state_dict())
    names = lfp.start_parameters(model)
    assert names == ["1.bias", "2.weight"]
    for name, now in model.state_dict().items():
        assert torch.equal(now, before[name]) == (name not in names)
    assert lfp.start_parameters(model) == [], "once is enough"
    assert lfp.start_parameters(model[:1], elements=True) == [], "no element is 0"
    for parameter in model.parameters():
        assert parameter.is_leaf
        assert parameter.grad is None


def test_a_tied_parameter_is_started_once() -> None:
    model = Tied()
    assert lfp.start_parameters(model) == ["first.weight"]
    assert model.second.weight is model.first.weight


def test_a_part_of_a_model_is_started_alone() -> None:
    model = nn.Sequential(zero(nn.Linear(2, 2)), zero(nn.Linear(2, 2)))
    assert lfp.start_parameters(model[1]) == ["weight", "bias"]
    assert lfp.dead_parameters(model).zero == ("0.weight", "0.bias")


def test_a_start_can_be_repeated_whatever_the_dtype() -> None:
    def drawn(dtype: torch.dtype, seed: int | None) -> Tensor:
        model = Holder((3, 4), dtype)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        lfp.start_parameters(model, generator=generator)
        return model.p.detach()

    assert torch.equal(drawn(torch.float32, 1), drawn(torch.float64, 1).float())
    assert not torch.equal(drawn(torch.float32, 1), drawn(torch.float32, 2))
    torch.manual_seed(5)
    first = drawn(torch.float32, None)
    torch.manual_seed(5)
    assert torch.equal(first, drawn(torch.float32, None))


def test_an_empty_parameter_is_neither_zero_nor_started() -> None:
    model = Holder((0, 3))
    assert lfp.dead_parameters(model) == DeadParameters(0, (), None, {})
    assert lfp.start_parameters(model) == []


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_a_wrong_scale_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be"):
        lfp.start_parameters(Holder((2,)), scale)


def test_a_parameter_without_a_shape_is_refused_by_name() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    for look in (lfp.dead_parameters, lfp.start_parameters):
        with pytest.raises(ValueError, match=r"0\.weight has no shape yet"):
            look(model)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_a_sharded_model_is_looked_at_and_not_started() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), zero(nn.Linear(4, 4)))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    propagate(model, torch.randn(6, 4), torch.arange(6) % 4)
    found = lfp.dead_parameters(model)
    assert (found.zero, found.unreached) == (("2.weight", "2.bias"), ("0.weight", "0.bias"))
    with pytest.raises(ValueError, match=r"2\.weight is sharded"):
        lfp.start_parameters(model)


# --- who tells ------------------------------------------------------------------------------------


def zero_init_resnet() -> nn.Module:
    """Return a ResNet of which a part can learn."""
    return resnet18(zero_init_residual=True)


@pytest.mark.parametrize(
    ("name", "shape", "verdict", "zeros", "unreached"),
    [
        ("vit", "3,8,8", "differs", 9, 11),
        ("zero_init_resnet", "3,32,32", "warning", 28, 24),
        ("silent", "4", "warning", 0, 3),
    ],
)
def test_verify_says_so(name: str, shape: str, verdict: str, zeros: int, unreached: int) -> None:
    model = f"validation.engine.test_dead_parameters:{name}"
    result = CliRunner().invoke(cli.app, ["verify", "--model", model, "--input", shape, "--json"])
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    found = checks["every parameter can learn"]
    assert "feedback reaches" not in result.stdout
    assert found["verdict"] == verdict
    assert (len(found["dead"]["zero"]), len(found["dead"]["unreached"])) == (zeros, unreached)
    assert ("start_parameters" in found["detail"]) == (zeros > 0)
    assert result.exit_code == (verdict == "differs")


@pytest.fixture(scope="module")
def few() -> Dataset:
    """Return 40 digits for training, and no more for all else than it takes."""
    data = load("digits")

    def first(split: Split, size: int) -> Split:
        return Split(split.inputs[:size], split.targets[:size])

    return Dataset(
        "digits",
        train=first(data.train, 40),
        validation=first(data.validation, 10),
        test=first(data.test, 10),
        classes=data.classes,
    )


NORMALISATIONS = {f"{i}.{part}.0.bias" for i in (2, 3) for part in ("attention", "dense")}


def test_diagnose_says_so(few: Dataset) -> None:
    course = before_and_after(few, "vit-tiny", "relu", LFPSettings(0.1), epochs=1)
    assert [len(layers) for layers in course.layers.values()] == [2, 2], "one in each block"
    for dead in course.dead.values():
        assert set(dead.zero) == NORMALISATIONS | {"4.bias"}
        assert dead.unreached == ()
    (first, _, last) = dead_notes({"relu": course.dead})
    assert first.startswith("relu, before training: 5 of 31 trainable tensors are zero")
    assert "start_parameters" in last
    course = before_and_after(few, "mlp", "relu", LFPSettings(0.1), epochs=0)
    assert list(dead_notes({"relu": course.dead})) == [
        "No parameter is zero, and feedback reaches all of them."
    ]


def made(few: Dataset, method: str, kind: str = "final") -> Result:
    run = Run(kind, "digits", "vit-tiny", method, "relu", 0, 1, 16, Settings(0.1))  # type: ignore[arg-type]
    return execute(run, few, CPU)


def test_a_run_records_it(few: Dataset) -> None:
    result = made(few, "lfp")
    assert result.dead_at_start is not None
    assert set(result.dead_at_start.zero) == NORMALISATIONS | {"4.bias"}
    assert result.dead_at_end == result.dead_at_start
    assert result.dead_at_end is not None
    assert result.dead_at_end.trainable == 31


def test_a_gradient_moves_zeros_and_a_sweep_does_not_look(few: Dataset) -> None:
    result = made(few, "sgd")
    assert result.dead_at_start is not None
    assert result.dead_at_end is not None
    assert len(result.dead_at_start.zero) == 5
    assert result.dead_at_end.names == ()
    sweep = made(few, "lfp", "sweep")
    assert sweep.dead_at_start is sweep.dead_at_end is None


def test_looking_changes_nothing_of_the_run(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    history = [e.train_loss for e in made(few, "lfp").history]
    monkeypatch.setattr("benchmarks.runs.training.dead_at_start", lambda *arguments: None)
    assert [e.train_loss for e in made(few, "lfp").history] == history


@pytest.mark.slow
def test_the_example_finds_what_its_table_says() -> None:
    path = Path(__file__).parents[2] / "examples" / "dead_parameters.py"
    example = runpy.run_path(str(path))
    task = example["TASKS"]["LoRA, second matrices"]
    as_it_is, after_a_start = (example["run"](task, scale, seed=0) for scale in (None, 0.1))
    assert (len(as_it_is.dead.zero), as_it_is.change) == (3, 0)
    assert 0.01 < after_a_start.change < 0.1
    assert after_a_start.loss < as_it_is.loss / 10
