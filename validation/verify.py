"""The engine's correctness on a user's own machine, and on a user's own model.

``lfp-bench verify`` compares the engine, on the device and in the dtype that will be used, with
backpropagation times |w| (Theorem 1, for networks that are linear on each side of 0) and with the
oracle (:mod:`validation.oracle`, for every activation). A control that must fail shows that the
comparison can.
"""

import copy
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import inf, isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn

import lfp_core as lfp
from benchmarks.models import ACTIVATIONS, build
from lfp_core.dead import DeadParameters
from validation import oracle
from validation.compare import engine_feedback, relative_error, weight_scaled_gradient
from validation.inputs import BATCH, Inputs, Logits, make

#: The largest relative error of a parameter's feedback that is rounding, by dtype.
TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-4}
#: Theorem 1 holds for these, as they are linear or linear on each side of 0.
LINEAR = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ReLU,
    nn.LeakyReLU,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Flatten,
    nn.Identity,
)
EPSILON = 0.1  # of the comparison with the oracle, which is well-conditioned then


@dataclass(frozen=True)
class Check:
    """What was compared, and with which result.

    Attributes:
        name: what was checked.
        verdict: "agrees", "differs", "does not apply", or "warning" where the engine is right and
            a part of the model can nevertheless not learn.
        detail: the error and what it is compared with, why the check does not apply, or which part.
        dead: of the check that every parameter can learn, which ones cannot.
    """

    name: str
    verdict: Literal["agrees", "differs", "does not apply", "warning"]
    detail: str
    dead: DeadParameters | None = None


def machine(device: torch.device, dtype: torch.dtype) -> Iterator[Check]:
    """Check the engine with networks of its own; yield each result when it is there."""
    shapes = {"mlp": (1, 8, 8), "lenet": (1, 28, 28)}
    for name, shape in shapes.items():
        model, inputs, targets = _network(name, "relu", shape, device, dtype)
        yield _judged(f"Theorem 1, {name}, relu", theorem1(model, inputs, targets), dtype)
    model, inputs, targets = _network("mlp", "silu", (1, 8, 8), device, dtype)
    error = theorem1(model, inputs, targets)
    caught = error > 10 * TOLERANCES[dtype]
    told = f"relative error {error:.1e}, as it has to be where the theorem does not hold"
    yield Check("control: SiLU violates Theorem 1", "agrees" if caught else "differs", told)
    for activation, kind in ACTIVATIONS.items():
        if not kind.spiking:
            model, inputs, targets = _network("mlp", activation, (1, 8, 8), device, dtype)
            error = oracle_error(model, inputs, targets)
            yield _judged(f"oracle, mlp, {activation}", error, dtype)


def users_model(model: nn.Module, inputs: Tensor | Inputs) -> Iterator[Check]:
    """Check the engine with a model that has logits (batch, ..., classes) for its inputs.

    It is in evaluation mode for the checks; device and dtype are those of the inputs, and of a
    parameter if these are tokens. Its activations have to be modules, or Theorem 1 is taken to
    apply where it does not. Parameters that are 0 are started, once they have been told of: what no
    feedback reaches would agree with anything.

    Yields:
        What was found, check by check.
    """
    given = inputs if isinstance(inputs, Inputs) else Inputs((inputs,))
    own, only = copy.deepcopy(model).eval(), given.only
    if only is not None:
        own.to(only.device, only.dtype)
        with torch.no_grad():
            plain = isinstance(found := own(only), Tensor) and found.dim() == 2
    if only is None or not plain:
        yield from _examined(own, Logits(own), given)
    else:
        yield from _examined(own, own, only)


def _examined(own: nn.Module, model: nn.Module, inputs: Tensor | Inputs) -> Iterator[Check]:
    """Check a model that has outputs (examples, classes), made of one of the user's own."""
    with torch.no_grad():
        outputs = model(inputs)
    targets = torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device)

    def dead() -> DeadParameters:
        engine_feedback(model, inputs, lambda o: lfp.rewards.softmax(o, targets), EPSILON)
        return lfp.dead_parameters(own)

    try:
        at_first = dead()
    except lfp.UnsupportedOperation as missing:
        yield Check("every operation has a rule", "differs", str(missing))
        return
    yield Check("every operation has a rule", "agrees", "none is refused")
    started = lfp.start_parameters(own, generator=torch.Generator().manual_seed(0))
    yield learns(at_first, dead() if started else at_first)
    leaves = [module for module in own.modules() if not list(module.children())]
    others = sorted({type(leaf).__name__ for leaf in leaves if not isinstance(leaf, LINEAR)})
    if others:
        reason = f"it is for layers that are linear on each side of 0, not {', '.join(others)}"
        yield Check("Theorem 1", "does not apply", reason)
    else:
        yield _judged("Theorem 1", theorem1(model, inputs, targets), outputs.dtype)
    if not isinstance(inputs, Tensor):
        reason = "it is for models of one tensor of numbers, with outputs (batch, classes)"
        yield Check("oracle", "does not apply", reason)
        return
    try:
        error = oracle_error(model, inputs, targets)
    except TypeError as unknown:
        yield Check("oracle", "does not apply", str(unknown))
    else:
        yield _judged("oracle", error, outputs.dtype)


def prepared(
    name: str, texts: Sequence[str], device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, Inputs]:
    """Return the model that is named, and the inputs that are described; they go together.

    Args:
        name: of what returns the model, as :func:`load` takes it.
        texts: descriptions of inputs, as :func:`validation.inputs.make` takes them.
        device: of both.
        dtype: of both, where they are not whole numbers.

    Raises:
        ValueError: a name or a description is wrong, or the model cannot be called with the inputs.
    """
    build = load(name)
    inputs = make(texts or [""], lambda text: load(text, "input")).to(device, dtype)
    torch.manual_seed(0)
    try:
        model = _module(build())
        with torch.no_grad():
            outputs = Logits(copy.deepcopy(model).to(device, dtype).eval())(inputs)
        if not len(outputs):
            raise ValueError("there is no example; allowed: at least one")
    except (Exception, SystemExit) as error:  # whatever a model of one's own does
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"model: {name!r} does not go with the inputs ({told})") from None
    return model.to(device, dtype), inputs


def _module(made: Any) -> nn.Module:
    """Return what was made, which has to be a module with something to learn."""
    if not isinstance(made, nn.Module):
        raise TypeError(f"a {type(made).__name__} was made, and no nn.Module")
    if not any(parameter.requires_grad for parameter in made.parameters()):
        raise TypeError("it has no parameter that requires a gradient")
    return made


def learns(dead: DeadParameters, started: DeadParameters) -> Check:
    """Judge whether parameters can learn: as they are, and after zeros have been started.

    None that could is a difference, as there is nothing else to compare.

    Returns:
        What was found.
    """
    name, found = "every parameter can learn", f"evaluation mode, epsilon {EPSILON:g}: {dead}"
    if not dead.names:
        return Check(name, "agrees", found, dead)
    if dead.zero:
        found += f". After lfp_core.start_parameters(model): {started}"
    if started.names:
        found += ". Silent units, and activations far below epsilon, pass no feedback on"
    verdict: Literal["warning", "differs"]
    verdict = "differs" if len(dead.names) == dead.trainable else "warning"
    return Check(name, verdict, f"{found} (docs/dead_parameters.md)", dead)


def theorem1(model: nn.Module, inputs: Tensor | Inputs, targets: Tensor) -> float:
    """Return the relative distance of LFP-0 from ``-|w| dL/dw``, L the cross-entropy."""
    reward_of = lfp.rewards.from_loss(nn.functional.cross_entropy)
    found = engine_feedback(model, inputs, lambda o: reward_of(o, targets), epsilon=0.0)
    loss = nn.functional.cross_entropy(model(inputs), targets)
    return relative_error(found, weight_scaled_gradient(model, loss))


def oracle_error(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the relative distance of the engine from the oracle, which is in float64 on the CPU.

    Raises:
        TypeError: the oracle has no definition of a layer.
    """
    exact = copy.deepcopy(model).cpu().double()
    # The same reward for both: what is compared is how it is shared out.
    with torch.no_grad():
        reward = lfp.rewards.softmax(model(inputs), targets)
    trace = oracle.run(exact, inputs.cpu().double(), lambda _: reward.cpu().double(), EPSILON)
    found = engine_feedback(model, inputs, lambda _: reward, EPSILON)
    pairs = zip(model.parameters(), exact.parameters(), strict=True)
    known = {p: (found[p].cpu().double(), trace.feedback.get(twin)) for p, twin in pairs}
    return relative_error(
        {p: mine for p, (mine, _) in known.items()},
        {p: torch.zeros_like(mine) if its is None else its for p, (mine, its) in known.items()},
    )


def load(name: str, field: str = "model") -> Callable[[], Any]:
    """Return what ``package.module:callable`` names.

    Modules in the current folder are found, as Python's own commands find them.

    Args:
        name: what is named.
        field: what it is for, which messages begin with.

    Raises:
        ValueError: there is no such thing, or it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{field}: {name!r} is no package:callable ({error})") from None
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{field}: {name!r} cannot be imported ({told})") from None
    if not callable(found):
        raise ValueError(f"{field}: {name!r} is no callable, but of type {type(found).__name__}")
    return found


def _network(
    name: str, activation: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model, inputs and targets."""
    model = build(name, activation=activation, input_shape=shape, classes=10, seed=0)
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH, *shape, generator=random).to(device, dtype)
    targets = torch.arange(BATCH, device=device) % 10
    return model.to(device, dtype).eval(), inputs, targets


def _judged(name: str, error: float, dtype: torch.dtype) -> Check:
    tolerance = TOLERANCES[dtype]
    fine = (error if isfinite(error) else inf) <= tolerance
    told = f"relative error {error:.1e}, of at most {tolerance:g}"
    return Check(name, "agrees" if fine else "differs", told)
