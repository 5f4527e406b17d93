"""Scores per second of the reward service's paths, and what a process that attaches adds to the latency.

    OMP_NUM_THREADS=1 python -m benchmarks.reward.throughput

exact     `boxed` inside the service, one request after the other
symbolic  `math` in two workers, answers that only algebra can compare
programs  `code` in two workers: a script with 20 tests, a function with 20 calls, 20 asserts; the first wrong at once
attach    an echo that answers at once, in this process, over the loopback: one at a time, then in batches
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio

from services.reward.build import Scoring, attach_server, scoring
from services.reward.scorer import Scorer
from tppo.config.schema import RewardSection
from tppo.process.grpc_server import CHANNEL_OPTIONS
from tppo.rollout import RewardRequest, ScoreStatus
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import reward_pb2_grpc as pb_grpc
from tppo.v1 import rollout_pb2

RESPONSE_CHARS = 4000
NUM_TESTS = 20
SUMS = {"inputs": [f"{n} {n}\n" for n in range(NUM_TESTS)], "outputs": [f"{2 * n}\n" for n in range(NUM_TESTS)]}
CALLS = {"fn_name": "add", "inputs": [[n, n] for n in range(NUM_TESTS)], "outputs": [2 * n for n in range(NUM_TESTS)]}
ADD = "def add(a, b):\n    return a + b"
PROGRAMS: dict[str, tuple[str, object, float]] = {
    "script": ("print(sum(map(int, input().split())))", SUMS, 1.0),
    "wrong script": ("print(-1)", SUMS, 0.0),
    "calls": (ADD, CALLS, 1.0),
    "asserts": (ADD, [f"assert add({n}, {n}) == {2 * n}" for n in range(NUM_TESTS)], 1.0),
}
EXACT = r"\boxed{3/4}", "0.75"
SYMBOLIC = (
    (r"\frac{\sqrt{3}}{3}+NUMBER", r"\frac{1}{\sqrt{3}}+NUMBER"),
    (r"(x+NUMBER)^2", r"x^2+2*NUMBER*x+NUMBER^2"),
    (r"\frac{\sqrt{2}x^2-3(y+1)}{2}+\sin x+NUMBER", r"\frac{x^2}{\sqrt{2}}-\frac{3y}{2}-1.5+\sin x+NUMBER"),
    (r"2\sqrt{5}\cdot NUMBER", r"\sqrt{20}\cdot NUMBER"),
    (r"(NUMBER,\infty)", r"x>NUMBER"),
)


def request(number: int, answer: str, ground_truth: str) -> RewardRequest:
    thought = "so it is " * (RESPONSE_CHARS // 9)
    return RewardRequest(f"r{number}", 0, "any", "What is it?", f"{thought}{answer}", ground_truth)


async def exact_per_second(num_requests: int) -> float:
    async with scoring(RewardSection(default_function="boxed")) as parts:
        started_at = time.perf_counter()
        for number in range(num_requests):
            score = await parts.scorer.score(request(number, *EXACT))
            assert score.score == 1.0
        return num_requests / (time.perf_counter() - started_at)


async def symbolic_per_second(num_requests: int) -> float:
    async with scoring(RewardSection(default_function="math", num_workers=2)) as parts:
        await score_symbolic(parts.scorer, range(1, 11))
        started_at = time.perf_counter()
        await score_symbolic(parts.scorer, range(11, 11 + num_requests))
        return num_requests / (time.perf_counter() - started_at)


async def score_symbolic(scorer: Scorer, numbers: range) -> None:
    """Each ground truth is another one, so that no cache helps."""
    requests = []
    for number in numbers:
        answer, ground_truth = (text.replace("NUMBER", str(number)) for text in SYMBOLIC[number % len(SYMBOLIC)])
        requests.append(request(number, f"\\boxed{{{answer}}}", ground_truth))
    scores = await asyncio.gather(*map(scorer.score, requests))
    assert all(score.status is ScoreStatus.SCORED and score.score == 1.0 for score in scores)


async def programs_per_second(num_requests: int, name: str) -> float:
    program, tests, expected = PROGRAMS[name]
    one = request(0, f"\n```python\n{program}\n```\n", json.dumps(tests))
    async with scoring(RewardSection(default_function="code", num_workers=2, timeout_seconds=120.0)) as parts:
        await asyncio.gather(parts.scorer.score(one), parts.scorer.score(one))
        started_at = time.perf_counter()
        scores = await asyncio.gather(*(parts.scorer.score(one) for _ in range(num_requests)))
        assert all(score.score == expected for score in scores)
        return num_requests / (time.perf_counter() - started_at)


async def echo(address: str) -> None:
    """An attached process that scores without looking."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub: pb_grpc.RewardServiceAsyncStub = pb_grpc.RewardServiceStub(channel)
        call = stub.Attach()
        await call.write(pb.AttachRequest(offer=pb.Offer(functions=[pb.OfferedFunction(name="echo")], max_held=256)))
        while isinstance(message := await call.read(), pb.AttachResponse):
            results = [
                pb.WorkResult(
                    lease_id=work.lease_id,
                    rollout_id=work.request.rollout_id,
                    status=rollout_pb2.SCORE_STATUS_SCORED,
                    score=1.0,
                )
                for work in message.work.work
            ]
            if results:
                await call.write(pb.AttachRequest(results=pb.ResultBatch(results=results)))


@asynccontextmanager
async def attached_echo() -> AsyncIterator[Scoring]:
    section = RewardSection(default_function="grpc:echo")
    async with scoring(section) as parts, attach_server(section, parts, run="benchmark", token="") as address:
        client = asyncio.create_task(echo(address))
        await parts.scorer.score(request(0, *EXACT))
        yield parts
        client.cancel()
        await asyncio.wait([client])


async def attach_p50_milliseconds(num_requests: int) -> float:
    async with attached_echo() as parts:
        latencies = []
        for number in range(num_requests):
            started_at = time.perf_counter()
            await parts.scorer.score(request(number, *EXACT))
            latencies.append(time.perf_counter() - started_at)
        return 1000 * statistics.median(latencies)


async def attach_per_second(num_requests: int) -> float:
    async with attached_echo() as parts:
        started_at = time.perf_counter()
        scores = await asyncio.gather(*(parts.scorer.score(request(number, *EXACT)) for number in range(num_requests)))
        assert all(score.score == 1.0 for score in scores)
        return num_requests / (time.perf_counter() - started_at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="how many requests, as a multiple of the default")
    scale = parser.parse_args().scale
    print(
        f"exact     {asyncio.run(exact_per_second(int(10_000 * scale))):8.0f} scores/s, responses of 4,000 characters"
    )
    print(f"symbolic  {asyncio.run(symbolic_per_second(int(500 * scale))):8.0f} scores/s, two workers")
    for name in PROGRAMS:
        print(f"programs  {asyncio.run(programs_per_second(max(2, int(40 * scale)), name)):8.1f} scores/s, {name}")
    print(f"attach    {asyncio.run(attach_p50_milliseconds(int(1000 * scale))):8.2f} ms at p50, one at a time")
    print(f"attach    {asyncio.run(attach_per_second(int(5000 * scale))):8.0f} scores/s in batches")


if __name__ == "__main__":
    main()
