"""The processes that train together, as a model sees them: how many, which one this is, and their results in one.

Every rank calls the same methods in the same order with the same rows; what differs is a rank's own share of the passes
through a network. So whatever is computed of gathered results is the same on every rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, new_subgroups_by_enumeration
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from learner.parallel.sequence import ALL_TOKENS, SequenceRanks


@dataclass(frozen=True, slots=True)
class Group:
    """A process that is alone has no mesh, and nothing to gather.

    Rows are dealt to shares of the group: ranks that follow each other, and have the tokens of a share's passes between
    them.
    """

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None  # parameters are sharded over its last dimension, and replicated over the one before
    device: torch.device = torch.device("cpu")  # noqa: RUF009  immutable
    sequence: SequenceRanks = ALL_TOKENS  # those of this rank's share
    processes: ProcessGroup | None = None  # None: all of torch.distributed

    @classmethod
    def of_ranks(cls, ranks: Sequence[int], device: torch.device, *, timeout: timedelta | None = None) -> Self | None:
        """Some processes of torch.distributed; all make this call, in the same order, and get None where they are none
        of them. See `joined`.
        """
        processes, rank = torch.distributed.new_group([*ranks], timeout=timeout), torch.distributed.get_rank()
        if rank not in ranks:
            return None
        _use(device)
        if len(ranks) == 1:
            return cls(device=device)
        mesh = DeviceMesh.from_group(processes, device.type, mesh_dim_names=("shard",))
        return cls(ranks.index(rank), len(ranks), mesh, device, processes=processes)

    @classmethod
    def joined(
        cls,
        device: torch.device,
        *,
        sequence_size: int = 1,
        shard_size: int | None = None,
        timeout: timedelta | None = None,
    ) -> Self:
        """All processes of torch.distributed, which was initialized with a backend for tensors of the host, too.

        `sequence_size` of them share the tokens of a pass, and `shard_size` a copy of the parameters: by default all.
        `timeout` is that of a collective of some of them; torch's own is of minutes.
        """
        _use(device)
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        mesh, sequence = _mesh(device, size, shard_size or size, timeout), _sequence(rank, sequence_size, timeout)
        return cls(rank, size, mesh, device, sequence)

    @property
    def num_shares(self) -> int:
        """To which rows are dealt."""
        return self.size // self.sequence.size

    @property
    def share(self) -> int:
        """This rank's, by number."""
        return self.rank // self.sequence.size

    def gathered(self, own: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Each rank's tensor; `lengths`, which every rank knows, are theirs along the first dimension. On the host."""
        assert len(own) == lengths[self.rank], "a rank gives what the others expect of it"
        own = own.detach().cpu()
        if self.size == 1:
            return [own]
        padded = own.new_zeros(max(lengths), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in lengths]
        torch.distributed.all_gather(parts, padded, group=self.processes)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def gathered_of_shares(self, own: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Each share's tensor, as its first rank has it; see `gathered`."""
        size, is_first = self.sequence.size, self.sequence.rank == 0
        of_ranks = [length if place == 0 else 0 for length in lengths for place in range(size)]
        return self.gathered(own if is_first else own[:0], of_ranks)[::size]

    def total(self, number: int) -> int:
        """The sum over the ranks."""
        return sum(int(part) for part in self.gathered(torch.tensor([number]), [1] * self.size))

    def summed(self, own: Tensor) -> Tensor:
        """The sum over the ranks, the same bits on each."""
        if self.size > 1:
            torch.distributed.all_reduce(own, group=self.processes)
        return own


def _use(device: torch.device) -> None:
    """fully_shard looks nowhere else for the device of its network."""
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index or 0)


ALONE = Group()


def _mesh(device: torch.device, size: int, shard_size: int, timeout: timedelta | None) -> DeviceMesh:
    if shard_size == size:
        return init_device_mesh(device.type, (size,), mesh_dim_names=("shard",))
    ranks = torch.arange(size).view(-1, shard_size)
    groups = [_subgroup(ranks.T, timeout), _subgroup(ranks, timeout)]
    return DeviceMesh.from_group(groups, device.type, ranks, mesh_dim_names=("replicate", "shard"))


def _sequence(rank: int, size: int, timeout: timedelta | None) -> SequenceRanks:
    if size == 1:
        return ALL_TOKENS
    ranks = torch.arange(torch.distributed.get_world_size()).view(-1, size)
    return SequenceRanks(rank % size, size, _subgroup(ranks, timeout))


def _subgroup(ranks: Tensor, timeout: timedelta | None) -> ProcessGroup:
    """This rank's row of `ranks` as a group; all ranks make those of all rows."""
    own: ProcessGroup
    own, _ = new_subgroups_by_enumeration(ranks.tolist(), timeout=timeout)  # type: ignore[no-untyped-call]
    return own
