"""Replays a run: a learner on the archived inbox, without peers."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from learner.build import learner_service, load_state
from learner.exchange.peers import Peers
from learner.exchange.score_failures import ScoreFailures
from learner.exchange.weight_publisher import FoundGenerator, Snapshot
from learner.models.loading.named_tensors import stored_tensors
from learner.parallel.process_counts import ProcessCounts
from learner.persistence.archive import archived_records_reader
from learner.persistence.checkpoint_writer import CheckpointWriter
from learner.persistence.run_identity import begin_incarnation
from learner.ranks.team import ALONE, Team
from learner.rollouts.manager import RolloutManager
from learner.service import LearnerService
from learner.step.progress import TrainingProgress
from tppo import weights
from tppo.config import Config, ConfigError
from tppo.digests import UnknownAlgorithmError, algorithm_of
from tppo.generation_totals import GenerationTotals
from tppo.process.presence import Presence
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths
from tppo.streams import MemoryStreams

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Comparison:
    """One checkpoint of the run against the replay's weights after the same step."""

    step: int
    is_same_actor: bool
    is_same_critic: bool
    counts: ProcessCounts  # of those that trained the run's


@dataclass(slots=True)
class ReplayResult:
    """How far a replay came, and what it found there."""

    reached_step: int
    comparisons: list[Comparison] = field(default_factory=list)
    ended_early: bool = False  # the archived inbox holds no further step


class ComparingWriter(CheckpointWriter):
    """Compares where the run committed; writes only the last checkpoint."""

    def __init__(
        self, *arguments: Any, notes: Sequence[Mapping[str, Any]], result: ReplayResult, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._notes = notes
        self._result = result

    async def commit_if_due(self, progress: TrainingProgress, manager: RolloutManager) -> None:
        """Compare instead."""
        self._result.reached_step = progress.step
        of_this_step = [note for note in self._notes if note["step"] == progress.step]
        self._result.comparisons += [await asyncio.to_thread(self._comparison, note) for note in of_this_step]

    def _comparison(self, note: Mapping[str, Any]) -> Comparison:
        """By the algorithms that the run's digests name. Raises `ConfigError`."""
        try:
            algorithms = {name: algorithm_of(note[name]) for name in ("actor", "critic")}
        except UnknownAlgorithmError as error:
            raise ConfigError(f"committed.jsonl, step {note['step']}: {error}") from None
        is_alone = self._trainer.roles.everyone.size == 1
        digests = self._digests(algorithms) if is_alone else self._digests_of_ranks()
        is_same = {name: digests[name] == note[name] for name in algorithms}
        return Comparison(note["step"], is_same["actor"], is_same["critic"], ProcessCounts.of(note))

    def _digests(self, algorithms: Mapping[str, str]) -> Mapping[str, str]:
        """Of both models, each by its algorithm."""
        policy, value_model = self._trainer.policy, self._trainer.value_model
        stored = {
            "actor": stored_tensors(policy.network, policy.weights.tensors()),
            "critic": stored_tensors(value_model.network, value_model.weights.tensors()),
        }
        return {name: weights.digest(tensors, algorithms[name]) for name, tensors in stored.items()}

    def _digests_of_ranks(self) -> Mapping[str, str]:
        """Of weights that no process has whole: of the files that all of them write."""
        state = self._trainer.captured()
        with TemporaryDirectory(dir=self._checkpoints.folder.path.parent) as folder:
            written = self._trainer.write(state, Path(folder))
        if written.error:
            raise OSError(written.error)
        return written.digests


class Nowhere:
    """Where a replay's weights go."""

    async def send(self, address: str, snapshot: Snapshot) -> None:
        """Never called."""

    async def forget(self, address: str) -> None:
        """Never called."""


async def replay(
    config: Config,
    records: Sequence[bytes],
    run_folder: Path,
    replay_folder: Path,
    *,
    until_step: int | None,
    team: Team = ALONE,
) -> ReplayResult:
    """Train again on the run's records, into another folder, and compare where the run committed a checkpoint."""
    streams = MemoryStreams(lease_seconds=config.redis.lease_seconds)
    await streams.inbox.append(records)
    result = ReplayResult(reached_step=0)
    notes = CheckpointFolder(RunPaths(run_folder).checkpoints).committed()
    writer = partial(ComparingWriter, notes=notes, result=result)
    identity = begin_incarnation(replay_folder)
    reader = archived_records_reader(run_folder)
    state = await asyncio.to_thread(
        load_state, config, identity, resume=False, is_replay=True, team=team, records=reader
    )
    state.steering.ends_runs = False  # what an operator has stopped was resumed, as far as there are records
    service = learner_service(
        config,
        identity,
        state,
        streams,
        NO_PEERS,
        writer=writer,
        until_step=until_step,
        failures=ScoreFailures(limit=None),  # a replay goes on where an incarnation of the run gave up
    )
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_stop_at_the_end(service, len(records), result))
        await service.run()
        watching.cancel()
    return result


async def _stop_at_the_end(service: LearnerService, num_entries: int, result: ReplayResult) -> None:
    """A learner that has read everything and waits for more would never end."""
    while service.waits_beyond != f"{num_entries}-0":  # noqa: ASYNC110  nothing announces it
        await asyncio.sleep(LOOK_SECONDS)
    result.ended_early = True
    service.stop()


async def _announce(_status: Mapping[str, Any]) -> None:
    pass


async def _no_generators() -> Mapping[str, FoundGenerator]:
    return {}


async def _no_processes() -> Sequence[Presence]:
    return []


async def _no_totals() -> GenerationTotals:
    return GenerationTotals()


NO_PEERS = Peers(
    transport=Nowhere(),
    announce=_announce,
    find_generators=_no_generators,
    generation_totals=_no_totals,
    all_processes=_no_processes,
)
