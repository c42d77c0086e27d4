"""The methods by name. A method is imported when it is asked for, and torch with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from baselines.registry import Registry, blaming, required

if TYPE_CHECKING:
    from baselines.activation import Activation
    from baselines.trainer import Trainer


def _as_method(item: Any) -> type[Trainer]:
    """Return what may be a method, unless it lacks what all methods have."""
    from baselines.trainer import BasicSettings  # noqa: PLC0415  (needs torch)

    options, step = getattr(item, "Options", None), getattr(item, "step", None)
    own = isinstance(options, type) and issubclass(options, BasicSettings)
    fine = isinstance(item, type) and own and callable(step) and hasattr(item, "name")
    return required(item, "a class like baselines.Trainer, with name, Options, step", given=fine)


#: All methods by name, in the order of tables and figures.
METHODS: Registry[type[Trainer]] = Registry(
    "lfp_bench.methods",
    {
        "lfp": "baselines.lfp:LFP",
        "sgd": "baselines.sgd:SGD",
        "wsgd": "baselines.wsgd:WeightScaledSGD",
        "fa": "baselines.fa:FeedbackAlignment",
        "sign-symmetry": "baselines.sign_symmetry:SignSymmetry",
        "dfa": "baselines.dfa:DirectFeedbackAlignment",
        "dtp": "baselines.dtp:DifferenceTargetPropagation",
        "pepita": "baselines.pepita:PEPITA",
        "forward-forward": "baselines.forward_forward:ForwardForward",
        "eg": "baselines.eg:ExponentiatedGradient",
        "madam": "baselines.madam:Madam",
        "surrogate": "baselines.surrogate:Surrogate",
        "wsurrogate": "baselines.wsurrogate:WeightScaledSurrogate",
        "e-prop": "baselines.eprop:EProp",
        "pso-paper": "baselines.pso:PaperPSO",
        "pso-stable": "baselines.pso:StablePSO",
        "pso-torch-paper": "baselines.pso:PaperTorchPSO",
        "pso-torch-stable": "baselines.pso:StableTorchPSO",
        "rstdp": "baselines.rstdp:RSTDP",
        "rstdp-tuned": "baselines.rstdp:TunedRSTDP",
        "rstdp-batched": "baselines.rstdp:BatchedRSTDP",
        "rstdp-dense": "baselines.rstdp:DenseRSTDP",
    },
    _as_method,
)

#: Names for methods that belong side by side in a table.
FAMILIES: dict[str, tuple[str, ...]] = {
    "pso": ("pso-paper", "pso-stable"),
    "pso-torch": ("pso-torch-paper", "pso-torch-stable"),
}


def refusal(method: str, activation: Activation) -> str | None:
    """Return why a method cannot train a network with an activation (:meth:`Trainer.supports`).

    Raises:
        PlugInError: a method of another package does not answer that.
    """
    with blaming(METHODS.plug_in(method)):
        told = METHODS[method].supports(activation)
        given = told is None or isinstance(told, str)
        return required(told, "None or a few words, from supports", given=given)


def remark(method: str, activation: Activation) -> str:
    """Return what a reader has to know of a method's numbers (:meth:`Trainer.remark`).

    Raises:
        PlugInError: a method of another package does not answer that.
    """
    with blaming(METHODS.plug_in(method)):
        told = METHODS[method].remark(activation)
        return required(told, "a few words, from remark", given=isinstance(told, str))
