"""The process group of torch: one for each incarnation, in a store that is named by it.

So a rank that was frozen while the others began again finds its own, old store, and joins nobody.
"""

import os
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
from torch import distributed
from torch._C._distributed_c10d import FileStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from learner.parallel.group import Group
from learner.parallel.roles import Roles
from learner.ranks.place import RankPlace, too_few_gpus
from tppo.config import Config, ConfigError
from tppo.models.device import torch_device

LONGEST_COLLECTIVE = timedelta(hours=1)
"""A bound for what no missing heartbeat shows: ranks that wait for each other in different collectives."""
LOOPBACK = "lo"
FILE_PREFIX = ".ranks-"
CHANNEL_KEY = "tppo/rank 0"


def join(place: RankPlace, incarnation: int, config: Config) -> Roles:
    """Who trains what, when all ranks of this incarnation have joined. Raises `ConfigError` without a GPU for each."""
    device = _own_device(place, config)
    if place.is_one_machine and Path(f"/sys/class/net/{LOOPBACK}").exists():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)  # nobody else can connect
    if place.master:
        store: Store = PrefixStore(f"tppo/{incarnation}", torchrun_store())
    else:
        store = FileStore(f"{config.run.path}/{FILE_PREFIX}{incarnation}", place.size)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if _has_gpus(config) else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.size,
        timeout=LONGEST_COLLECTIVE,
    )
    if place.num_of_value_model:
        return Roles.apart(place.counts.of_policy, device, timeout=LONGEST_COLLECTIVE)
    learner = config.learner
    group = Group.joined(
        device,
        sequence_size=learner.sequence_parallel_size,
        shard_size=learner.fsdp_size,
        timeout=LONGEST_COLLECTIVE,
    )
    return Roles.together(group)


def _has_gpus(config: Config) -> bool:
    """Whether a rank computes on one; what all ranks say alike."""
    placements = (config.policy_placement, config.value_model_placement)
    return any(torch_device(placement).startswith("cuda") for placement in placements)


def _own_device(place: RankPlace, config: Config) -> torch.device:
    """That of this rank's network: the GPU that is named, or the one of the rank's number."""
    placement = config.policy_placement if place.has_policy else config.value_model_placement
    device = torch.device(torch_device(placement))
    if device.type != "cuda" or place.size == 1:
        return device
    numbers = config.placement.value_model_numbers
    if place.num_of_value_model and numbers and not place.master:
        network_rank = place.rank if place.has_policy else place.rank - place.counts.of_policy
        number = (config.placement.policy_numbers if place.has_policy else numbers)[network_rank]
        return torch.device("cuda", config.placement.learner_numbers.index(number))
    if place.num_of_value_model and device.index is not None:
        return device  # a configuration names one where the network has one process
    count = torch.cuda.device_count()
    if place.local_size > count:
        raise ConfigError(too_few_gpus(place.counts, num_here=place.local_size, num_gpus=count))
    return torch.device("cuda", place.local_rank)


def leave() -> None:
    """At an orderly end."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def make_way(run_folder: Path) -> None:
    """Delete what earlier incarnations met in, before a rank joins."""
    for path in run_folder.glob(f"{FILE_PREFIX}*"):
        path.unlink(missing_ok=True)


def publish_channel(address: str) -> None:
    """Where rank 0 listens, for the ranks that torchrun has started."""
    torchrun_store().set(CHANNEL_KEY, address)


def published_channel(timeout_seconds: float) -> str:
    """Once rank 0 has published it. Raises `torch.distributed.DistStoreError` when it does not."""
    torchrun_store().wait([CHANNEL_KEY], timedelta(seconds=timeout_seconds))
    return str(torchrun_store().get(CHANNEL_KEY).decode())


@cache
def torchrun_store() -> Store:
    """That of torchrun, or of a launcher that sets the same variables; another one after each restart."""
    store: Store
    store, _, _ = next(rendezvous("env://", timeout=LONGEST_COLLECTIVE))
    return store
