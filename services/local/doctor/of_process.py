"""Checks for one process of a run, where it is about to start: nothing is imported that its image does not have.

The process starts all the same, and refuses by itself what it cannot do without; here is said what it would only suffer
from, and what its own message leaves open.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from services.local import preflight
from services.local.doctor import machine, surroundings
from services.local.doctor.diagnosis import Check, Diagnosis, Severity, diagnoses_of, refusal
from tppo.config import Config, ConfigError, add_config_arguments, config_from_arguments
from tppo.security.redis_address import given_redis

PACKAGES = {
    "generation": ("torch", "transformers", "grpcio", "redis", "uvicorn"),
    "reward": ("grpcio", "redis", "sympy"),
    "learner": ("torch", "transformers", "safetensors", "pyarrow", "grpcio", "redis"),
    "dashboard": ("fastapi", "uvicorn", "pyarrow", "redis"),
}
COMPUTING = ("generation", "learner")
CODE = "code"


def wrong_before(words: Sequence[str]) -> list[Diagnosis]:
    """What is wrong; `words`: the command line of the process, behind `tppo`. Raises `ConfigError`."""
    role, *rest = words or [""]
    if role not in PACKAGES:
        raise ConfigError(f"--before {role}: expected one of {', '.join(PACKAGES)}, and the arguments of that process")
    parser = argparse.ArgumentParser(prog=f"tppo doctor --before {role}", add_help=False)
    add_config_arguments(parser)
    config = config_from_arguments(parser.parse_known_args(rest)[0])
    return [one for one in diagnoses_of(checks_of_process(role, config)) if one.state is not Severity.OK]


def checks_of_process(role: str, config: Config) -> list[tuple[str, Check]]:
    """In the order of their importance for it."""
    return [
        ("Python", partial(machine.python, PACKAGES[role])),
        ("limits", machine.limits),
        ("Redis", partial(_redis, config)),
        *(_of_computing(role, config) if role in COMPUTING else []),
        *(_of_learner(config) if role == "learner" else []),
        *(_of_reward(config) if role == "reward" else []),
    ]


def _redis(config: Config) -> Iterator[Diagnosis]:
    """None where no address is given: the process finds it in the run's folder, or says so."""
    if url := given_redis(config):
        yield from surroundings.redis(url)


def _of_computing(role: str, config: Config) -> list[tuple[str, Check]]:
    is_several = config.generation.engine == "vllm" if role == "generation" else config.learner.num_processes > 1
    return [
        ("threads", machine.threads),
        *([("shared memory", machine.shared_memory)] if is_several else []),
        *([("devices", machine.devices)] if machine.has_nvidia_driver() else []),
        ("model", lambda: refusal("model", str(config.model.path), lambda: preflight.check_model(config.model))),
    ]


def _of_learner(config: Config) -> list[tuple[str, Check]]:
    files = {"data.train_files": config.data.train_files, "data.val_files": config.data.val_files}
    return [
        ("disk", partial(machine.disk, Path(config.run.path), measures_speed=False)),
        *((key, partial(data_files, key, paths)) for key, paths in files.items()),
    ]


def _of_reward(config: Config) -> list[tuple[str, Check]]:
    if CODE not in config.reward.functions.values():
        return []
    return [("isolation", partial(surroundings.isolation, is_needed=True))]


def data_files(key: str, paths: Sequence[Path]) -> Iterator[Diagnosis]:
    """They are there; the learner reads their rows."""
    yield from refusal(key, f"{len(paths)} file(s)", lambda: preflight.check_data_files(paths, key=key))
