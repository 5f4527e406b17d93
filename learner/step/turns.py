"""Policy and value model take turns on one device: the one that waits lies in the host's memory, with its moments.

    value model: values, then its update -> policy: its update, and whatever else reads log-probabilities -> ...

Nothing is computed on the host, so no number changes. Each turn copies a model's masters, cast and moments out and the
other's in. On a device that is the host nothing is moved. This has been run on the CPU alone, against a pretended
device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.models.passes.outputs import Policy, ValueModel
from learner.models.weights.master_weights import MasterWeights
from learner.step.updates.optimization import Optimization

Move = Callable[[Tensor], Tensor]
HOST = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Device:
    """How a tensor comes there, and back to the host."""

    fetch: Move
    send_home: Move

    @classmethod
    def of(cls, name: str) -> "Device":
        """A device of torch."""
        return cls(lambda tensor: tensor.to(name), lambda tensor: tensor.to(HOST))


@dataclass(eq=False, slots=True)
class Participant:
    """A model and its optimizer."""

    weights: MasterWeights
    optimization: Optimization | None = None  # of a model that has just been loaded

    def move(self, move: Move) -> None:
        """All its parameters and moments; between two updates there are no gradients."""
        for parameter in self._parameters():
            assert parameter.grad is None, "moved between two updates"
            parameter.data = move(parameter.data)
        if self.optimization is None:
            return
        for state in self.optimization.adamw.state.values():
            state.update({name: move(value) for name, value in state.items() if isinstance(value, Tensor)})

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        """Of the network and its masters, each once."""
        everything = (*self.weights.network.parameters(), *self.weights.parameters())
        yield from {id(parameter): parameter for parameter in everything}.values()


class Turns:
    """Who is on the device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._present: Participant | None = None

    def take(self, participant: Participant, *others: Participant) -> None:
        """Send the others home, and fetch this one, unless it is there."""
        if self._present is participant:
            return
        for other in others:
            other.move(self._device.send_home)
        participant.move(self._device.fetch)
        self._present = participant


def let_take_turns(
    policy: Policy, of_policy: Optimization, value_model: ValueModel, of_value_model: Optimization, *, device: Device
) -> None:
    """From now on a model takes its turn before it computes."""
    turns = Turns(device)
    policy_side = Participant(policy.weights, of_policy)
    value_side = Participant(value_model.weights, of_value_model)
    policy.take_turn = lambda: turns.take(policy_side, value_side)
    value_model.take_turn = lambda: turns.take(value_side, policy_side)
