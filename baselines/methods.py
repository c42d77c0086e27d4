"""The methods by name, and the options of one as JSON has them."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator

from baselines.dfa import DirectFeedbackAlignment
from baselines.dtp import DifferenceTargetPropagation
from baselines.eg import ExponentiatedGradient
from baselines.fa import FeedbackAlignment
from baselines.lfp import LFP
from baselines.madam import Madam
from baselines.options import fields_of
from baselines.pepita import PEPITA
from baselines.pso import PaperPSO, PaperTorchPSO, StablePSO, StableTorchPSO
from baselines.registry import Registry, required
from baselines.rstdp import RSTDP, BatchedRSTDP, DenseRSTDP, TunedRSTDP
from baselines.sgd import SGD
from baselines.sign_symmetry import SignSymmetry
from baselines.surrogate import Surrogate
from baselines.trainer import BasicSettings, Settings, Trainer
from baselines.wsgd import WeightScaledSGD
from baselines.wsurrogate import WeightScaledSurrogate


def _as_method(item: Any) -> type[Trainer]:
    """Return what may be a method, unless it lacks what all methods have."""
    options, step = getattr(item, "Options", None), getattr(item, "step", None)
    own = isinstance(options, type) and issubclass(options, BasicSettings)
    fine = isinstance(item, type) and own and callable(step) and hasattr(item, "name")
    return required(item, "a class like baselines.Trainer, with name, Options, step", given=fine)


#: All methods by name, in the order of tables and figures.
METHODS: Registry[type[Trainer]] = Registry(
    "lfp_bench.methods",
    {
        method.name: method
        for method in (
            LFP,
            SGD,
            WeightScaledSGD,
            FeedbackAlignment,
            SignSymmetry,
            DirectFeedbackAlignment,
            DifferenceTargetPropagation,
            PEPITA,
            ExponentiatedGradient,
            Madam,
            Surrogate,
            WeightScaledSurrogate,
            PaperPSO,
            StablePSO,
            PaperTorchPSO,
            StableTorchPSO,
            RSTDP,
            TunedRSTDP,
            BatchedRSTDP,
            DenseRSTDP,
        )
    },
    _as_method,
)

#: Names for methods that belong side by side in a table.
FAMILIES: dict[str, tuple[str, ...]] = {
    "pso": ("pso-paper", "pso-stable"),
    "pso-torch": ("pso-torch-paper", "pso-torch-stable"),
}


S = TypeVar("S", bound=BasicSettings)


def stored_settings(kind: type[S], stored: Mapping[str, Any]) -> S | None:
    """Return options as JSON has them; None if one of them is no option any more.

    Once every method had all options of :class:`Settings`. Those that a method ignored, and no
    longer has, are left out.

    Raises:
        ValueError: a value that is not allowed.
    """
    own = fields_of(kind)
    if not stored.keys() <= own.keys() | fields_of(Settings).keys():
        return None
    return kind(**{name: value for name, value in stored.items() if name in own})


def settings_of(method: str, stored: BasicSettings | Mapping[str, Any]) -> BasicSettings:
    """Return the options of a method, which may come as JSON has them.

    Raises:
        ValueError: a value that is not allowed, or what is no option of the method.
        KeyError: there is no such method.
    """
    if isinstance(stored, BasicSettings):
        return stored
    kind = METHODS[method].Options
    found = stored_settings(kind, stored)
    return kind(**stored) if found is None else found  # which says what is wrong


def are_known(stored: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether there are these methods, and whether they have these options.

    Results that older code has stored may have others.
    """
    return all(
        method in METHODS and stored_settings(METHODS[method].Options, own) is not None
        for method, own in stored.items()
    )


#: The options of several methods, each of the method's own class.
SettingsByMethod = Annotated[
    dict[str, BasicSettings],
    BeforeValidator(lambda stored: {m: settings_of(m, own) for m, own in stored.items()}),
]
