"""Puts a learner together from its configuration: models, data, manager, and the state of a checkpoint."""

import logging
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from learner.exchange.peers import Peers
from learner.exchange.weight_publisher import WeightPublisher
from learner.models.networks import Policy, ValueModel, load_policy, load_value_model, value_model_from_policy
from learner.parts import Parts
from learner.persistence import checkpoint, rollback
from learner.persistence.checkpoint import Checkpoints
from learner.persistence.checkpoint_writer import CheckpointWriter
from learner.persistence.deferred_weights import DeferredWeights
from learner.persistence.manifest import DamagedError
from learner.persistence.run_identity import RunIdentity
from learner.preflight import require_reward_functions
from learner.reporting.generation_watch import GenerationWatch
from learner.reporting.journal import JournalWriter
from learner.reporting.metrics_log import MetricsLog
from learner.reporting.trace_writer import TraceWriter
from learner.rollouts import ledger_state
from learner.rollouts.manager import RolloutManager, open_manager
from learner.rollouts.prompts import DataError, Prompt, PromptReader, Tokenizer
from learner.rollouts.requests import RequestRules
from learner.service import LearnerService
from learner.steering import Steering
from learner.step.progress import TrainingProgress
from learner.step.trainer import Trainer
from tppo.config import Config, ConfigError
from tppo.run_folder.paths import RunPaths
from tppo.streams import Streams
from tppo.streams.contract import BEGINNING

logger = logging.getLogger(__name__)


class Assembly:
    """One life of the learner, ready to be connected to its streams."""

    def __init__(self, config: Config, identity: RunIdentity, *, resume: bool) -> None:
        self._config = config
        self._identity = identity
        self._folder = folder = identity.folder
        self._checkpoints = Checkpoints(
            RunPaths(folder).checkpoints, keep=config.checkpoint.keep, require_right=identity.require_current
        )
        try:
            latest = self._checkpoints.usable()
        except DamagedError as error:
            raise ConfigError(f"{error}; expected a whole checkpoint, or another run.name") from None
        if resume and latest is None:
            logger.info("no checkpoint yet; the run begins anew and re-reads its inbox")
        if latest is not None and not resume:
            raise ConfigError(f"{folder} holds checkpoints; expected --resume, another run.name, or no such folder")
        self._tokenizer = load_tokenizer(config)
        self._trainer = Trainer(config, *load_models(config, latest))
        self._manager = new_manager(config, self._tokenizer)
        self._steering = Steering(config, self._manager, self._trainer, self._checkpoints)
        self._progress = TrainingProgress(step=0, inbox_position=BEGINNING, elapsed_seconds=0.0, tokens_trained=0)
        if latest is not None:
            self._restore(latest)

    @property
    def step(self) -> int:
        """Training steps that the restored checkpoint knows of."""
        return self._progress.step

    async def discard_what_was_rolled_back(self, streams: Streams) -> None:
        """After a return to an older checkpoint: what the streams hold belongs to a future that will not be."""
        if rollback.is_unfinished(self._folder):
            num_discarded = await streams.discard()
            self._manager.ledger.duplicates["rolled back"] += num_discarded
            rollback.finish(self._folder)
            logger.info("discarded %d requests and records of the steps that were rolled back", num_discarded)

    def service(
        self,
        streams: Streams,
        outside: Peers,
        *,
        writer: Callable[..., CheckpointWriter] = CheckpointWriter,
        until_step: int | None = None,
    ) -> LearnerService:
        """The learner on these streams."""
        paths = RunPaths(self._folder)
        step, require_right = self._progress.step, self._identity.require_current
        traces = TraceWriter(paths.traces, through_step=step, require_right=require_right)
        journal = JournalWriter(paths.journal, is_new_run=self._progress.step == 0)
        parts = Parts(
            streams=streams,
            manager=self._manager,
            trainer=self._trainer,
            publisher=WeightPublisher(outside.transport, outside.find_generators),
            checkpoints=writer(
                self._config.checkpoint,
                self._checkpoints,
                streams.inbox,
                self._trainer,
                self._tokenizer,
                traces=traces,
                journal=journal,
            ),
            traces=traces,
            metrics_log=MetricsLog(
                paths.metrics, through_step=step, require_right=require_right, tell=outside.on_metrics_line
            ),
            journal=journal,
            steering=self._steering,
            deferred_weights=DeferredWeights(paths.deferred),
            announce=outside.announce,
            generation=GenerationWatch(outside.generation_totals, is_resumed=self._progress.step > 0),
            everyone=outside.everyone,
            until_step=until_step,
        )
        return LearnerService(self._config, self._identity, parts, self._progress)

    def _restore(self, path: Path) -> None:
        restored = checkpoint.read(path)
        self._trainer.load_state_dict(restored.optimizers)
        ledger_state.restore(self._manager, restored.ledger)
        self._progress = restored.progress
        self._steering.restore(restored.progress.step)
        logger.info("resumed from %s", path)


def load_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """The policy's tokenizer. Raises `ConfigError`."""
    path = config.model.path
    if not path.is_dir():
        raise ConfigError(f"model.path = '{path}': no such folder; expected a model that transformers loads")
    try:
        AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path = '{path}': {_first_line(error)}; expected a model's config.json") from None
    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ConfigError(f"model.path = '{path}': no tokenizer; expected tokenizer.json or another tokenizer's files")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    return tokenizer


def stop_token_ids(config: Config, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a response: the model's own, and the tokenizer's."""
    found: set[int] = set()
    if (config.model.path / "generation_config.json").exists():
        eos = GenerationConfig.from_pretrained(config.model.path).eos_token_id
        found.update([eos] if isinstance(eos, int) else eos or [])
    if isinstance(tokenizer.eos_token_id, int):
        found.add(tokenizer.eos_token_id)
    if not found:
        raise ConfigError(f"model.path = '{config.model.path}': no end-of-sequence token; expected eos_token_id")
    return tuple(sorted(found))


def read_prompts(config: Config, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Prompt], list[Prompt]]:
    """(training prompts, evaluation prompts). Raises `ConfigError`."""
    reader = PromptReader(config.data, cast(Tokenizer, tokenizer), config.run.max_prompt_length)
    try:
        train = reader.read(config.data.train_files)
        evaluation = reader.read(config.data.val_files) if config.data.val_files else []
    except DataError as error:
        raise ConfigError(str(error)) from None
    require_reward_functions(config, (prompt.data_source for prompt in (*train, *evaluation)))
    return train, evaluation[: config.evaluation.num_prompts]


def load_models(config: Config, latest: Path | None) -> tuple[Policy, ValueModel]:
    """Policy and value model, from the newest checkpoint or from where the configuration says."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.model.device == "auto" else config.model.device
    dtype = getattr(torch, config.model.dtype)
    actor = str(config.model.path if latest is None else latest / "actor")
    policy = load_policy(actor, dtype=dtype, device=device)
    if latest is not None:
        return policy, load_value_model(str(latest / "critic"), dtype=dtype, device=device)
    if config.model.critic_path is not None:
        return policy, load_value_model(str(config.model.critic_path), dtype=dtype, device=device)
    return policy, value_model_from_policy(actor, dtype=dtype, device=device)


def new_manager(config: Config, tokenizer: PreTrainedTokenizerBase) -> RolloutManager:
    """Everything known of rollouts before the run begins. Raises `ConfigError`."""
    train, evaluation = read_prompts(config, tokenizer)
    rules = RequestRules.of(
        config.run,
        config.generation,
        config.evaluation,
        max_score_attempts=config.reward.max_attempts,
        stop_token_ids=stop_token_ids(config, tokenizer),
    )

    def decode(token_ids: "array[int]") -> str:
        return str(tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))

    return open_manager(config.run, config.data, rules, prompts=train, evaluation_prompts=evaluation, decode=decode)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
