"""The processes that train together, as a model sees them: how many, which one this is, and their results in one.

Every rank calls the same methods in the same order with the same rows; what differs is a rank's own share of the passes
through a network. So whatever is computed of gathered results is the same on every rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


@dataclass(frozen=True, slots=True)
class Group:
    """A process that is alone has no mesh, and nothing to gather."""

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None  # one dimension, over which parameters are sharded

    device: torch.device = torch.device("cpu")  # noqa: RUF009  immutable

    @classmethod
    def joined(cls, device: torch.device) -> Self:
        """All processes of torch.distributed, which was initialized with a backend for tensors of the host, too."""
        if device.type != "cpu":
            torch.accelerator.set_device_index(device.index or 0)  # fully_shard looks nowhere else
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return cls(rank, size, init_device_mesh(device.type, (size,), mesh_dim_names=("shard",)), device)

    def gathered(self, own: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Each rank's tensor; `lengths`, which every rank knows, are theirs along the first dimension. On the host."""
        assert len(own) == lengths[self.rank], "a rank gives what the others expect of it"
        own = own.detach().cpu()
        if self.size == 1:
            return [own]
        padded = own.new_zeros(max(lengths), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in lengths]
        torch.distributed.all_gather(parts, padded)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def total(self, number: int) -> int:
        """The sum over the ranks."""
        return sum(int(part) for part in self.gathered(torch.tensor([number]), [1] * self.size))

    def summed(self, own: Tensor) -> Tensor:
        """The sum over the ranks, the same bits on each."""
        if self.size > 1:
            torch.distributed.all_reduce(own)
        return own


ALONE = Group()
