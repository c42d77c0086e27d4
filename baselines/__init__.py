"""The methods of the comparison, one trainer each, behind one protocol (:class:`Trainer`)."""

from baselines.eg import ExponentiatedGradient
from baselines.fa import FeedbackAlignment
from baselines.lfp import LFP
from baselines.madam import Madam
from baselines.pso import PaperPSO, PaperTorchPSO, StablePSO, StableTorchPSO
from baselines.registry import Registry
from baselines.rewards import REWARDS
from baselines.rstdp import RSTDP, BatchedRSTDP, DenseRSTDP, TunedRSTDP
from baselines.sgd import SGD
from baselines.spiking_network import Spiking, SpikingNetwork
from baselines.surrogate import Surrogate
from baselines.trainer import OPTIMIZERS, Settings, Step, Trainer
from baselines.wsgd import WeightScaledSGD

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
            ExponentiatedGradient,
            Madam,
            Surrogate,
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
)

#: Names for methods that belong side by side in a table.
FAMILIES: dict[str, tuple[str, ...]] = {
    "pso": ("pso-paper", "pso-stable"),
    "pso-torch": ("pso-torch-paper", "pso-torch-stable"),
}

__all__ = [
    "FAMILIES",
    "LFP",
    "METHODS",
    "OPTIMIZERS",
    "REWARDS",
    "SGD",
    "Settings",
    "Spiking",
    "SpikingNetwork",
    "Step",
    "Trainer",
]
