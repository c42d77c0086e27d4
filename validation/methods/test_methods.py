"""The contract of :class:`baselines.Trainer`, for every method; and LFP against its control."""

import copy
import dataclasses
import io
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, get_args

import pytest
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import lfp_core as lfp
from baselines import (
    METHODS,
    OPTIMIZERS,
    REWARDS,
    Activation,
    BasicSettings,
    LFPSettings,
    Settings,
)
from baselines.options import Choice, LogUniform, allowed, fields_of, options
from baselines.stored_options import are_known, stored_settings
from baselines.trainer import DescentTrainer
from validation.selection import crossed

#: Those that can train any network; the others have tests of their own.
GENERAL = [name for name, method in METHODS.items() if method.network is None]
DESCENT = [name for name in GENERAL if issubclass(METHODS[name], DescentTrainer)]
pytestmark = pytest.mark.usefixtures("small_swarms")

#: With every optimiser that they take.
OPTIMIZED = [*((name, "sgd") for name in GENERAL), *((name, "adam") for name in DESCENT)]
DEFAULT = LFPSettings(learning_rate=0.1)


def network(dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(4, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 16), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(16, 3)).to(dtype)


def problem(dtype: torch.dtype = torch.float32, size: int = 96) -> tuple[Tensor, Tensor]:
    """Return three well separated clouds of points."""
    random = torch.Generator().manual_seed(1)
    targets = torch.arange(size) % 3
    centres = torch.tensor([[2.0, 0, 0, 1], [0, 2, 0, -1], [0, 0, 2, 1]])
    return (centres[targets] + 0.3 * torch.randn(size, 4, generator=random)).to(dtype), targets


def settings_of(name: str, **changes: Any) -> BasicSettings:
    """Return the defaults of a method at the rate 0.1, and those of the changes that it has."""
    fields = fields_of(METHODS[name].Options)
    own = {option: value for option, value in changes.items() if option in fields}
    return METHODS[name].Options(**{"learning_rate": 0.1, **own})


def trainer(name: str, model: nn.Module, **changes: Any) -> Any:
    return METHODS[name](model, settings_of(name, **changes))


def trajectory(name: str, model: nn.Module, steps: int, **changes: Any) -> Tensor:
    """Return all parameters after each step (steps, parameters)."""
    method, (x, targets) = trainer(name, model, **changes), problem(next(model.parameters()).dtype)
    torch.manual_seed(2)  # dropout, and methods that search at random
    points = []
    for _ in range(steps):
        method.step(x, targets)
        points.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    return torch.stack(points)


def test_methods_are_listed_under_their_own_names() -> None:
    assert {"lfp", "sgd", "wsgd"} <= METHODS.keys()
    assert all(method.name == name for name, method in METHODS.items())


# --- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "optimizer"), OPTIMIZED)
def test_loss_falls_on_a_separable_problem(name: str, optimizer: str) -> None:
    model, (x, targets) = network(), problem()
    rate = {"learning_rate": 0.01} if optimizer == "adam" else {}
    method = trainer(name, model, optimizer=optimizer, **rate)
    torch.manual_seed(2)
    # The speed limit of the stable recipe is for weights of larger networks.
    steps = 200 if name.endswith("-stable") else 60
    losses = [float(method.step(x, targets).loss) for _ in range(steps)]
    assert losses[-1] < 0.5 * losses[0]
    assert (model(x).argmax(dim=1) == targets).float().mean() > 0.9


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("training", [True, False])
def test_training_mode_is_kept(name: str, training: bool) -> None:
    model = network(dropout=0.5).train(training)
    model[2].train(not training)  # each module's own
    trainer(name, model).step(*problem())
    assert model[2].training is not training
    assert all(m.training is training for m in model.modules() if m is not model[2])


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept_and_parameters_stay_the_same_objects(name: str, dtype: torch.dtype) -> None:
    model = network(dtype)
    before = {id(p) for p in model.parameters()}
    step = trainer(name, model).step(*problem(dtype))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert {id(p) for p in model.parameters()} == before
    assert step.loss.dtype == dtype


@pytest.mark.parametrize("name", GENERAL)
def test_batch_is_left_alone(name: str) -> None:
    x, targets = problem()
    before = x.clone(), targets.clone()
    trainer(name, network()).step(x, targets)
    assert torch.equal(x, before[0])
    assert torch.equal(targets, before[1])


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("frozen", [(0,), (3,), (5,), (0, 5)])
def test_frozen_parameters_stay_and_the_others_move(name: str, frozen: tuple[int, ...]) -> None:
    model = network()
    for index in frozen:
        model[index].requires_grad_(False)
    before = {key: p.clone() for key, p in model.named_parameters()}
    method = trainer(name, model)
    torch.manual_seed(2)
    for _ in range(5):
        method.step(*problem())
    for key, parameter in model.named_parameters():
        assert torch.equal(parameter, before[key]) == (int(key.split(".")[0]) in frozen), key


@pytest.mark.parametrize("name", GENERAL)
def test_same_start_gives_the_same_trajectory_bit_for_bit(name: str) -> None:
    first, second = (trajectory(name, network(dropout=0.3), 10) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[-1])


def saved(model: nn.Module, method: Any) -> tuple[Any, Any]:
    """Return the states of model and trainer as they come out of a file."""
    file = io.BytesIO()
    torch.save((model.state_dict(), method.state_dict()), file)
    file.seek(0)
    states: tuple[Any, Any] = torch.load(file, weights_only=True)
    return states


@pytest.mark.parametrize(
    ("method", "schedule"), crossed(OPTIMIZED, ["constant", "one-cycle", "one-cycle-momentum"])
)
def test_saved_state_goes_on_bit_for_bit(method: tuple[str, str], schedule: str) -> None:
    name, optimizer = method
    changes = {"optimizer": optimizer, "schedule": schedule, "total_steps": 8}
    expected = trajectory(name, network(), 8, **changes)
    model = network()
    first = trainer(name, model, **changes)
    torch.manual_seed(2)
    for _ in range(4):
        first.step(*problem())
    states = saved(model, first)
    first.step(*problem())  # after saving, which must not be seen by the other
    resumed, forgetful = network(), network()
    ways = []
    for other, state in ((resumed, states[1]), (forgetful, None)):
        again = trainer(name, other, **changes)
        other.load_state_dict(states[0])
        if state is not None:
            again.load_state_dict(state)
        torch.manual_seed(3)
        points = []
        for _ in range(4):
            again.step(*problem())
            points.append(nn.utils.parameters_to_vector(other.parameters()).detach().clone())
        ways.append(torch.stack(points))
    assert torch.equal(ways[0], expected[4:])
    assert not torch.equal(ways[1], expected[4:]), "the state makes no difference"


@pytest.mark.parametrize("name", GENERAL)
def test_two_trainers_do_not_disturb_each_other(name: str) -> None:
    alone = trajectory(name, network(), 5)
    other = trainer(name, network())
    other.step(*problem())
    assert torch.equal(trajectory(name, network(), 5), alone)


@pytest.mark.parametrize("name", GENERAL)
def test_step_tells_detached_scalars(name: str) -> None:
    step = trainer(name, network()).step(*problem())
    for value in step:
        assert isinstance(value, Tensor)
        assert value.shape == ()
        assert not value.requires_grad
        assert value.isfinite()


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_samples_moves_nothing_and_has_no_loss(name: str) -> None:
    """As the mean cross-entropy has it, whatever the method."""
    made = METHODS[name].network
    model = network() if made is None else made((1, 9, 9), 3, 0, settings=settings_of(name))
    shape = (4,) if made is None else (1, 9, 9)
    method, before = trainer(name, model), [p.clone() for p in model.parameters()]
    step = method.step(torch.zeros(0, *shape), torch.zeros(0, dtype=torch.long))
    assert step.loss.isnan()
    assert step.feedback_norm == 0
    assert all(map(torch.equal, before, model.parameters()))
    assert method.step(torch.rand(6, *shape), torch.arange(6) % 3).loss.isfinite()


@pytest.mark.parametrize("name", DESCENT)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_optimiser_takes_the_clipped_gradients(
    name: str, momentum: float, optimizer: str
) -> None:
    """The trajectory is that of the formula, from what the method fills ``p.grad`` with."""
    changes = {"momentum": momentum, "learning_rate": 0.01, "clip_norm": 0.1}
    model, (x, targets) = network(torch.float64), problem(torch.float64)
    method = trainer(name, model, **changes)
    expected, first, second = [], torch.zeros(()), torch.zeros(())
    for step in range(1, 6):
        model.zero_grad()
        method.fill_gradients(x, targets)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        gradient = torch.cat([p.grad.flatten() for p in method.parameters])
        if optimizer == "sgd":
            first = change = momentum * first + gradient
        else:  # Kingma and Ba 2015, algorithm 1
            first = momentum * first + (1 - momentum) * gradient
            second = 0.999 * second + 0.001 * gradient**2
            root = (second / (1 - 0.999**step)).sqrt()
            change = first / (1 - momentum**step) / (root + 1e-8)
        point = nn.utils.parameters_to_vector(model.parameters()).detach() - 0.01 * change
        nn.utils.vector_to_parameters(point, model.parameters())
        expected.append(point)
    found = {
        name_of: trajectory(name, network(torch.float64), 5, optimizer=name_of, **changes)
        for name_of in OPTIMIZERS
    }
    same = [n for n, w in found.items() if torch.allclose(w, torch.stack(expected), rtol=1e-10)]
    assert same == [optimizer]


@pytest.mark.parametrize("name", [name for name in GENERAL if name not in DESCENT])
def test_methods_with_a_rule_of_their_own_ignore_the_optimiser(name: str) -> None:
    with_sgd, with_adam = (trajectory(name, network(), 3, optimizer=o) for o in OPTIMIZERS)
    assert torch.equal(with_sgd, with_adam)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", DESCENT)
def test_loss_is_the_mean_cross_entropy_before_the_update(name: str, reduction: str) -> None:
    model, (x, targets) = network(torch.float64), problem(torch.float64)
    expected = F.cross_entropy(model(x), targets)
    step = trainer(name, model, reduction=reduction).step(x, targets)
    assert torch.equal(step.loss, expected.detach())


@pytest.mark.parametrize("name", DESCENT)
def test_update_is_clipped_and_the_norm_told_is_not(name: str) -> None:
    """Without momentum the first step is the clipped gradient times the learning rate."""
    free, clipped = network(torch.float64), network(torch.float64)
    start = nn.utils.parameters_to_vector(free.parameters()).detach().clone()
    plain = {"momentum": 0.0, "learning_rate": 0.1}
    told = trainer(name, free, clip_norm=None, **plain).step(*problem(torch.float64))
    limit = float(told.feedback_norm) / 7
    told_clipped = trainer(name, clipped, clip_norm=limit, **plain).step(*problem(torch.float64))
    moves = [
        (nn.utils.parameters_to_vector(m.parameters()).detach() - start).norm() / 0.1
        for m in (free, clipped)
    ]
    assert told_clipped.feedback_norm == told.feedback_norm
    assert torch.allclose(moves[0], told.feedback_norm, rtol=1e-10)
    assert limit * (1 - 1e-4) < moves[1] <= limit  # torch adds 1e-6 to the norm it divides by


@pytest.mark.parametrize("name", DESCENT)
def test_generous_clip_changes_nothing(name: str) -> None:
    free, clipped = (trajectory(name, network(), 5, clip_norm=c) for c in (None, 1e9))
    assert torch.equal(free, clipped)


@pytest.mark.parametrize("name", DESCENT)
def test_sum_is_mean_at_a_learning_rate_smaller_by_the_batch_size(name: str) -> None:
    """Or at the same rate, where a method says that it normalises."""
    normalised = getattr(METHODS[name], "normalised", False)
    changes = {"clip_norm": None, "momentum": 0.9}
    mean = trajectory(
        name, network(torch.float64), 5, reduction="mean", learning_rate=0.1, **changes
    )
    rate = 0.1 if normalised else 0.1 / 96
    total = trajectory(
        name, network(torch.float64), 5, reduction="sum", learning_rate=rate, **changes
    )
    assert torch.allclose(total, mean, rtol=1e-10)


def test_a_method_that_normalises_by_its_word_alone_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(METHODS["sgd"], "normalised", True)
    with pytest.raises(AssertionError):
        test_sum_is_mean_at_a_learning_rate_smaller_by_the_batch_size("sgd")


@pytest.mark.parametrize("name", DESCENT)
def test_gradients_of_earlier_steps_are_forgotten(name: str) -> None:
    model = network()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert torch.equal(trajectory(name, model, 3), trajectory(name, network(), 3))


# --- activations ----------------------------------------------------------------------------------

SMOOTH, STEP = Activation(nn.Tanh), Activation(lfp.Heaviside, differentiable=False)
RELU = Activation(nn.ReLU)
NEURONS = Activation(nn.ReLU, spiking=True)  # of another package; methods know nothing else of it


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_why_it_does_not_go_with_an_activation(name: str) -> None:
    refused = [METHODS[name].supports(kind) for kind in (RELU, SMOOTH, STEP, NEURONS)]
    assert None in refused, "it goes with some"
    assert all(reason is None or reason.strip() for reason in refused)


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("lfp", []),
        ("surrogate", [SMOOTH]),
        ("rstdp", [SMOOTH, STEP]),
        ("pso-torch-stable", [NEURONS]),
        *((name, [NEURONS]) for name in ("sgd", "wsgd", "fa", "eg", "madam")),
    ],
)
def test_it_is_the_properties_of_an_activation_that_count(
    name: str, refused: list[Activation]
) -> None:
    method = METHODS[name]
    assert [kind for kind in (SMOOTH, STEP, NEURONS) if method.supports(kind)] == refused


def test_no_gradient_passes_a_spike() -> None:
    assert not Activation(nn.ReLU, spiking=True, differentiable=True).differentiable
    assert METHODS["sgd"].remark(STEP) == "last layer alone"
    assert METHODS["sgd"].remark(SMOOTH) == METHODS["surrogate"].remark(STEP) == ""


# --- settings -------------------------------------------------------------------------------------

BAD_SETTINGS: list[tuple[str, Any]] = [
    *(("learning_rate", bad) for bad in (0, -0.1, math.nan, math.inf)),
    *(("momentum", bad) for bad in (-0.1, 1, 1.5, math.nan)),
    *(("clip_norm", bad) for bad in (0, -1.0, math.nan)),
    *(("reduction", bad) for bad in ("none", "Mean", "", None)),
    *(("epsilon", bad) for bad in (-1e-9, math.nan, math.inf)),
    *(("schedule", bad) for bad in ("cosine", "one_cycle", None)),
    *(("total_steps", bad) for bad in (0, -1)),
    *(("adaptive_clip", bad) for bad in (0, -0.1, math.nan, math.inf)),
    *(("normaliser", bad) for bad in ("new", None)),
]


@pytest.mark.parametrize(("field", "bad"), BAD_SETTINGS)
def test_bad_setting_raises_value_error_with_its_name_and_value(field: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must .*not ") as raised:
        dataclasses.replace(DEFAULT, **{field: bad})
    assert str(raised.value).endswith(f"not {bad!r}")


@pytest.mark.parametrize(
    ("field", "good"),
    [("momentum", 0), ("clip_norm", None), ("clip_norm", math.inf), ("epsilon", 0)],
)
def test_setting_at_its_bound_is_accepted(field: str, good: Any) -> None:
    assert getattr(dataclasses.replace(DEFAULT, **{field: good}), field) == good


def test_an_unknown_reward_is_refused() -> None:
    with pytest.raises(ValueError, match="reward: unknown name 'sofmax'; did you mean 'softmax'"):
        dataclasses.replace(DEFAULT, reward="sofmax")


def test_an_unknown_optimiser_is_refused() -> None:
    message = "optimizer: unknown name 'adamm'; did you mean 'adam'? Allowed: sgd, adam"
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(DEFAULT, optimizer="adamm")


def test_an_option_that_a_method_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="options: unknown name 'epsilom'; did you mean 'epsilon'"):
        LFPSettings(0.1, epsilom=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="options: unknown name 'reward'"):
        Settings(0.1, reward="softmax")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="learning_rate must be given"):
        Settings()  # type: ignore[call-arg]


@options
class Bounded(Settings):
    """Fields with bounds that no method of ours has."""

    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    most: Annotated[int, Field(le=9)] = 9
    flag: bool = False


@pytest.mark.parametrize(
    ("option", "words"),
    [("share", "lie in (0, 1]"), ("most", "be <= 9"), ("flag", "be of the type bool")],
)
def test_a_field_says_what_it_allows(option: str, words: str) -> None:
    assert allowed(fields_of(Bounded)[option]) == words
    with pytest.raises(ValueError, match=re.escape(f"{option} must {words}, not 10")):
        Bounded(0.1, **{option: 10})  # type: ignore[arg-type]


def test_settings_of_one_method_are_made_those_of_another() -> None:
    lfps = LFPSettings(0.2, momentum=0.5, epsilon=0.3)
    assert Settings.of(lfps) == Settings(0.2, momentum=0.5)
    assert LFPSettings.of(Settings(0.2, momentum=0.5)) == LFPSettings(0.2, momentum=0.5)


@pytest.mark.parametrize("name", METHODS)
def test_the_options_of_a_method_have_defaults_and_a_search_space_in_their_ranges(
    name: str,
) -> None:
    kind = METHODS[name].Options
    plain = kind(learning_rate=0.1)
    assert kind(**dataclasses.asdict(plain)) == plain
    assert "learning_rate" in kind.search
    for option, space in kind.search.items():
        for end in space.ends:
            assert getattr(dataclasses.replace(plain, **{option: end}), option) == end


#: A value for each option that a method has beyond the common ones; where it needs others, these.
OWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "feedback_scale": (0.5, {}),
    "beta2": (0.5, {}),
    "max_step": (0.5, {}),
    "max_weight": (1.0, {}),
    "particles": (50, {}),
    "inertia": (0.5, {}),
    "cognitive": (1.0, {}),
    "social": (1.0, {}),
    "start": (0.05, {}),
    "start_speed": (0.1, {}),
    "bound": (0.05, {}),
    "speed_limit": (0.01, {}),
    "variant": ("paper", {"patience": 1, "decay": 0.5}),
    "decay": (0.5, {"variant": "paper", "patience": 1}),
    "patience": (1, {"variant": "paper", "decay": 0.5}),
}


@pytest.mark.parametrize(
    "name", ["fa", "sign-symmetry", "dfa", "madam", "pso-torch-paper", "pso-stable"]
)
def test_every_option_of_a_methods_own_does_something(name: str) -> None:
    """Which the engine's options are tested for where there is something that they change."""
    own = fields_of(METHODS[name].Options).keys() - fields_of(Settings).keys()
    assert own
    for option in own:
        value, others = OWN[option]
        before = trajectory(name, network(), 20, **others)
        changed = trajectory(name, network(), 20, **others, **{option: value})
        assert not torch.equal(changed, before), option


@pytest.mark.parametrize("name", METHODS)
def test_no_method_has_a_common_option_that_it_ignores(name: str) -> None:
    own = fields_of(METHODS[name].Options)
    assert {"learning_rate", "total_steps"} <= own.keys()
    assert ("optimizer" in own) == issubclass(METHODS[name], DescentTrainer)
    made = METHODS[name].network or (lambda *_: network())
    for option, value in {"momentum": 0.1, "clip_norm": 1e-3, "adaptive_clip": 1e-3}.items():
        if option in own:
            before, changed = (
                trajectory(name, made((4,), 3, 0), 3, **changes)
                for changes in (dict[str, float](), {option: value})
            )
            assert not torch.equal(changed, before)


def test_options_that_a_method_once_ignored_are_left_out_of_what_is_stored() -> None:
    stored = {**dataclasses.asdict(Settings(0.5, momentum=0.25)), "beta2": 0.75}
    kind = METHODS["madam"].Options
    assert stored_settings(kind, stored) == kind(0.5, beta2=0.75)  # type: ignore[call-arg]
    assert stored_settings(kind, {**stored, "forgotten": 1}) is None
    assert stored_settings(Settings, stored) is None
    assert are_known({"madam": stored})
    assert not are_known({"sgd": stored})


@pytest.mark.parametrize("bounds", [(0, 1), (1, 1), (2, 1), (1, math.inf), (math.nan, 1)])
def test_a_range_of_logarithms_has_bounds_in_order_above_0(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="low and high must be 0 < low < high"):
        LogUniform(*bounds)
    assert LogUniform(1e-4, 1).ends == (1e-4, 1)
    assert Choice(("a", "b", "c")).ends == ("a", "b", "c")


@pytest.mark.parametrize(
    "change",
    [{"units": "reverse"}, {"units": "shifted"}],
    ids=["reverse", "shifted"],
)
def test_the_treatment_of_units_reaches_the_engine(change: dict[str, Any]) -> None:
    """Which the sigmoid, with f(0) = 1/2, can tell apart."""
    ways = []
    for changes in ({}, change):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3)).double()
        ways.append(trajectory("lfp", model, 2, **changes))
    assert not torch.allclose(ways[0], ways[1])


@pytest.mark.parametrize("option", ["units", "gates", "attention", "normalisation"])
def test_the_context_of_lfp_has_the_treatments_that_are_chosen(option: str) -> None:
    for value in get_args(fields_of(LFPSettings)[option].annotation):
        assert getattr(LFPSettings(0.1, **{option: value}).feedback(), option) == value
    assert getattr(LFPSettings(0.1).feedback(), option) == getattr(lfp.feedback(), option)


@pytest.mark.parametrize("reward", REWARDS)
def test_lfp_descends_the_feedback_of_its_reward(reward: str) -> None:
    """And no other reward gives the same, or the option would do nothing."""
    x, targets = problem(torch.float64)
    x = 20 * x  # so that some logits are beyond the bounds of "bounded-softmax"
    expected = {}
    for name, reward_of in REWARDS.items():
        model = network(torch.float64)
        with lfp.feedback(DEFAULT.epsilon):
            logits = model(x)
        lfp.backward(logits, reward_of(logits, targets, "mean"))
        expected[name] = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]
    model = network(torch.float64)
    trainer("lfp", model, reward=reward).fill_gradients(x, targets)
    found = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]
    assert [name for name, one in expected.items() if torch.equal(one, found)] == [reward]


# --- LFP-0 on ReLU is weight-scaled gradient descent, step after step -----------------------------


def dense(activation: Callable[[], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(4, 16), activation(), nn.Dropout(0.3), nn.Linear(16, 16), activation()
    return nn.Sequential(*layers, nn.Linear(16, 3)).double()


def convolutional(activation: Callable[[], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.ReplicationPad2d(3),
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 2),
        activation(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32, 3),
    ).double()


def distance(
    build: Callable[..., nn.Sequential],
    activation: Callable[[], nn.Module] = nn.ReLU,
    epsilon: float = 0.0,
    rival: str = "wsgd",
) -> float:
    """Return how far apart the ways of LFP and a rival are after 20 steps, against their length."""
    model = build(activation)
    with torch.no_grad():  # zero biases would stay zero in both
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    lfp_way, other_way = (
        trajectory(name, copy.deepcopy(model), 20, epsilon=epsilon, learning_rate=0.05)
        for name in ("lfp", rival)
    )
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    return float((lfp_way - other_way).norm() / (other_way - start).norm())


@pytest.mark.parametrize("build", [dense, convolutional])
def test_lfp_0_follows_weight_scaled_descent_on_relu(build: Callable[..., nn.Sequential]) -> None:
    assert distance(build) < 1e-10


@pytest.mark.parametrize("build", [dense, convolutional])
@pytest.mark.parametrize(
    "change",
    [{"epsilon": 0.1}, {"activation": nn.SiLU}, {"activation": nn.Tanh}, {"rival": "sgd"}],
    ids=["epsilon", "SiLU", "tanh", "SGD"],
)
def test_lfp_parts_from_it_elsewhere(
    build: Callable[..., nn.Sequential], change: dict[str, Any]
) -> None:
    assert distance(build, **change) > 1e-3
