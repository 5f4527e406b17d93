"""Policy and value model of a run: from its newest checkpoint, or from where the configuration says."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from learner.models.loading.loading import (
    load_policy,
    load_value_model,
    value_model_from_policy,
    value_model_on_body_of,
)
from learner.models.loading.reading import WeightsError
from learner.models.passes.outputs import Policy, ValueModel
from learner.models.weights.activation_checkpointing import checkpoint_blocks
from learner.models.weights.adapters import Adapters, Body
from learner.models.weights.compilation import CompilationError, compile_policy, compile_value_model
from learner.parallel.group import ALONE, Group
from learner.parallel.roles import Roles
from learner.persistence.network_folders import adapters_for
from learner.step.turns import Device, Participant
from tppo.config import Config, ConfigError
from tppo.config.sections.placement import Placement
from tppo.models.adapters import AdapterError, Lora, body_digest
from tppo.models.device import torch_device
from tppo.models.probe import ProbeError

logger = logging.getLogger(__name__)


Models = tuple[Policy | None, ValueModel | None]
"""None for one that other processes have."""


def load_models(
    config: Config,
    latest: Path | None,
    *,
    device_of: Callable[[str], Device] = Device.of,
    group: Group = ALONE,
) -> tuple[Policy, ValueModel]:
    """Policy and value model, from the newest checkpoint or from where the configuration says. Raises `ConfigError`.

    Of models with adapters, a checkpoint has the adapters alone. `group`: the ranks that train them together.
    """
    policy = _policy(config, latest, group)
    _prepare_blocks(config, policy)
    if config.learner.offload_idle_model:
        Participant(policy.weights).move(
            device_of(torch_device(config.policy_placement)).send_home
        )  # the value model comes to where it was
    value_model = _value_model(config, latest, group, policy=policy)
    _prepare_blocks(config, value_model)
    return policy, value_model


def load_own_models(config: Config, latest: Path | None, roles: Roles) -> Models:
    """As `load_models`, what this process is to train. Raises `ConfigError`."""
    if roles.policy is not None and roles.value_model is not None:
        return load_models(config, latest, group=roles.policy)
    if roles.policy is not None:
        policy = _policy(config, latest, roles.policy, device=str(roles.policy.device))
        _prepare_blocks(config, policy)
        return policy, None
    value_model = _value_model(config, latest, roles.own, device=str(roles.own.device))
    _prepare_blocks(config, value_model)
    return None, value_model


def _prepare_blocks(config: Config, model: Policy | ValueModel) -> None:
    """Recomputed in the backward pass, and compiled, as the configuration says. Raises `ConfigError`."""
    mode = config.learner.activation_checkpointing
    if not config.learner.compile:
        checkpoint_blocks(model.network, mode)
        return
    began = time.monotonic()
    try:
        if isinstance(model, Policy):
            compile_policy(model, mode)
        else:
            compile_value_model(model, mode)
    except CompilationError as error:
        raise ConfigError(f"learner.compile = true: {error}") from None
    logger.info("the blocks of %s compiled in %.0f s", type(model.network).__name__, time.monotonic() - began)


def _policy(config: Config, latest: Path | None, group: Group, *, device: str = "") -> Policy:
    placed, dtype = _device_and_dtype(config.policy_placement)
    adapters = _adapters(config, "actor", config.model.path, latest)
    folder = config.model.path if latest is None or adapters else latest / "actor"
    with _refused("model.path", config.model.path, None if adapters else latest):
        return load_policy(
            str(folder),
            temperature=config.generation.temperature,
            compute_dtype=dtype,
            device=device or placed,
            adapters=adapters,
            group=group,
        )


def _value_model(
    config: Config, latest: Path | None, group: Group, *, policy: Policy | None = None, device: str = ""
) -> ValueModel:
    """From a folder with a value head; else on the policy's body, with a head of zeros."""
    placed, dtype = _device_and_dtype(config.value_model_placement)
    body = config.model.critic_path or config.model.path
    adapters = _adapters(config, "critic", body, latest)
    critic = config.model.critic_path if latest is None or adapters else latest / "critic"
    key = "model.path" if critic is None else "model.critic_path"
    with _refused(key, critic or config.model.path, None if adapters else latest):
        if adapters and config.critic.share_body:
            assert policy is not None, "the configuration refuses a value model of its own"
            return value_model_on_body_of(policy, str(body), adapters=adapters)
        load = value_model_from_policy if critic is None else load_value_model
        return load(str(critic or body), compute_dtype=dtype, device=device or placed, adapters=adapters, group=group)


def _adapters(config: Config, key: str, folder: Path, latest: Path | None) -> Adapters | None:
    """None where all weights of the model train."""
    lora = Lora.of(getattr(config, key))
    body = Body(str(folder.absolute()), "" if lora is None else body_digest(folder))
    seed = config.run.seed + (key == "critic")
    return adapters_for(lora, body, key=key, seed=seed, checkpoint=None if latest is None else latest / key)


@contextmanager
def _refused(key: str, path: Path, latest: Path | None) -> Iterator[None]:
    """What is wrong with a model, with the place that it was read from."""
    try:
        yield
    except (WeightsError, ProbeError, AdapterError) as error:
        place = f"{key} = '{path}'" if latest is None else f"the checkpoint {latest}"
        raise ConfigError(f"{place}: {error}") from None


def _device_and_dtype(placement: Placement) -> tuple[str, torch.dtype]:
    return torch_device(placement), getattr(torch, placement.compute_dtype)
