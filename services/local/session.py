"""One call of `tppo run` after all checks: start the processes, watch them, stop them, write the results.

`_start_children`: consumes the plan; waits for, and is unblocked by, Redis' first answer; produces the children, once.
`_observe`: consumes `metrics.jsonl` and the presence of the generators in Redis; unblocked by time; produces what the
display shows and the generators' totals. `_write_summaries`: consumes both; unblocked by time; produces `summary.json`.
The supervisor's loops produce the ending that stops both.
"""

import asyncio
import json
import logging
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from services.local.console.completions import CompletionTables
from services.local.console.display import AlertNotes, Display, overview_of
from services.local.console.progress import Loading, Milestones, what_the_learner_waits_for
from services.local.metrics import MetricLine, RunMetrics
from services.local.processes import (
    Plan,
    child_environment,
    num_computing_processes,
    redis_child,
)
from services.local.results import Summary, SummaryFile, earlier_session, summarize
from services.local.supervision.child import Child, Ending
from services.local.supervision.supervisor import Supervisor
from tppo.codec import encode_inbox_record
from tppo.config import Config
from tppo.generation_totals import GenerationTally
from tppo.process.cancellation import TaskGroup, cancel_all
from tppo.process.presence import Presence, present
from tppo.rollout import Action, Command
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.ending import EndingKind
from tppo.run_folder.json_lines import JsonLinesFollower
from tppo.run_folder.metric_lines import STEP, is_metric_line
from tppo.security.envelope import Writer
from tppo.security.private_files import write_secret
from tppo.security.record_keys import sealer
from tppo.streams import StreamsError, until_redis_answers
from tppo.streams.connection import RedisClient, connect
from tppo.streams.fence import fence_key, is_held
from tppo.streams.redis import RedisStreams

log = logging.getLogger(__name__)

OBSERVE_SECONDS = 0.5
SUMMARY_SECONDS = 5.0  # a kill of everything costs the summary no more than these


class Session:
    """A run from its first process to its last file; `children` need Redis and are started once it answers."""

    def __init__(
        self,
        plan: Plan,
        children: Sequence[Child],
        display: Display,
        *,
        is_enough: Callable[[MetricLine], bool] = lambda line: False,
    ) -> None:
        """`is_enough`: whether the run is to stop in order after this training step's line of its metrics."""
        self._plan = plan
        self._is_enough, self._is_to_stop = is_enough, False
        self._children = children
        self._display = display
        self._follower = JsonLinesFollower(plan.paths.metrics)
        self._metrics = RunMetrics(is_shown_only=True)
        self._completions = CompletionTables(plan.paths.completions)
        self._seconds_before, totals_before = earlier_session(plan.paths)
        self._totals = GenerationTally(totals_before)
        self._summary_file = SummaryFile(plan.paths.summary)
        self._milestones = Milestones()
        self._loading = Loading()
        self._alert_notes = AlertNotes(self._note_alert)

    async def run(self, *, started_at: float) -> tuple[Ending, Summary]:
        """Train until the learner is done, or cannot go on, or the user stops it.

        `started_at`, on the monotonic clock, is where seconds_total begins.
        """
        plan = self._plan
        ending = await self._supervised(started_at)
        self._read_metrics()
        summary = self._summary(started_at, ending)
        if ending.kind is not EndingKind.REFUSED:
            self._summary_file.write(summary, is_last=True)
        if self._metrics.steps or self._metrics.evaluations:
            from services.local.results import draw_learning_curve  # matplotlib takes a second to import

            draw_learning_curve(self._metrics, plan.paths.learning_curve, title=plan.config.run.name)
        return ending, summary

    async def _supervised(self, started_at: float) -> Ending:
        plan = self._plan
        environment = child_environment(os.environ, num_processes=num_computing_processes(plan.config))
        supervisor = Supervisor(
            plan.paths.logs, environment=environment, note=self._display.note, progress=self._milestones.of
        )
        with interrupts_end(supervisor):
            try:
                async with TaskGroup() as tasks:
                    starting = tasks.create_task(self._start_children(supervisor))
                    beside = [self._observe(supervisor), self._write_summaries(started_at)]
                    observing = [tasks.create_task(loop) for loop in beside]
                    ending = await supervisor.ending()
                    self._alert_notes.stop()
                    await cancel_all([starting])
                    await supervisor.stop()
                    await cancel_all(observing)
                    self._show_completions()
            finally:
                await supervisor.stop()
                if plan.server is not None:
                    plan.paths.redis_url.unlink(missing_ok=True)
                self._display.close()
        return ending

    async def _start_children(self, supervisor: Supervisor) -> None:
        plan = self._plan
        if plan.server is not None:
            plan.server.write_users()
            write_secret(plan.paths.redis_url, plan.server.url)  # for other processes of the same user
            supervisor.start(redis_child(plan.server, supervisor.log_path("redis")))
        client = await _connected(plan.redis_url)
        async with client:
            is_in_use = not plan.resume and await until_redis_answers(
                lambda: _prepared(client, plan.config.run.name), "preparing the run"
            )
            if plan.retries_parked:
                await _retry_parked(client, plan.config, cause=plan.parked_cause)
        if is_in_use:
            supervisor.end(Ending(EndingKind.REFUSED, _in_use(plan.config)))
            return
        for child in self._children:
            supervisor.start(child)

    async def _observe(self, supervisor: Supervisor) -> None:
        """Until cancelled."""
        plan = self._plan
        client = await _connected(plan.redis_url)
        async with client:
            is_stopping = False
            while True:
                self._read_metrics()
                self._show_completions()
                if self._is_to_stop and not is_stopping:
                    is_stopping = await _stop_learner(client, plan.config)
                presences = await self._present(client)
                self._totals.observe_all(presences)
                self._milestones.observe(presences)
                self._loading.observe(presences)
                self._milestones.reached(*self._reached_steps())
                overview = overview_of(
                    self._metrics,
                    supervisor.states(),
                    loading=self._loading.among(supervisor.running()),
                    total_steps=plan.config.run.total_training_steps,
                    address=plan.dashboard_address,
                    waiting_for=what_the_learner_waits_for(presences),
                )
                self._display.show(overview)
                await asyncio.sleep(OBSERVE_SECONDS)

    async def _present(self, client: RedisClient) -> list[Presence]:
        """The processes with a heartbeat; none while Redis does not answer, which does not end the display."""
        try:
            presences = await present(client, self._plan.config.run.name)
        except StreamsError as error:
            alert = {"key": "redis:", "severity": "error", "text": f"Redis does not answer: {error}."}
            self._alert_notes.observe([alert], is_complete=False)
            return []
        for dashboard in (one for one in presences if one.kind == "dashboard"):
            self._alert_notes.observe(dashboard.status.get("alerts"), is_complete=True)
        return presences

    def _note_alert(self, text: str) -> None:
        log.warning("%s", text)
        self._display.note(text)

    async def _write_summaries(self, started_at: float) -> None:
        """Until cancelled: what a kill of everything leaves for the next session to add to."""
        while True:
            await asyncio.sleep(SUMMARY_SECONDS)
            try:
                await asyncio.to_thread(self._summary_file.write, self._summary(started_at))
            except OSError as error:
                log.warning("cannot write %s: %s; retry in %g s", self._summary_file.path, error, SUMMARY_SECONDS)

    def _summary(self, started_at: float, ending: Ending | None = None) -> Summary:
        seconds_total = self._seconds_before + time.monotonic() - started_at
        return summarize(self._metrics, self._totals.totals(), seconds_total=seconds_total, ending=ending)

    def _reached_steps(self) -> tuple[int, int | None]:
        """The newest training step, and the newest checkpoint's."""
        step = self._metrics.steps[-1]["step"] if self._metrics.steps else 0
        return step, CheckpointFolder(self._plan.paths.checkpoints).newest_step()

    def _show_completions(self) -> None:
        for table in self._completions.new():
            self._display.note(table)

    def _read_metrics(self) -> None:
        news = self._follower.read_all()
        if news.is_replaced:
            self._metrics = RunMetrics(is_shown_only=True)
        for _, line in news.lines:
            self._metrics.add(line)
            if is_metric_line(line) and line["kind"] == STEP:
                self._is_to_stop = self._is_enough(line) or self._is_to_stop


async def _connected(url: str) -> RedisClient:
    """A client, as soon as the server answers; the supervisor handles one that does not start."""
    return await until_redis_answers(lambda: connect(url), "connecting")


async def _prepared(client: RedisClient, run: str) -> bool:
    """Whether a learner holds the run's lease; if none does, nothing is left of an earlier run."""
    if is_in_use := await is_held(client, run):
        return is_in_use
    await _forget_run(client, run)
    return False


async def _forget_run(client: RedisClient, run: str) -> None:
    """Delete what an earlier run of the same name left in a lasting server; its fence stays and keeps its learner out,
    should that resume from a freeze.
    """
    async for key in client.scan_iter(match=f"tppo:{{{run}}}:*"):
        if key.decode() != fence_key(run):
            await client.delete(key)


async def _stop_learner(client: RedisClient, config: Config) -> bool:
    """True; after the step that is under way, with a checkpoint."""
    await _command(client, config, Action.STOP_AFTER_STEP, {}, issued_by="tppo pretrain-critic")
    return True


async def _retry_parked(client: RedisClient, config: Config, *, cause: str) -> None:
    """All, or those of the cause."""
    arguments = {"cause": json.dumps(cause)} if cause else {}
    await _command(client, config, Action.RETRY_PARKED, arguments, issued_by="tppo run --resume --retry-parked")


async def _command(
    client: RedisClient, config: Config, action: Action, arguments: dict[str, str], *, issued_by: str
) -> None:
    """As an operator's, so that a replay applies it at the same place."""
    seal = sealer(config.run, Writer.OPERATOR).seal
    streams = RedisStreams(client, run=config.run.name, lease_seconds=config.redis.lease_seconds, seal=seal)
    command = Command(uuid.uuid4().hex, action, arguments, issued_at=time.time(), issued_by=issued_by)
    await until_redis_answers(
        lambda: streams.inbox.append([encode_inbox_record(command)]), f"sending the command {action.name}"
    )


def _in_use(config: Config) -> str:
    return (
        f"run {config.run.name!r} is already training on another machine, or its learner died less than "
        f"{config.redis.lease_seconds:g} s ago; use another run.name"
    )


@contextmanager
def interrupts_end(supervisor: Supervisor) -> Iterator[None]:
    """The first signal stops the run in order, a second one kills what is left."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    was_interrupted = False

    def interrupt() -> None:
        nonlocal was_interrupted
        if was_interrupted:
            supervisor.kill()
        was_interrupted = True
        supervisor.end(Ending(EndingKind.INTERRUPTED))

    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
