"""Which rank this process is: of those that rank 0 starts (`learner.num_processes`), or of those that torchrun starts.

Both hand a rank its place in the variables of torch. What torchrun starts meets in torchrun's store, which is another
one after each restart; what rank 0 starts is handed rank 0's address.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from learner.parallel.process_counts import ProcessCounts
from tppo.config import Config, ConfigError

TORCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
CHANNEL_VARIABLE = "TPPO_RANK_0"
"""Where rank 0 listens, and its process: host:port/PID."""
COMPARED_VERSIONS = ("tppo", "torch", "transformers", "safetensors")
OWN_TABLES = ("redis", "prometheus", "dashboard")
"""Of the configuration: where services are, which a rank but 0 has no use for."""
MAX_SHOWN = 200  # characters of a value


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Of one process among the ranks of the learner."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1  # ranks on this machine
    master: str = ""  # the host of rank 0 as torchrun names it; empty where rank 0 starts the others
    num_of_value_model: int = 0  # last ones, which have the value model alone; 0: all have both models
    channel: str = ""  # host:port of rank 0, for a rank that rank 0 has started
    leader_pid: int = 0  # of rank 0, for a rank that rank 0 has started

    @classmethod
    def of(cls, environment: Mapping[str, str], config: Config) -> Self:
        """As torchrun or rank 0 says; else rank 0 of as many as configured. Raises `ConfigError`."""
        num_of_value_model = config.critic.num_processes
        count = config.learner.num_processes + num_of_value_model
        if not environment.get("RANK"):
            return cls(size=count, local_size=count, num_of_value_model=num_of_value_model)
        rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        local_rank, local_size = (
            _number(environment, "LOCAL_RANK", rank),
            _number(environment, "LOCAL_WORLD_SIZE", size),
        )
        if not 0 <= rank < size:
            raise ConfigError(f"RANK = {rank} with WORLD_SIZE = {size}; expected 0 to {size - 1}")
        _require_as_many(config, size)
        channel, _, pid = environment.get(CHANNEL_VARIABLE, "").partition("/")
        master = "" if channel or size == 1 else _text(environment, "MASTER_ADDR")
        return cls(
            rank,
            size,
            local_rank,
            local_size,
            master,
            num_of_value_model=num_of_value_model,
            channel=channel,
            leader_pid=int(pid or 0),
        )

    @property
    def counts(self) -> ProcessCounts:
        """Of all ranks, by what they train."""
        return ProcessCounts(self.size - self.num_of_value_model, self.num_of_value_model)

    @property
    def has_policy(self) -> bool:
        """Or else the value model alone."""
        return self.rank < self.counts.of_policy

    @property
    def trains(self) -> str:
        """What this rank has, in words."""
        if not self.num_of_value_model:
            return "policy and value model"
        return "policy" if self.has_policy else "value model"

    @property
    def is_one_machine(self) -> bool:
        """Whether all ranks are on this one."""
        return self.local_size == self.size

    def environment_of(self, rank: int, channel: str, pid: int) -> dict[str, str]:
        """For a rank that this one starts."""
        numbers = {"RANK": rank, "WORLD_SIZE": self.size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": self.size}
        return {name: str(value) for name, value in numbers.items()} | {CHANNEL_VARIABLE: f"{channel}/{pid}"}


def identity(place: RankPlace, config: Config, *, host: str, pid: int) -> dict[str, Any]:
    """What a rank says of itself: who it is, its versions, and its configuration."""
    tables = config.model_dump(mode="json", exclude=set(OWN_TABLES))
    settings = {f"{section}.{name}": value for section, table in tables.items() for name, value in table.items()}
    return {
        "rank": place.rank,
        "size": place.size,
        "trains": place.trains,
        "host": host,
        "pid": pid,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in COMPARED_VERSIONS}},
        "settings": settings,
    }


def why_not_together(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What keeps a rank that says this of itself out of rank 0's group; empty where nothing does."""
    rank, size = other.get("rank"), own["size"]
    if other.get("size") != size or rank not in range(1, size):
        return f"rank {rank!r} of {other.get('size')!r}; expected one of the ranks 1 to {size - 1} of {size}"
    who = f"rank {rank} on {other.get('host')}"
    for name, expected in own["versions"].items():
        found = dict(other.get("versions") or {}).get(name)
        if found != expected:
            return f"{name} {found} on {who}, {name} {expected} on rank 0; expected the same on every rank"
    theirs = dict(other.get("settings") or {})
    for key, expected in own["settings"].items():
        if theirs.get(key) != expected:
            return (
                f"{key} = {_shown(theirs.get(key))} on {who}, {_shown(expected)} on rank 0; "
                "expected the same configuration on every rank"
            )
    return ""


def too_few_gpus(counts: ProcessCounts, *, num_here: int, num_gpus: int) -> str:
    """Why so many processes of these cannot be on a machine with so many GPUs, each on one by its number."""
    shared = ", or [placement], by which both models may share them" if counts.of_value_model else ""
    return (
        f"{_keys(counts)}: {num_here} processes on this machine, which has {num_gpus} GPUs; expected at most "
        f"{num_gpus}{shared}, or learner.device = 'cpu'"
    )


def _keys(counts: ProcessCounts) -> str:
    of_value_model = f" and critic.num_processes = {counts.of_value_model}" if counts.of_value_model else ""
    return f"learner.num_processes = {counts.of_policy}{of_value_model}"


def _require_as_many(config: Config, size: int) -> None:
    """As torchrun has started; `learner.num_processes` may be unset then."""
    of_policy, of_value_model = config.learner.num_processes, config.critic.num_processes
    if size != of_policy + of_value_model and (of_policy > 1 or size <= of_value_model):
        expected = "the same number, or no such key"
        if of_value_model:
            expected = f"the sum of both, or learner.num_processes unset and more than {of_value_model} processes"
        keys = _keys(ProcessCounts(of_policy, of_value_model))
        raise ConfigError(f"{keys}, but torchrun has started {size} (WORLD_SIZE); expected {expected}")


def _shown(value: object) -> str:
    return repr(value)[:MAX_SHOWN]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise ConfigError(f"RANK is set and {name} is not; expected both, as torchrun sets them, or neither")
    return value


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in environment:
        return default
    value = _text(environment, name)
    if not value.isdecimal():
        raise ConfigError(f"{name} = {value!r}; expected a whole number, as torchrun sets it")
    return int(value)
