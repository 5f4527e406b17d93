"""The conformance check: both examples keep all rules, and a client that breaks one gets its name."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from services.reward.attached.rpc import SERVICE_NAME, registration
from services.reward.commands.conformance.checks import RULES, Examination, Verdict, verdicts
from services.reward.commands.conformance.examined import ExaminingServicer
from tests.reward.attached.attaching import SCORED
from tests.support.waiting import DEADLINE_SECONDS
from tppo.process.grpc_server import start_server
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import reward_pb2_grpc as pb_grpc

REPOSITORY = Path(__file__).parents[3]
PYTHON_EXAMPLE = (sys.executable, str(REPOSITORY / "examples/custom_reward/python/mine.py"))
Client = Callable[[str], Awaitable[None]]
RULE_NAMES = list(RULES)


@asynccontextmanager
async def an_examination(answer_seconds: float = DEADLINE_SECONDS) -> AsyncIterator[tuple[Examination, str]]:
    servicer = ExaminingServicer()
    server, port = await start_server(SERVICE_NAME, registration(servicer), host="127.0.0.1", port=0)
    examination = Examination(servicer, wait_seconds=DEADLINE_SECONDS, answer_seconds=answer_seconds)
    try:
        yield examination, f"127.0.0.1:{port}"
    finally:
        examination.close()
        await server.stop(None)


async def verdicts_on_process(*command: str) -> list[Verdict]:
    environment = {**os.environ, "TPPO_PROTO": str(REPOSITORY / "proto"), "PYTHONPATH": str(REPOSITORY)}
    async with an_examination() as (examination, address):
        process = await asyncio.create_subprocess_exec(*command, address, env=environment)
        try:
            return await verdicts(examination)
        finally:
            process.kill()
            await process.wait()


async def verdicts_on(
    answer: Callable[[pb.Work], list[pb.WorkResult]],
    answer_seconds: float = DEADLINE_SECONDS,
    *,
    reports_starts: bool = False,
) -> list[Verdict]:
    """Of a client that attaches whenever its stream ends, and answers as the test says."""

    async def attach(address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            while True:
                call = pb_grpc.RewardServiceStub(channel).Attach()
                try:
                    offered = [pb.OfferedFunction(name="mine", max_score=1.0)]
                    offer = pb.Offer(functions=offered, max_held=4, reports_starts=reports_starts)
                    await call.write(pb.AttachRequest(offer=offer))
                    while isinstance(message := await call.read(), pb.AttachResponse):
                        results = [result for work in message.work.work for result in answer(work)]
                        await call.write(pb.AttachRequest(results=pb.ResultBatch(results=results)))
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await asyncio.sleep(0.01)

    async with an_examination(answer_seconds) as (examination, address):
        client = asyncio.create_task(attach(address))
        try:
            return await verdicts(examination)
        finally:
            client.cancel()
            await asyncio.wait([client])


def scored(work: pb.Work, score: float = 1.0) -> pb.WorkResult:
    return pb.WorkResult(lease_id=work.lease_id, rollout_id=work.request.rollout_id, status=SCORED, score=score)


@pytest.mark.process
async def test_the_python_client_keeps_all_rules() -> None:
    assert await verdicts_on_process(*PYTHON_EXAMPLE) == [Verdict(rule, "") for rule in RULES]


async def test_the_node_client_keeps_all_rules(node_example: Path) -> None:
    found = await verdicts_on_process("node", str(node_example / "mine.js"))

    assert found == [Verdict(rule, "") for rule in RULES]


async def test_a_score_for_a_function_that_is_not_offered_breaks_a_rule() -> None:
    found = await verdicts_on(lambda work: [scored(work)])

    assert [verdict.rule for verdict in found if verdict.violation] == ["fails a function that it does not offer"]


@pytest.mark.parametrize(
    ("answer", "violation"),
    [
        (lambda work: [scored(work, 2.0)], "expected a score from"),
        (lambda work: [scored(work), scored(work)], "answered"),
        (
            lambda work: [pb.WorkResult(lease_id=work.lease_id, status=SCORED, score=1.0)],
            "was answered for rollout ''; expected",
        ),
        (lambda work: [pb.WorkResult(lease_id=99, status=SCORED)], "lease 99 was answered; it was not sent"),
    ],
    ids=["range", "twice", "rollout", "lease"],
)
async def test_an_invalid_answer_breaks_the_rule_of_plain_work(
    answer: Callable[[pb.Work], list[pb.WorkResult]], violation: str
) -> None:
    found = await verdicts_on(answer)

    assert violation in next(verdict.violation for verdict in found if verdict.violation)


async def test_an_answer_without_the_start_that_the_offer_promised_breaks_a_rule() -> None:
    found = await verdicts_on(lambda work: [scored(work)], reports_starts=True)

    assert found[1].violation == "lease 1 was answered without a start; its offer has reports_starts"


async def test_a_client_that_does_not_answer_breaks_the_rules_of_work() -> None:
    found = await verdicts_on(lambda work: [], answer_seconds=0.05)

    assert found[0] == Verdict(RULE_NAMES[0], "")
    assert found[1].violation == "0 of 1 answered within 0.05 s"
