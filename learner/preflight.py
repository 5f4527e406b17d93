"""What the learner can refuse before anything starts, without loading a model: rows, tokenizer, reward functions."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from learner.data.shape import DataError
from learner.parallel.process_counts import ProcessCounts
from learner.persistence.definition import fingerprints, require_resumable
from learner.persistence.definition import read as read_definition
from learner.ranks.place import too_few_gpus
from learner.reporting.trackers import trackers
from learner.rollouts.prompts import Prompt
from tppo.config import Config, ConfigError
from tppo.config.sections.devices import Gpus
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.json_files import DamagedFileError
from tppo.run_folder.paths import RunPaths

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run that may start is worth saying about."""

    notes: list[str]
    first_rows: list[Prompt]
    """The first for each reward function."""


def check(config: Config, *, resume: bool = False, gpus: Gpus | None = None) -> Findings:
    """Read every row as the run would, and keep none but the first for each reward function; `gpus`: of the machine
    that it will run on, where that is another one.

    Raises `ConfigError` at the first row that cannot be used or scored, for a tracker or a device that is not here, and
    where a run that is to be resumed is another one.
    """
    trackers.check(config.trackers)
    log_warnings(config)
    from learner.data.tokenizer import prompt_readers  # transformers takes seconds to import
    from learner.models.loading.inspection import (
        require_adaptable,
        require_dividable,
        require_trainable,
        require_whole_weights,
    )
    from tppo.models.adapters import Lora
    from tppo.models.tokenizer import load_tokenizer

    notes = _check_devices(config, gpus)
    if config.learner.compile and gpus is None:
        _require_compiler(config)
    reader, evaluation_reader = prompt_readers(config, load_tokenizer(config.model.path))
    require_trainable(config.model, router_aux_loss_coef=config.actor.router_aux_loss_coef)
    require_adaptable(config)
    require_dividable(config)
    has_adapters = any(Lora.of(section) for section in (config.actor, config.critic))
    if gpus is None and (has_adapters or not resume):  # which reads the weights of a checkpoint
        require_whole_weights(config.model)
    train, evaluated = reader.overlong("data.train_files"), evaluation_reader.sets(config.data.val_files)
    first: dict[str, Prompt] = {}  # of each data source
    try:
        for _, prompt in reader.stream(config.data.train_files, train):
            first.setdefault(prompt.data_source, prompt)
        for prompt in evaluation_reader.stream(evaluated):
            first.setdefault(prompt.data_source, prompt)
    except DataError as error:
        raise ConfigError(str(error)) from None
    if resume:
        _require_resumable(config)
    require_reward_functions(config, first)
    return Findings(
        [*notes, *(f"{one}; skipped" for one in (train, *(found.overlong for found in evaluated)) if one.num_too_long)],
        list({config.reward.function_of(prompt.data_source): prompt for prompt in reversed(first.values())}.values()),
    )


def _check_devices(config: Config, gpus: Gpus | None) -> list[str]:
    """Those of the generators, too: a run that starts them starts them beside the learner."""
    from tppo.models.device import accelerators, chosen_device, require_numbers

    there = accelerators() if gpus is None else gpus.names
    require_numbers(config.placement, there)
    placements = (config.policy_placement, config.value_model_placement, config.generator_placement)
    of_policy, of_value_model, of_generators = (
        chosen_device(one.device, there, key=one.device_key) for one in placements
    )
    devices = {of_policy, of_value_model, of_generators}
    _require_gpu_for_each(config, there, of_policy, of_value_model)
    if len(there) < 2 or devices != {"cuda"} or config.placement.policy is not None:
        return []
    return [f"{len(there)} GPUs are there, and all processes use the first one; [placement] divides them"]


def _require_gpu_for_each(config: Config, there: Sequence[str], of_policy: str, of_value_model: str) -> None:
    """Of the learner's processes, where no key names one."""
    counts = ProcessCounts(config.learner.num_processes, config.critic.num_processes)
    num_of_value_model = counts.of_value_model if of_value_model == "cuda" else 0
    num_on_gpus = num_of_value_model + (counts.of_policy if of_policy == "cuda" else 0)
    if config.placement.policy is None and counts.total > 1 and num_on_gpus > len(there):
        raise ConfigError(too_few_gpus(counts, num_here=num_on_gpus, num_gpus=len(there)))


def _require_compiler(config: Config) -> None:
    import torch

    from learner.models.weights.compilation import CompilationError, require_compiler
    from tppo.models.device import torch_device

    for placement in (config.policy_placement, config.value_model_placement):
        try:
            require_compiler(torch.device(torch_device(placement)))
        except CompilationError as error:
            raise ConfigError(f"learner.compile = true: {error}") from None


def _require_resumable(config: Config) -> None:
    """By the newest checkpoint whose definition can be read: a resume takes the one before a damaged one."""
    folder = CheckpointFolder(RunPaths(config.run.path).checkpoints)
    newest_step = folder.newest_step()
    for step in reversed(folder.kept_steps()):
        if newest_step is None or step > newest_step:
            continue
        try:
            definition = read_definition(folder.of_step(step))
        except DamagedFileError as error:
            logger.warning("%s; checked against the checkpoint before", error)
            continue
        require_resumable(definition, config, data=fingerprints(config), step=step)
        break


def request_line(prompt: Prompt) -> str:
    """The row with its answer as the response, in the form that `tppo score` reads."""
    return json.dumps(
        {
            "data_source": prompt.data_source,
            "prompt": prompt.text,
            "response": prompt.ground_truth,
            "ground_truth": prompt.ground_truth,
            "extra_info": json.loads(prompt.extra_info),
        }
    )


def log_warnings(config: Config) -> None:
    """Say what is allowed but may not be meant."""
    for warning in config.warnings:
        logger.warning("%s", warning)


def require_reward_functions(config: Config, data_sources: Iterable[str]) -> None:
    """Every data source must have somebody who scores it."""
    missing = sorted(set(data_sources) - config.reward.functions.keys())
    if missing and not config.reward.default_function:
        raise ConfigError(
            f"data_source {missing[0]!r} has no reward function; expected it in [reward.functions], "
            "or reward.default_function"
        )
