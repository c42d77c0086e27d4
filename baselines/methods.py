"""The methods by name, and the options of one as JSON has them."""

from collections.abc import Mapping
from typing import Annotated, Any

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
from baselines.trainer import Settings, Trainer
from baselines.wsgd import WeightScaledSGD
from baselines.wsurrogate import WeightScaledSurrogate


def _as_method(item: Any) -> type[Trainer]:
    """Return what may be a method, unless it lacks what all methods have."""
    options, step = getattr(item, "Options", None), getattr(item, "step", None)
    own = isinstance(options, type) and issubclass(options, Settings)
    fine = isinstance(item, type) and own and callable(step) and hasattr(item, "name")
    return required(item, "a class like baselines.Trainer, with name, Options, step", given=fine)


#: By name, in the order of tables and figures.
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


def settings_of(method: str, stored: Settings | Mapping[str, Any]) -> Settings:
    """Return the options of a method, which may come as JSON has them.

    Raises:
        ValueError: a value that is not allowed, or what is no option of the method.
        KeyError: there is no such method.
    """
    return stored if isinstance(stored, Settings) else METHODS[method].Options(**stored)


def are_known(stored: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether there are these methods, and whether they have these options.

    Results that older code has stored may have others.
    """
    return all(
        method in METHODS and own.keys() <= fields_of(METHODS[method].Options).keys()
        for method, own in stored.items()
    )


#: The options of several methods, each of the method's own class.
SettingsByMethod = Annotated[
    dict[str, Settings],
    BeforeValidator(lambda stored: {m: settings_of(m, own) for m, own in stored.items()}),
]
