"""One evaluation from its command line to its table: the processes, the responses, the summary."""

import argparse
import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.local.evaluate.asking import Asker, EndpointRefusedError, Sampling
from services.local.evaluate.benchmarks import BenchmarkProblem, problems_in
from services.local.evaluate.processes import ServingEndedError, serving
from services.local.evaluate.responses import REFUSED, EvaluationIdentity, Responses, digest_of, missing
from services.local.evaluate.summary import summary_of, table_of
from services.local.evaluate.target import Target, has_chat_template, serving_config, target_of
from tppo.config import Config, ConfigError, dump
from tppo.process.presence import present
from tppo.run_folder.durable import write_atomically
from tppo.run_folder.json_files import write_object
from tppo.run_folder.json_lines import Fields
from tppo.scoring.remote import RemoteScorer, ScoringLostError, remote_scorer
from tppo.security.authentication import Service
from tppo.security.private_files import new_secret
from tppo.security.redis_address import with_redis
from tppo.security.service_tokens import client_token
from tppo.security.tls import web_client_context
from tppo.streams import StreamsError
from tppo.streams.connection import connect

PLAIN_LINES = 20  # of progress, where the output is no terminal
REQUEST_SECONDS = 3600.0
CONNECT_SECONDS = 10.0
LIVE_AT_ONCE = 16  # of each generator of a run, which has other work
SCORE_SECONDS = 600.0
"""As a deadline of a score, its waiting for others included."""


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """All that is decided before the first process starts."""

    target: Target
    problems: Sequence[BenchmarkProblem]
    num_samples: int
    config: Config  # of the processes
    sampling: Sampling
    responses: Responses
    num_at_once: int


def evaluate(arguments: argparse.Namespace) -> int:
    """0 done, 1 something that was needed is gone, 130 stopped by the user."""
    plan = plan_of(arguments)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{len(plan.problems)} problems, {plan.num_samples} samples each; responses in {plan.responses.path}")
    try:
        asyncio.run(_run(plan, console))
    except KeyboardInterrupt:
        _complain("stopped; the same command continues")
        return 130
    except (ServingEndedError, EndpointRefusedError, ScoringLostError, OSError) as error:
        _complain(f"tppo eval: {error}; the same command continues")
        return 1
    lines = plan.responses.known().values()
    summary = summary_of(lines, plan.num_samples)
    write_object(plan.responses.folder / "summary.json", summary)
    console.print(table_of(summary))
    if too_long := [line["error"] for line in lines if line["finish_reason"] == REFUSED]:
        text = f"{len(too_long)} responses were not sampled; the first: {too_long[0]}."
        _complain(f"{text} The same command with a larger --set run.max_prompt_length=N samples them.")
    return 0


def _complain(sentence: str) -> None:
    Console(file=sys.stderr, highlight=False, soft_wrap=True, markup=False).print(sentence)


def plan_of(arguments: argparse.Namespace) -> EvaluationPlan:
    """Everything that a user can get wrong. Raises `ConfigError`."""
    target = target_of(
        arguments.target, is_live=arguments.live, checkpoint=arguments.checkpoint, overrides=arguments.overrides
    )
    problems = problems_in(arguments.benchmark, template=arguments.template, limit=arguments.limit)
    temperature = target.config.evaluation.temperature if arguments.temperature is None else arguments.temperature
    if temperature == 0 and arguments.samples > 1:
        raise ConfigError(f"--samples {arguments.samples} with temperature 0: all would be the same; expected 1")
    if not (temperature == 0 or 0.01 <= temperature <= 100):
        raise ConfigError(f"--temperature {temperature}: expected 0, or 0.01 to 100")
    names = "+".join(file.name.partition(".")[0] for file in arguments.benchmark)
    folder = arguments.output or target.results.with_name(f"{target.results.name}-{names}")
    max_tokens = _max_tokens(arguments.max_tokens, target)
    num_at_once = LIVE_AT_ONCE if target.run else 2 * target.config.generation.num_slots
    config = serving_config(
        target, results=folder, function=arguments.function, max_tokens=max_tokens, num_at_once=num_at_once
    )
    question = EvaluationIdentity(
        model=str(target.run or target.model.absolute()),
        policy_version=None if target.run else target.policy_version,
        problems=digest_of(problems),
        temperature=temperature,
        max_tokens=max_tokens,
        seed=arguments.seed,
        functions={**config.reward.functions, "": config.reward.default_function},
    )
    sampling = Sampling(
        model=target.config.run.name if target.run else config.run.name,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=arguments.seed,
        template_kwargs=config.data.chat_template_kwargs,
        system_prompt=config.data.system_prompt,
        has_chat_template=has_chat_template(target.model),
    )
    return EvaluationPlan(
        target, problems, arguments.samples, config, sampling, Responses(folder, question), num_at_once
    )


def _max_tokens(wanted: int | None, target: Target) -> int:
    """Of a response; the engines of a run that trains have room for so many and no more."""
    limit = target.config.run.max_response_length
    if wanted is not None and wanted > limit and target.run is not None:
        raise ConfigError(f"--max-tokens {wanted}: expected at most run.max_response_length = {limit} with --live")
    return wanted or limit


async def _run(plan: EvaluationPlan, console: Console) -> None:
    """Nothing is started when nothing is left."""
    known = plan.responses.known()
    places = list(missing(plan.problems, plan.num_samples, known))
    if not places:
        return
    async with AsyncExitStack() as stack:
        scorer, clients, watched = await _served(plan, stack)
        with _progress(console, len(plan.problems) * plan.num_samples, len(places)) as advance:

            def take(line: Fields) -> None:
                plan.responses.append(line)
                advance()

            asker = Asker(clients, scorer, plan.sampling, plan.problems, take=take)
            num_at_once = min(plan.num_at_once * len(clients), len(places))
            asking = asyncio.create_task(asker.run(iter(places), known, num_at_once=num_at_once))
            stack.callback(asking.cancel)
            done, _ = await asyncio.wait([asking, *watched], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()


async def _served(
    plan: EvaluationPlan, stack: AsyncExitStack
) -> tuple[RemoteScorer, list[httpx.AsyncClient], list["asyncio.Task[None]"]]:
    """Who scores, who samples, and the processes to watch."""
    folder = plan.responses.folder
    config_file = folder / "config.toml"
    write_atomically(config_file, dump(plan.config).encode())
    token, reward_token = new_secret(), new_secret()
    secrets = {Service.REWARD.variable: reward_token}
    starting = [
        serving("reward", ["reward", str(config_file), "--standalone"], log=folder / "reward.log", secrets=secrets)
    ]
    if plan.target.run is None:
        version = str(plan.target.policy_version)
        command = ["generation", str(config_file), "--standalone", "--policy-version", version]
        secrets = {Service.ENDPOINT.variable: token}
        starting.append(serving("generation", command, log=folder / "generation.log", secrets=secrets))
    served = [await stack.enter_async_context(one) for one in starting]
    watched = [ending for _, ending in served]
    scorer = await stack.enter_async_context(
        remote_scorer(served[0][0]["address"], token=reward_token, timeout_seconds=SCORE_SECONDS)
    )
    if plan.target.run is None:
        endpoints = [str(served[1][0]["endpoint"])]
    else:
        endpoints, token = await _live_endpoints(plan.target), client_token(plan.target.run, Service.ENDPOINT)
    clients = [await stack.enter_async_context(_client(endpoint, token)) for endpoint in endpoints]
    return scorer, clients, watched


@asynccontextmanager
async def _client(endpoint: str, token: str) -> AsyncIterator[httpx.AsyncClient]:
    timeout = httpx.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS)
    limits = httpx.Limits(max_connections=None)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        base_url=endpoint, headers=headers, timeout=timeout, limits=limits, verify=web_client_context()
    ) as client:
        yield client


async def _live_endpoints(target: Target) -> list[str]:
    """Those of the run's generators. Raises `ConfigError` where there are none."""
    config = with_redis(target.config)
    try:
        async with await connect(config.redis.url) as client:
            presences = await present(client, config.run.name)
    except (ValueError, StreamsError) as error:
        cause = f"its Redis does not answer: {error}"
        raise ConfigError(f"--live {target.run}: {cause}; expected a run that trains") from None
    found = [str(one.status.get("endpoint") or "") for one in presences if one.kind == "generation"]
    if not any(found):
        raise ConfigError(
            f"--live {target.run}: no generator with an endpoint; expected a run that trains, with endpoint.enabled"
        )
    return [endpoint for endpoint in found if endpoint]


@contextmanager
def _progress(console: Console, total: int, num_left: int) -> Iterator[Callable[[], object]]:
    """A bar on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        done = itertools.count(total - num_left + 1)
        step = max(1, total // PLAIN_LINES)

        def note() -> None:
            if (number := next(done)) % step == 0 or number == total:
                console.print(f"responses {number}/{total}")

        yield note
        return
    columns = (TextColumn("responses"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total, completed=total - num_left)
        yield lambda: progress.advance(task)
