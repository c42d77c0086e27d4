"""E-prop: eligibility traces and a learning signal, in place of backpropagation through time.

Bellec et al., A solution to the learning dilemma for recurrent networks of spiking neurons, Nature
Communications 11 (2020), 3625. With x the spikes that reach a neuron by a weight, v its membrane
potential and psi the surrogate derivative of its spike at v, the weight descends the sum over time
of the neuron's learning signal times the weight's eligibility trace::

    e_t = psi(v_t) (x_t + beta x_{t-1} + beta^2 x_{t-2} + ...)

The learning signal of a hidden neuron is ``B^T`` times the error of the outputs, where B is random
and stays (the paper's "random e-prop"); no error passes from one hidden layer to another. Without
recurrent connections, of which the networks here have none, the sum is the gradient through time of
each layer by itself, so autograd computes it. Traces, which need no memory of the past, would make
it online.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines.activation import Activation
from baselines.dfa import DirectFeedbackAlignment
from baselines.fa import FeedbackAlignmentSettings
from baselines.options import Search, options
from baselines.spiking_network import SpikingNetwork
from baselines.surrogate import SurrogateSettings, TakesSurrogates, loss_over_time
from baselines.trainer import Settings


@options
class EPropSettings(SurrogateSettings, FeedbackAlignmentSettings):
    """The options of e-prop: those of surrogate gradients, and of random feedback."""

    search: ClassVar[Mapping[str, Search]] = {
        **SurrogateSettings.search,
        **FeedbackAlignmentSettings.search,
    }


class EProp(TakesSurrogates, DirectFeedbackAlignment):
    """E-prop for networks of spiking neurons; without time it is direct feedback alignment.

    The error is the derivative of the loss by the input of the last neurons. With ``loss:
    membrane`` that is the paper's rule for classification, whose outputs are leaky potentials; here
    they are reset where they spike. With ``loss: rate`` it passes the spikes of the last neurons by
    their surrogate derivative.

    Attributes:
        feedback: B (classes, neurons) of every hidden layer of neurons.

    Raises:
        ValueError: a layer is none of :data:`baselines.chain.LAYERS`, or in a step, no hidden layer
            has neurons.
    """

    name: ClassVar[str] = "e-prop"
    label: ClassVar[str] = "e-prop"
    Options: ClassVar[type[Settings]] = EPropSettings
    settings: EPropSettings

    @classmethod
    def supports(cls, activation: Activation) -> str | None:
        """Refuse what has no time."""
        return None if activation.spiking else "without time it is dfa"

    @staticmethod
    def layers_of(model: nn.Module) -> nn.Module:
        """Return the chain of layers and neurons in a model."""
        return model.layers if isinstance(model, SpikingNetwork) else model

    def fill_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Give every layer of neurons its learning signal at every step."""
        network = self.model
        if not isinstance(network, SpikingNetwork):
            return super().fill_gradients(inputs, targets)
        hidden = network.hidden_spikes(inputs)
        currents = network.last_currents(hidden[-1].detach())
        received = currents.detach().requires_grad_()
        last = network.last_spikes if self.settings.loss == "rate" else network.last_potentials
        loss = loss_over_time(last(received), targets)
        (error,) = torch.autograd.grad(self.objective(loss, targets), received)
        if not self.feedback:
            classes = currents.shape[-1]
            self.feedback = [self.drawn(classes, spikes.shape[2:]) for spikes in hidden]
        signals = [
            (error @ feedback).view_as(spikes)
            for spikes, feedback in zip(hidden, self.feedback, strict=True)
        ]
        for outputs, signal in zip([*hidden, currents], [*signals, error], strict=True):
            if outputs.requires_grad:  # its layer is not frozen
                outputs.backward(signal)
        return loss
