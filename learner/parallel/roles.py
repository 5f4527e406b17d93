"""Which processes train which network: all of them both, or the first ones the policy and the others the value model.

The two groups exchange numbers of rows on the host, and nothing else: what each is asked of the other's network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
from torch import Tensor

from learner.parallel.gathering import exchanged
from learner.parallel.group import ALONE, Group
from learner.parallel.process_counts import ProcessCounts


@dataclass(frozen=True, slots=True)
class Roles:
    """Of this process. The groups of both networks are the same where nothing is apart."""

    everyone: Group = ALONE
    policy: Group | None = ALONE  # None: other processes have it
    value_model: Group | None = ALONE
    first_of_value_model: int = 0  # its rank among everyone

    @classmethod
    def together(cls, group: Group) -> Self:
        """All have both networks."""
        return cls(group, group, group)

    @classmethod
    def apart(cls, num_of_policy: int, device: torch.device, *, timeout: timedelta | None = None) -> Self:
        """The first so many processes of torch.distributed, which all make this call, have the policy alone.

        `device`: this process's; `timeout`: of a collective of one of the groups.
        """
        size = torch.distributed.get_world_size()
        everyone = Group(torch.distributed.get_rank(), size)
        policy = Group.of_ranks(range(num_of_policy), device, timeout=timeout)
        value_model = Group.of_ranks(range(num_of_policy, size), device, timeout=timeout)
        return cls(everyone, policy, value_model, num_of_policy)

    @property
    def is_apart(self) -> bool:
        """Whether this process has one of the networks alone."""
        return self.policy is None or self.value_model is None

    @property
    def counts(self) -> ProcessCounts:
        """How many processes train each model."""
        if not self.is_apart:
            return ProcessCounts(self.everyone.size)
        return ProcessCounts(self.first_of_value_model, self.everyone.size - self.first_of_value_model)

    @property
    def own(self) -> Group:
        """Of the networks that this process has."""
        group = self.value_model if self.policy is None else self.policy
        assert group is not None, "each process has one at least"
        return group

    def from_policy(self, own: Tensor | None, shape: Sequence[int]) -> Tensor:
        """float32 numbers on the host that the policy's processes have, and all know the shape of."""
        return self._sent(own, shape, source=0)

    def from_value_model(self, own: Tensor | None, shape: Sequence[int]) -> Tensor:
        """float32 numbers on the host that the value model's processes have, and all know the shape of."""
        return self._sent(own, shape, source=self.first_of_value_model)

    def _sent(self, own: Tensor | None, shape: Sequence[int], *, source: int) -> Tensor:
        if not self.is_apart:
            assert own is not None, "this process has both networks"
            return own
        numbers = torch.empty(*shape) if own is None else own.contiguous()
        assert (tuple(numbers.shape), numbers.dtype) == (tuple(shape), torch.float32), "as the others expect it"
        if numbers.numel():
            torch.distributed.broadcast(numbers, src=source)
        return numbers

    def reports(self, own: Any) -> list[Any]:
        """What the first process of each network has to say, as JSON: the policy's, then the value model's."""
        if not self.is_apart:
            return [own]
        of_all = exchanged(own if self.own.rank == 0 else None, self.everyone)
        return [of_all[0], of_all[self.first_of_value_model]]


TOGETHER = Roles()
