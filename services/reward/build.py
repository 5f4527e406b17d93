"""What scores, built from `[reward]`: workers, the users' processes, and the server to which they attach."""

from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from services.reward.attached.dispatch import AttachDeadlines, AttachedFunctions
from services.reward.attached.rpc import SERVICE_NAME, RewardServicer, registration
from services.reward.reporting.response_log import ResponseLog
from services.reward.scorer import Scorer
from services.reward.service import ScoreHandler
from services.reward.verifiers.built_in import program_seconds
from services.reward.verifiers.expressions import terms
from services.reward.verifiers.functions import load
from services.reward.verifiers.placement import Place, calls, specs_at
from services.reward.workers.pool import FunctionError, WorkerPool
from services.reward.workers.worker import WorkerLimits
from tppo.config import Config, ConfigError
from tppo.config.sections.services import RewardSection
from tppo.process.grpc_server import serving_grpc
from tppo.process.leased_worker import Announce, LeasedWorker, WorkerSettings
from tppo.rollout import RewardRequest, ScoreStatus
from tppo.security.authentication import Token, is_loopback
from tppo.security.service_tokens import published
from tppo.streams import RequestQueue

BATCH_CAPACITY = 256  # requests held when it is not workers alone that score
DEFAULT_KEY = "reward.default_function"
HELD_PER_WORKER = 2  # one that it scores and one that waits for it; more would keep work from other services


@dataclass(frozen=True, slots=True)
class Scoring:
    """Who scores, and who takes part in it from outside."""

    scorer: Scorer
    attached: AttachedFunctions
    num_at_once: int  # calls that all workers together make


def placed(section: RewardSection, place: Place) -> list[str]:
    """What the configured functions call there. Raises `ConfigError`."""
    return specs_at(place, _functions(section).values())


def _functions(section: RewardSection, default_key: str = DEFAULT_KEY) -> dict[str, str]:
    """Each by the key that names it. Raises `ConfigError` for one that is no function's name and no sum."""
    named = {f"reward.functions.{source}": spec for source, spec in section.functions.items()}
    if section.default_function:
        named[default_key] = section.default_function
    for key, spec in named.items():
        try:
            calls(spec)
        except ValueError as error:
            raise _refusal(key, spec, error) from None
    return named


def _refusal(key: str, spec: str, error: ValueError) -> ConfigError:
    return ConfigError(f"{key} = {spec!r}: {str(error).removeprefix(f'reward function {spec!r}: ')}")


@asynccontextmanager
async def scoring(section: RewardSection, *, default_key: str = DEFAULT_KEY) -> AsyncIterator[Scoring]:
    """Runs the workers that the functions need; raises `ConfigError` when a function does not load.

    `default_key` is what the user knows the default function as.
    """
    named = _functions(section, default_key)
    specs = placed(section, Place.WORKER)
    pool = WorkerPool(
        specs,
        num_workers=section.num_workers if specs else 0,
        concurrency=section.concurrency,
        timeout_seconds=section.timeout_seconds,
        limits=WorkerLimits(section.memory_limit_mb * 2**20, allow_unsandboxed=section.allow_unsandboxed),
    )
    attached = AttachedFunctions(AttachDeadlines(section.timeout_seconds, section.attach_wait_seconds))
    try:
        await _load(section, named, pool)
        scorer = Scorer(section.functions, section.default_function, workers=pool, attached=attached)
        yield Scoring(scorer, attached, section.num_workers * (section.concurrency if pool.asynchronous else 1))
    finally:
        await pool.close()


@asynccontextmanager
async def attach_server(section: RewardSection, parts: Scoring, *, run: str, token: Token) -> AsyncIterator[str]:
    """Runs the gRPC server to which users' processes attach; gives the address at which others reach it."""
    servicer = RewardServicer(parts.scorer, parts.attached, run=run, num_at_once=parts.num_at_once)
    with ExitStack() as publishing:

        def publish(port: int) -> None:
            if token and is_loopback(section.host):
                publishing.enter_context(published(port, token))

        async with serving_grpc(
            SERVICE_NAME, registration(servicer), section, key="reward", token=token, on_bound=publish
        ) as address:
            yield address


async def require_answer(section: RewardSection, scorer: Scorer, request: RewardRequest) -> None:
    """Raise `ConfigError` when the function of the data source cannot say anything about a row of it.

    A function that users' processes take part in is left out: they attach once the run goes on.
    """
    function = section.function_of(request.data_source)
    if function and any(call.place is Place.ATTACHED for call in calls(function)):
        return
    score = await scorer.score(request)
    if score.status in (ScoreStatus.FAILED, ScoreStatus.TIMED_OUT):
        raise ConfigError(
            f"[reward] {function}: no score for the first row of data_source {request.data_source!r}, with its own "
            f"answer as the response: {score.error}; expected a number, a table with a score, or None"
        )


def build_worker(
    config: Config, name: str, queue: RequestQueue, parts: Scoring, announce: Announce, responses: ResponseLog
) -> LeasedWorker:
    """Does not isolate suspects: what kills a worker process of the pool leaves this one alive."""
    handler = ScoreHandler(parts.scorer, log_response=responses.append)
    settings = WorkerSettings(
        name=name,
        lease_seconds=config.redis.lease_seconds,
        capacity=_capacity(config.reward, parts),
        max_deliveries=config.redis.max_deliveries,
    )
    return LeasedWorker(settings, queue, handler, announce, on_held=handler.note_held)


def _capacity(section: RewardSection, parts: Scoring) -> int:
    """Requests held at once: a batch, unless workers alone decide how fast it goes."""
    is_for_workers = placed(section, Place.WORKER) and not placed(section, Place.ATTACHED)
    num_of_workers = parts.num_at_once + (HELD_PER_WORKER - 1) * section.num_workers
    return num_of_workers if is_for_workers else max(BATCH_CAPACITY, num_of_workers)


async def _load(section: RewardSection, named: Mapping[str, str], pool: WorkerPool) -> None:
    try:
        for spec in placed(section, Place.INLINE):
            _load_inline(spec)
        await pool.start()
        _require_time_for_programs(section)
    except FunctionError as error:
        key, spec = next(
            (key, spec) for key, spec in named.items() if error.spec in {call.spec for call in calls(spec)}
        )
        raise _refusal(key, spec, error) from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"[reward] {error}") from None


def _load_inline(spec: str) -> None:
    try:
        load(spec)
    except ValueError as error:
        raise FunctionError(spec, str(error)) from None


def _require_time_for_programs(section: RewardSection) -> None:
    """A test that takes too long is a 0; at the worker's deadline it would be no answer, and never train."""
    for spec in placed(section, Place.WORKER):
        for term in terms(spec):
            seconds = program_seconds(term.arguments, term.options) if term.name == "code" else 0.0
            if seconds >= section.timeout_seconds:
                raise ConfigError(
                    f"reward.timeout_seconds = {section.timeout_seconds:g}: expected more than the {seconds:g} s that "
                    f"{term.spec} gives a test"
                )
