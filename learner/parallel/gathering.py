"""Whole tensors from the rows that ranks hold, and rows of whole ones, one tensor at a time.

`fully_shard` gives each rank the same number of a parameter's rows, the last ranks fewer or none. Where parameters are
replicated, as many ranks as share one replica have all rows, and ranks of other replicas have the same ones again. What
is moved is bytes, so that each type goes through each backend and arrives bit for bit. A tensor that is not divided is
the same on all ranks. All ranks make these calls in the same order.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from learner.parallel.group import Group
from tppo.weights import MemoryFile, TensorFacts, TensorLayout, dtype_name

ROWS: tuple[Placement, ...] = (Shard(0),)
REPLICATED_ROWS: tuple[Placement, ...] = (Replicate(), Shard(0))


def is_divided(tensor: Tensor) -> bool:
    """Whether other ranks hold rows of it that this one lacks."""
    return isinstance(tensor, DTensor) and _num_parts(tensor) > 1


def own_rows(tensor: Tensor) -> Tensor:
    """What this rank holds, to be read or changed in place: all of a tensor that is not sharded."""
    if not isinstance(tensor, DTensor):
        return tensor
    assert tensor.placements in (ROWS, REPLICATED_ROWS), "as fully_shard divides parameters"
    rows: Tensor = tensor.to_local()
    return rows


def whole_at(owner: int, tensor: Tensor, *, dtype: torch.dtype | None = None) -> Tensor | None:
    """The tensor at the rank `owner`, cast by those that hold its rows; None elsewhere, where it is divided.

    Only the owner's device holds the whole tensor, and this one alone.
    """
    rows = own_rows(tensor.detach()).to(dtype or tensor.dtype)
    if not isinstance(tensor, DTensor) or tensor.numel() == 0 or _num_parts(tensor) == 1:
        return rows.reshape(tensor.shape)
    replica, owner = _replica(tensor), int(tensor.device_mesh.mesh.flatten()[owner])
    if owner not in dist.get_process_group_ranks(replica):
        return None  # another replica has the rows
    sent = _padded(rows, _bytes_of_a_rank(tensor, rows.dtype))
    if dist.get_rank() != owner:
        dist.gather(sent, None, dst=owner, group=replica)
        return None
    received = sent.new_empty(_num_parts(tensor) * len(sent))
    dist.gather(sent, list(received.chunk(_num_parts(tensor))), dst=owner, group=replica)
    return received[: tensor.numel() * rows.element_size()].view(rows.dtype).reshape(tensor.shape)


def in_memory_of_first(
    tensors: Mapping[str, tuple[Tensor, torch.dtype]], group: Group, *, nonce: str
) -> MemoryFile | None:
    """A sealed copy on the host of rank 0, cast to these types; one tensor after the other is gathered and copied."""
    layout = TensorLayout(
        TensorFacts(name, dtype_name(dtype), tuple(tensor.shape)) for name, (tensor, dtype) in tensors.items()
    )
    gathered = ((one.name, whole_at(0, tensors[one.name][0], dtype=tensors[one.name][1])) for one in layout.tensors)
    if group.rank == 0:
        return MemoryFile.filled(layout, ((name, whole) for name, whole in gathered if whole is not None), nonce=nonce)
    for _ in gathered:
        pass  # rank 0 needs this one's rows
    return None


def rows_like(like: Tensor, whole: Tensor) -> Tensor:
    """Of a whole tensor that this rank has, what it holds of `like`; in memory of its own."""
    whole = whole.detach()
    if isinstance(like, DTensor):
        begin = first_row(like)
        whole = whole[begin : begin + _rows_of_a_rank(like)]
    return whole.to(own_rows(like).device, copy=True)


def placed_like(like: Tensor, value: Tensor) -> Tensor:
    """A tensor that is whole on every rank, divided as `like` is; itself where nothing is to be divided."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    return _divided(like, rows_like(like, value))


def rows_from_first(like: Tensor, whole: Tensor | None, group: Group) -> Tensor:
    """Of a whole tensor that rank 0 alone has, what each rank holds of `like`; in memory of its own."""
    if group.size == 1:
        assert whole is not None, "rank 0 has the tensor"
        return rows_like(like, whole)
    rows = torch.empty_like(own_rows(like.detach()))
    sent = None if whole is None else whole.detach().to(rows.device, rows.dtype)
    num_bytes = _bytes_of_a_rank(like, rows.dtype) if isinstance(like, DTensor) else rows.nbytes
    received = torch.empty(num_bytes, dtype=torch.uint8, device=rows.device)
    if isinstance(like, DTensor) and num_bytes:
        parts = None if sent is None else _parts_of_ranks(sent, like, num_bytes)
        dist.scatter(received, parts, group=group.processes, group_src=0)
    elif num_bytes:
        received = received if sent is None else _padded(sent, num_bytes)
        dist.broadcast(received, group=group.processes, group_src=0)
    if rows.numel():
        rows.copy_(received[: rows.nbytes].view(rows.dtype).reshape(rows.shape))
    return rows


def all_from_first(whole: Mapping[str, Tensor], like: Mapping[str, Tensor], group: Group) -> dict[str, Tensor]:
    """Rank 0's tensors, one after the other, divided as those of `like` are; other ranks have none to give."""
    if group.rank == 0:
        assert whole.keys() == like.keys(), f"tensors of another model: {sorted(whole.keys() ^ like.keys())[:3]}"
    return {name: _divided(one, rows_from_first(one, whole.get(name), group)) for name, one in like.items()}


def _divided(like: Tensor, rows: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return rows
    return DTensor.from_local(
        rows, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _padded(tensor: Tensor, num_bytes: int) -> Tensor:
    """The bytes, and zeros up to that number."""
    own = tensor.contiguous().reshape(-1).view(torch.uint8)
    return own if len(own) == num_bytes else torch.cat([own, own.new_zeros(num_bytes - len(own))])


def _parts_of_ranks(whole: Tensor, like: DTensor, num_bytes: int) -> list[Tensor]:
    """What each rank is sent of it; the ranks of each replica follow each other, and get the same."""
    parts = _padded(whole, _num_parts(like) * num_bytes).chunk(_num_parts(like))
    return [*parts] * (like.device_mesh.size() // len(parts))


def first_row(tensor: DTensor) -> int:
    """The first of this rank's rows; of a rank without any it is beyond the tensor."""
    return tensor.device_mesh.get_local_rank(tensor.device_mesh.ndim - 1) * _rows_of_a_rank(tensor)


def _num_parts(tensor: DTensor) -> int:
    return tensor.device_mesh.size(tensor.device_mesh.ndim - 1)


def _replica(tensor: DTensor) -> ProcessGroup:
    """The ranks that have all of its rows between them, this one among them."""
    return tensor.device_mesh.get_group(tensor.device_mesh.ndim - 1)


def _rows_of_a_rank(tensor: DTensor) -> int:
    return -(-tensor.shape[0] // _num_parts(tensor))


def _bytes_of_a_rank(tensor: DTensor, dtype: torch.dtype) -> int:
    return _rows_of_a_rank(tensor) * math.prod(tensor.shape[1:]) * dtype.itemsize


def exchanged(content: Any, group: Group) -> list[Any]:
    """What each rank has to say, as JSON, in the order of the ranks."""
    data = torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)
    lengths = [int(length) for length in group.gathered(torch.tensor([len(data)]), [1] * group.size)]
    return [json.loads(part.numpy().tobytes()) for part in group.gathered(data, lengths)]
