"""Checks for one configuration: each by itself, so that all that is wrong is said at once, and not the first of it."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from services.local import preflight
from services.local.doctor import machine, surroundings
from services.local.doctor.diagnosis import Check, Diagnosis, ok, problem, refusal, warning
from services.local.doctor.of_process import CODE, data_files
from services.local.hardware.memory import memory_lines
from services.local.hardware.model_shapes import stored_parameters
from tppo.config import Config, ConfigError, dump
from tppo.config.sections.services import DASHBOARD_PORTS
from tppo.process.listening import first_free
from tppo.security.redis_address import given_redis

BYTES_PER_PARAMETER = 24  # of a checkpoint: weights and two moments of both models


def checks_of_machine(folder: Path, url: str) -> list[tuple[str, Check]]:
    """Those that need no configuration."""
    return [
        *_of_any_machine(),
        ("disk", lambda: machine.disk(folder)),
        ("Redis", lambda: surroundings.redis(url)),
        ("ports", dashboard_port),
        ("vLLM", lambda: surroundings.vllm(None, is_needed=False)),
        ("isolation", lambda: surroundings.isolation(is_needed=False)),
    ]


def checks_of_run(config: Config) -> list[tuple[str, Check]]:
    """Those of the machine, as this run needs it, and of the run itself."""
    generation = config.generation
    files = {"data.train_files": config.data.train_files, "data.val_files": config.data.val_files}
    return [
        *_of_any_machine(),
        ("placement", lambda: _placement(config)),
        ("devices of the run", lambda: _devices(config)),
        ("memory", lambda: _memory(config)),
        ("disk", lambda: machine.disk(Path(config.run.path), needed=_checkpoint_bytes(config))),
        ("Redis", lambda: surroundings.redis(given_redis(config))),
        ("ports", lambda: refusal("ports", "free", lambda: preflight.check_ports(config))),
        ("addresses", lambda: refusal("addresses", "usable", lambda: preflight.check_hosts(config))),
        ("vLLM", lambda: surroundings.vllm(generation.python, is_needed=generation.engine == "vllm")),
        ("isolation", lambda: surroundings.isolation(is_needed=CODE in config.reward.functions.values())),
        ("model", lambda: refusal("model", str(config.model.path), lambda: preflight.check_model(config.model))),
        *((key, partial(data_files, key, paths)) for key, paths in files.items()),
        ("rows and rewards", lambda: _rows_and_rewards(config)),
    ]


def _of_any_machine() -> list[tuple[str, Check]]:
    return [
        ("Python", machine.python),
        ("devices", machine.devices),
        ("limits", machine.limits),
        ("threads", machine.threads),
        ("shared memory", machine.shared_memory),
    ]


def dashboard_port() -> Iterator[Diagnosis]:
    """One of those that a run takes where none is named."""
    try:
        with first_free("127.0.0.1", DASHBOARD_PORTS, key="dashboard.port") as found:
            port = found.getsockname()[1]
    except ConfigError as error:
        yield problem("ports", str(error), "end an old run, or set dashboard.port")
        return
    first = DASHBOARD_PORTS[0]
    yield ok("ports", f"{port} is free" if port == first else f"{first} is taken, a run's dashboard takes {port}")


def _placement(config: Config) -> Iterator[Diagnosis]:
    """GPUs by number: that this shell shows them, and that the machine has them."""
    placement = config.placement
    if placement.policy is None:
        yield ok("placement", "none; every process chooses its device by its own key")
        return

    def check() -> None:
        from tppo.models.device import accelerators, require_numbers

        preflight.check_devices(config)
        require_numbers(placement, accelerators())

    own = placement.policy
    found = f"policy {own}, value model {placement.value_model or own}, generators {placement.generation or own}"
    yield from refusal("placement", f"GPUs: {found}", check)


def _devices(config: Config) -> Iterator[Diagnosis]:
    from tppo.models.device import torch_device

    places = {
        "policy": config.policy_placement,
        "value model": config.value_model_placement,
        "generators": config.generator_placement,
    }
    for role, placement in places.items():
        found = f"{placement.device}, {placement.compute_dtype}"
        yield from refusal(f"device of {role}", found, partial(torch_device, placement))


def _memory(config: Config) -> Iterator[Diagnosis]:
    if not (config.model.path / "config.json").is_file():
        return  # the model's own check says it
    for line in memory_lines(config):
        if "more than there is" in line:
            yield warning("memory", line, "fewer slots, a smaller micro-batch, bfloat16, or LoRA: docs/memory.md")
        elif " of the " in line:
            yield ok("memory", line)


def _checkpoint_bytes(config: Config) -> int:
    """Of all checkpoints that are kept at once, and one that is being written."""
    if not config.model.path.is_dir():
        return machine.TOO_LITTLE_DISK
    size = BYTES_PER_PARAMETER * stored_parameters(config.model.path)
    return max(machine.TOO_LITTLE_DISK, size * (config.checkpoint.keep + 1))


def _rows_and_rewards(config: Config) -> Iterator[Diagnosis]:
    """By the processes that own them: every row is read, and each function scores one."""

    def check() -> None:
        with tempfile.TemporaryDirectory(prefix="tppo-doctor-") as scratch:
            resolved = Path(scratch) / "config.toml"
            resolved.write_text(dump(config), encoding="utf-8")
            preflight.check_with_processes(resolved)

    yield from refusal("rows and rewards", "every row can be read, and each function scores one", check)
