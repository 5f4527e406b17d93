"""What a user can get wrong, found before anything starts: one sentence each, raised as `ConfigError`.

Data files and reward functions are checked by the processes that own them, with `--check`.
"""

import asyncio
import math
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.local.hardware.devices import device_environment
from tppo.config import Config, ConfigError
from tppo.config.schema import ModelSection
from tppo.config.sections.devices import Gpus
from tppo.process.interpreter import environment_of_python, tppo_command
from tppo.process.listening import listener, why_not
from tppo.process.shell import refusal
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths
from tppo.security.authentication import (
    METRICS_TOKEN_VARIABLE,
    Service,
    metrics_token_from_environment,
    require_token_beyond_loopback,
    token_from_environment,
)
from tppo.security.redis_address import given_redis
from tppo.security.tls import WebCertificate, require_tls_or_token
from tppo.streams import StreamsError, StreamsUnavailable
from tppo.streams.connection import connect, without_password

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
REDIS_TIMEOUT_SECONDS = 3.0
SERVER_MEMORY_MB = 8  # of a server that holds nothing: itself, scripts, and its connections' buffers
LARGEST_PORT = 65535


@dataclass(frozen=True)
class NamedPort:
    """A port and the key that sets it."""

    key: str
    host: str
    number: int
    first: int
    """What the key says; each further process takes the next one."""


def check_run_folder(paths: RunPaths, *, resume: bool) -> None:
    """A new run needs a fresh name, a resumed one a checkpoint, and both a place where a folder can be made."""
    existing = next(folder for folder in (paths.folder, *paths.folder.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "may not be written to" if existing.is_dir() else "is no folder"
        raise ConfigError(
            f"run.directory = '{paths.folder.parent}': '{existing}' {reason}; "
            f"expected a place for the folder {paths.folder.name}"
        )
    has_checkpoint = CheckpointFolder(paths.checkpoints).newest() is not None
    if resume and not has_checkpoint:
        raise ConfigError(f"--resume: no checkpoint in {paths.checkpoints}; expected global_step_N there")
    if not resume and has_checkpoint:
        raise ConfigError(
            f"{paths.folder} holds a run with checkpoints; continue it by --resume, choose another name by "
            f"--set run.name=NAME, or remove the folder"
        )


def check_model(model: ModelSection) -> None:
    """The folders hold what transformers needs; the weights themselves are read by the processes that use them."""
    _check_model_folder("model.path", model.path)
    if not any((model.path / name).is_file() for name in TOKENIZER_FILES):
        raise ConfigError(f"model.path = {model.path}: no tokenizer there; expected {' or '.join(TOKENIZER_FILES)}")
    if model.critic_path is not None:
        _check_model_folder("model.critic_path", model.critic_path)


def check_data_files(files: Sequence[Path], *, key: str) -> None:
    """The files exist; the learner checks their rows."""
    for path in files:
        if not path.is_file():
            raise ConfigError(f"{key}: no such file {path}; expected parquet or JSONL")


def check_hosts(config: Config) -> None:
    """Addresses are this machine's; a process that listens beyond the loopback demands a token or certificates."""
    hosts: dict[str, str] = {Service.GENERATION: config.generation.host, Service.REWARD: config.reward.host}
    require_token_beyond_loopback(
        config.dashboard.host, token_from_environment(Service.DASHBOARD), key="dashboard.host"
    )
    if config.endpoint.enabled:
        require_token_beyond_loopback(
            config.endpoint.host, token_from_environment(Service.ENDPOINT), key="endpoint.host"
        )
    for service, host in hosts.items():
        require_tls_or_token(host, token_from_environment(Service(service)), key=f"{service}.host")
    WebCertificate.from_environment()
    if config.prometheus.enabled:
        metrics_token = metrics_token_from_environment()
        require_token_beyond_loopback(
            config.prometheus.host, metrics_token, key="prometheus.host", variable=METRICS_TOKEN_VARIABLE
        )
        hosts["prometheus"] = config.prometheus.host
    if config.endpoint.enabled:
        hosts["endpoint"] = config.endpoint.host
    for name, host in {**hosts, "dashboard": config.dashboard.host}.items():
        if reason := why_not(host, 0):
            raise ConfigError(
                f"{name}.host = {host!r}: cannot listen there: {reason}; expected an address of this machine"
            )


def check_ports(config: Config) -> None:
    """The ports that the configuration names are free, each for one process."""
    taken: dict[int, NamedPort] = {}
    for port in named_ports(config):
        other = taken.setdefault(port.number, port)
        if other.key != port.key and _overlap(other.host, port.host):
            raise ConfigError(
                f"{other.key} = {other.first} and {port.key} = {port.first}: two processes would listen on port "
                f"{port.number}, as each further process takes the next one; expected ports that do not overlap"
            )
        _check_port(port)


def named_ports(config: Config) -> list[NamedPort]:
    """The ports that processes will listen on, where they are configured; each replica has its own."""
    generation, reward = config.generation, config.reward
    num_with_metrics = generation.replicas + reward.replicas + 1 if config.prometheus.enabled else 0
    sections = (
        ("dashboard.port", config.dashboard, 1),
        ("generation.port", generation, generation.replicas),
        ("endpoint.port", config.endpoint, generation.replicas if config.endpoint.enabled else 0),
        ("reward.port", reward, reward.replicas),
        ("prometheus.port", config.prometheus, num_with_metrics),
    )
    return [
        NamedPort(key, section.host, section.port + number, section.port)
        for key, section, num_processes in sections
        if section.port
        for number in range(num_processes)
    ]


def check_memory(config: Config) -> None:
    """The embedded server has room for every request that may be out, and for its answer."""
    limit, needed = config.redis.memory_limit_mb, needed_memory_mb(config)
    if limit < needed:
        raise ConfigError(
            f"redis.memory_limit_mb = {limit}: up to {config.run.max_windows_out} windows are out, each with a prompt "
            f"and a response of {config.run.max_prompt_length} + {config.run.max_response_length} tokens at most; "
            f"expected {needed} MiB or more"
        )


def needed_memory_mb(config: Config) -> int:
    """MiB that the streams of a run need at least: what is out, with four bytes a token, and eight for a new one."""
    run = config.run
    num_bytes = run.max_windows_out * (4 * (run.max_prompt_length + run.max_response_length) + 8 * run.window_length)
    return SERVER_MEMORY_MB + math.ceil(num_bytes / 2**20)


def check_redis(config: Config) -> None:
    """The server that the user has named answers, is new enough, and forgets nothing of what it is given."""
    url = given_redis(config)
    try:
        memory = asyncio.run(_memory_of_redis(url))
    except StreamsUnavailable as error:
        raise ConfigError(f"redis.url = {without_password(url)!r}: no answer from the server: {error}") from None
    except (ValueError, StreamsError) as error:
        raise ConfigError(refusal(url, error)) from None

    limit_mb, policy = int(memory["maxmemory"]) // 2**20, str(memory["maxmemory_policy"])
    place = f"redis.url = {without_password(url)!r}"
    if memory["maxmemory"] and policy.startswith("allkeys"):
        raise ConfigError(
            f"{place}: the server's maxmemory-policy is {policy}, which deletes keys; expected noeviction"
        )
    if memory["maxmemory"] and limit_mb < (needed := needed_memory_mb(config)):
        raise ConfigError(f"{place}: the server's maxmemory is {limit_mb} MiB; expected {needed} MiB or more, or 0")


async def _memory_of_redis(url: str) -> dict[str, Any]:
    async with await connect(url, timeout_seconds=REDIS_TIMEOUT_SECONDS) as client:
        return dict(await client.info("memory"))


def check_devices(config: Config) -> None:
    """The GPUs that the placement numbers are among those that this process is shown."""
    for child in ("learner", *(f"generation-{replica}" for replica in range(config.generation.replicas))):
        device_environment(config, child, os.environ)


def check_with_processes(
    config_path: Path,
    *,
    resume: bool = False,
    checks_generation: bool = False,
    python: Path | None = None,
    gpus: Gpus | None = None,
) -> list[str]:
    """Let the processes that own them check the data and the reward functions, in parallel; the learner's notes.

    The reward service then scores the first row of each function; on demand a generator, started by `python`, checks
    its engine. Raises `ConfigError` with the first refusal.
    """
    first_rows = config_path.with_name("first_rows.jsonl")
    options = [*(["--resume"] if resume else []), *([f"--gpus={gpus}"] if gpus else [])]
    learner = _checking("learner", config_path, "--first-rows", str(first_rows), *options)
    reward = _checking("reward", config_path, "--score", "-")
    generation = _checking("generation", config_path, python=python) if checks_generation else None
    notes, complaint = learner.communicate()
    _, complaint_of_reward = reward.communicate(first_rows.read_text() if first_rows.exists() else "")
    _, complaint_of_generation = generation.communicate() if generation else ("", "")
    _require_success("learner", learner.returncode, complaint)
    _require_success("reward", reward.returncode, complaint_of_reward)
    _require_success("generation", generation.returncode if generation else 0, complaint_of_generation)
    return notes.splitlines()


def _checking(verb: str, config_path: Path, *options: str, python: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        tppo_command(verb, str(config_path), "--check", *options, python=python),
        env={**os.environ, **environment_of_python(python)},
        stdin=subprocess.PIPE if verb == "reward" else subprocess.DEVNULL,
        stdout=subprocess.PIPE if verb == "learner" else subprocess.DEVNULL,  # users' modules may print
        stderr=subprocess.PIPE,
        text=True,
    )


def _require_success(verb: str, exit_code: int, complaint: str) -> None:
    if exit_code != 0:
        no_message = f"tppo {verb} --check exited with code {exit_code} and no message"
        lines = [line for line in complaint.splitlines() if line.strip()]
        raise ConfigError(lines[-1].removeprefix(f"tppo {verb}: ") if lines else no_message)


def _ways_to_get(path: Path) -> str:
    """How a model of the Hub becomes a folder; a name of the Hub is known by its organisation, which is no folder."""
    name = "NAME" if path.parent.is_dir() else f"{path.parent.name}/{path.name}"
    return (
        f". For a model of the Hugging Face Hub: tppo download {name} (or: hf download {name} --local-dir "
        f"models/{name}), then model.path = models/{name}"
    )


def _check_model_folder(key: str, path: Path) -> None:
    if not path.is_dir():
        raise ConfigError(
            f"{key} = {path}: no such folder; expected a model that transformers loads{_ways_to_get(path)}"
        )
    if not (path / "config.json").is_file():
        raise ConfigError(f"{key} = {path}: no config.json there; expected a model that transformers loads")


def _overlap(*hosts: str) -> bool:
    """Whether a port of one address is one of the other's."""
    addresses = {"127.0.0.1" if host == "localhost" else host for host in hosts}
    return len(addresses) == 1 or bool(addresses & {"0.0.0.0", "::"})


def _check_port(port: NamedPort) -> None:
    if port.number > LARGEST_PORT:
        raise ConfigError(f"{port.key} = {port.number}: expected at most {LARGEST_PORT}, for the last process too")
    listener(port.host, port.number, key=port.key).close()
