"""Builds a learner from its configuration: models, data, and the state of a checkpoint; then its service."""

import logging
from array import array
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from learner.data.prompts import ReadPrompts
from learner.data.shape import DataError
from learner.data.tokenizer import prompt_readers
from learner.evaluation_rounds import EvaluationRounds
from learner.exchange.peers import Peers
from learner.exchange.score_failures import ScoreFailures
from learner.models.loading.inspection import require_adaptable, require_dividable, require_trainable
from learner.networks import load_own_models
from learner.parts import Parts
from learner.persistence import rollback
from learner.persistence.checkpoint import Checkpoints
from learner.persistence.checkpoint_writer import CheckpointWriter, trim_behind_checkpoint
from learner.persistence.deferred_weights import DeferredWeights
from learner.persistence.definition import fingerprints, with_values
from learner.persistence.manifest import DamagedError
from learner.persistence.run_identity import RunIdentity
from learner.preflight import log_warnings, require_reward_functions
from learner.ranks.team import ALONE, Beginning, Team
from learner.reporting.completions_log import CompletionsLog
from learner.reporting.generation_watch import SETTLING_SECONDS, GenerationWatch
from learner.reporting.journal import JournalWriter
from learner.reporting.metrics_log import MetricsLog
from learner.reporting.run_log import RunLog
from learner.reporting.trace_writer import TraceWriter
from learner.rollouts.manager import RolloutManager, open_manager
from learner.rollouts.requests import RequestRules
from learner.service import LearnerService
from learner.state import LearnerState, definition_of, new_state, restore
from tppo.config import Config, ConfigError
from tppo.digests import UnreadableHereError
from tppo.models.tokenizer import load_tokenizer, stop_token_ids, vocabulary_size
from tppo.run_folder.checkpoints import step_of
from tppo.run_folder.metric_lines import read_metric_lines
from tppo.run_folder.paths import RunPaths
from tppo.security.envelope import PLAIN, Records
from tppo.streams import Streams, until_redis_answers
from tppo.streams.contract import BEGINNING

logger = logging.getLogger(__name__)


def load_state(
    config: Config,
    identity: RunIdentity,
    *,
    resume: bool,
    is_replay: bool = False,
    team: Team = ALONE,
    records: Records = PLAIN,
) -> LearnerState:
    """Of the run's newest complete checkpoint when there is one. Raises `ConfigError`. `records`: of its inbox.

    What differs from the checkpoint's settings is applied at its place in the inbox; a replay finds it there.
    """
    checkpoints = Checkpoints(
        RunPaths(identity.folder).checkpoints, keep=config.checkpoint.keep, require_right=identity.require_current
    )
    try:
        latest = checkpoints.usable()
    except DamagedError as error:
        raise ConfigError(f"{error}; expected a whole checkpoint, or another run.name") from None
    except UnreadableHereError as error:
        raise ConfigError(str(error)) from None
    checkpoints.restore_best(read_metric_lines(RunPaths(identity.folder).metrics))
    if latest is None:
        logger.info("no checkpoint yet; the run starts from scratch and reads its inbox from the beginning")
    if latest is not None and not resume:
        raise ConfigError(
            f"{identity.folder} holds checkpoints; expected --resume, another run.name, or no such folder"
        )
    log_warnings(config)
    tokenizer = load_tokenizer(config.model.path)
    require_trainable(config.model, router_aux_loss_coef=config.actor.router_aux_loss_coef)
    require_adaptable(config)
    require_dividable(config)
    definition = definition_of(config, latest, fingerprints(config))
    restored = with_values(config, definition.settings)
    manager = new_manager(restored, tokenizer).reading(records)  # refuses bad rows before models are loaded
    restored_step = None if latest is None else step_of(latest)
    roles = team.begin(Beginning(identity.incarnation, restored_step, definition.settings))
    models = load_own_models(restored, latest, roles)
    state = new_state(
        restored,
        definition,
        checkpoints,
        tokenizer,
        models=models,
        manager=manager,
        wanted=None if is_replay else config,
        team=team,
        roles=roles,
    )
    if latest is not None:
        restore(state, latest)
    return state


async def make_room(state: LearnerState, folder: Path, streams: Streams) -> None:
    """Delete what the restored state makes superfluous: a full server, in which nobody can write, has room again.

    After a rollback that is everything, as it belongs to steps that were rolled back; else the records that the
    checkpoint covers, as an earlier learner may have ended between the checkpoint and the trim.
    """
    if rollback.is_unfinished(folder):
        num_discarded = await until_redis_answers(streams.discard, "discarding what was rolled back")
        state.manager.ledger.duplicates["rolled back"] += num_discarded
        rollback.finish(folder)
        logger.info("discarded %d requests and records of the steps that were rolled back", num_discarded)
    elif state.progress.inbox_position != BEGINNING:
        await trim_behind_checkpoint(streams.inbox, state.progress.inbox_position)


def learner_service(
    config: Config,
    identity: RunIdentity,
    state: LearnerState,
    streams: Streams,
    peers: Peers,
    *,
    writer: Callable[..., CheckpointWriter] = CheckpointWriter,
    until_step: int | None = None,
    settling_seconds: float = SETTLING_SECONDS,
    failures: ScoreFailures | None = None,
) -> LearnerService:
    """The learner on these streams, with the files in its run's folder."""
    run_log = _run_log(config, identity, state, peers, settling_seconds=settling_seconds)
    parts = Parts(
        streams=streams,
        peers=peers,
        manager=state.manager,
        trainer=state.trainer,
        steering=state.steering,
        checkpoints=writer(
            state.checkpoints,
            state.trainer,
            state.tokenizer,
            save_freq=config.checkpoint.save_freq,
            inbox=streams.inbox,
            traces=run_log.traces,
            journal=run_log.journal,
            definition=state.reconfiguration.definition,
        ),
        rounds=EvaluationRounds(
            lambda: state.reconfiguration.config,
            state.manager.evaluator,
            state.trainer,
            DeferredWeights(RunPaths(identity.folder).deferred),
        ),
        run_log=run_log,
        failures=failures or ScoreFailures(config.max_consecutive_failures),
        reconfiguration=state.reconfiguration,
        team=state.team,
    )
    return LearnerService(identity, parts, state.progress, until_step=until_step)


def _run_log(
    config: Config, identity: RunIdentity, state: LearnerState, peers: Peers, *, settling_seconds: float
) -> RunLog:
    """Metrics, journal, traces and completions in the run's folder, continued after the restored step."""
    paths, step, require_right = RunPaths(identity.folder), state.progress.step, identity.require_current
    return RunLog(
        state.manager.ledger,
        metrics_log=MetricsLog(
            paths.metrics, through_step=step, require_right=require_right, on_line=peers.on_metrics_line
        ),
        journal=JournalWriter(paths.journal),
        traces=TraceWriter(paths.traces, through_step=step, require_right=require_right),
        completions=CompletionsLog(
            paths.completions,
            every=config.trace.log_completions,
            decode=state.manager.ledger.decode,
            require_right=require_right,
        ),
        generation=GenerationWatch(peers.generation_totals, is_resumed=step > 0, settling_seconds=settling_seconds),
        is_evaluation_deferred=config.evaluation.after_training,
        num_skipped_prompts=state.manager.num_skipped_prompts,
    )


def read_prompts(config: Config, tokenizer: PreTrainedTokenizerBase) -> tuple[ReadPrompts, ReadPrompts]:
    """(training prompts, evaluation prompts). Raises `ConfigError`."""
    reader, evaluation_reader = prompt_readers(config, tokenizer)
    try:
        train = reader.read(config.data.train_files)
        evaluation = evaluation_reader.read(config.data.val_files)
    except DataError as error:
        raise ConfigError(str(error)) from None
    require_reward_functions(config, (prompt.data_source for prompt in (*train.prompts, *evaluation.prompts)))
    return train, evaluation


def new_manager(config: Config, tokenizer: PreTrainedTokenizerBase) -> RolloutManager:
    """Everything known of rollouts before the run begins. Raises `ConfigError`."""
    train, evaluation = read_prompts(config, tokenizer)
    rules = RequestRules.of(
        config.run,
        config.generation,
        config.evaluation,
        max_score_attempts=config.reward.max_attempts,
        stop_token_ids=stop_token_ids(config.model.path, tokenizer),
    )

    def decode(token_ids: "array[int]") -> str:
        return str(tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))

    return open_manager(
        config.run,
        config.data,
        rules,
        num_cohort_steps=config.critic.warmup_steps,
        prompts=train.prompts,
        evaluation_prompts=evaluation.prompts,
        num_evaluation_samples=config.evaluation.samples_per_prompt,
        num_skipped_prompts=train.num_skipped + evaluation.num_skipped,
        decode=decode,
        vocabulary_size=vocabulary_size(config.model.path),
    )
