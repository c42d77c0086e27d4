"""The authors' package `lfprop` behind two functions, so that tests can put it next to our engine.

`lfprop` is optional: import this module only where it is installed (tox environment `peer`).
What follows was read in lfprop 1.0.0 with lxt 0.6.1 and zennit 0.5.1.

* ``LFPEpsilonComposite`` (``propagation/propagator_lxt.py``) replaces modules, never functions.
  Linear, convolution, BatchNorm, average pooling and the module ``Sum`` of its own ResNet follow
  the epsilon rule, ``r / (z + eps s(z))`` with s(0) = +1, and only the first three have parameters
  to credit; activations and its ``Step`` hand the reward on unchanged. Everything else, such as
  max pooling, flattening and dropout, is plain autograd applied to the reward.
* ``epsilon_lfp_fn.backward`` writes ``param.feedback``, summed over the batch and over positions.
  It assigns: a module called twice keeps the feedback of one call alone.
"""

from collections.abc import Callable

import torch
from lfprop.model.models import get_model
from lfprop.propagation.propagator_lxt import LFPEpsilonComposite
from torch import Tensor, nn

PEER_MODELS: dict[str, tuple[int, ...]] = {
    "lenet": (1, 28, 28),
    "cifar-vgglike": (3, 32, 32),
    "cifar-vgglike-bn": (3, 32, 32),
    "dense-only": (784,),
    "resnet18": (3, 32, 32),
}
"""The authors' models by the authors' names, with the shape of one input."""

PEER_ACTIVATIONS = ("relu", "silu", "elu", "tanh", "sigmoid", "step")
"""The activations of the paper's comparison, by the authors' names."""


def peer_model(name: str, activation: str, *, classes: int = 10, seed: int = 0) -> nn.Module:
    """Return one of the authors' models, untrained, from (N, *PEER_MODELS[name]) to (N, classes).

    The caller's random state stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_model(
            name,
            "cpu",
            n_channels=PEER_MODELS[name][0],
            n_outputs=classes,
            activation=activation,
            pretrained_model=False,
        )


def peer_feedback(
    model: nn.Module,
    inputs: Tensor,
    reward_of_outputs: Callable[[Tensor], Tensor],
    epsilon: float,
) -> list[Tensor]:
    """Return the authors' feedback for every parameter, in the order of `model.parameters()`.

    `inputs` is (N, ...), the outputs (N, C), and `reward_of_outputs` maps them to a reward of the
    same shape. A parameter's feedback has its shape and is to be *added* to it. The model gets its
    own modules back. Raises `KeyError` for a parameter that `lfprop` has no rule for.
    """
    with LFPEpsilonComposite(epsilon=epsilon).context(model):
        leaf = inputs.detach().requires_grad_()  # without it the first layer would get nothing
        outputs = model(leaf)
        torch.autograd.grad(outputs, leaf, reward_of_outputs(outputs.detach()))
    # Taken off the parameters, so that no call can return what an earlier one left behind.
    return [vars(parameter).pop("feedback") for parameter in model.parameters()]
