"""A flood of hazards: a thousand answers by gRPC, one in ten made to hang or kill its verifier.

    OMP_NUM_THREADS=1 python -m benchmarks.reward.hazard_flood

Nothing may be lost: every right answer is scored 1, every wrong one 0, and no hazard earns credit. What the hazards
cost the others is time, which is measured against the same answers without them.
"""

import argparse
import asyncio
import itertools
import sys
import time
from collections import Counter
from pathlib import Path

import grpc.aio

sys.path.insert(0, str(Path(__file__).parents[2]))

from services.reward.build import attach_server, scoring
from tests.reward.verifiers.math_cases import CASES
from tppo.codec import reward_request_message
from tppo.config.schema import RewardSection
from tppo.process.grpc_server import CHANNEL_OPTIONS
from tppo.rollout import RewardRequest
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import reward_pb2_grpc as pb_grpc
from tppo.v1 import rollout_pb2

BATCH_SIZE = 50
ONE_IN = 10
SCORED = rollout_pb2.SCORE_STATUS_SCORED
HAZARDS = [case for case in CASES if case.category == "hazard"]


def requests(count: int, *, with_hazards: bool) -> list[RewardRequest]:
    """Right and wrong answers in turn, symbolic ones, and the hazards between them."""
    hazards = itertools.cycle(HAZARDS)
    made = []
    for number in range(count):
        answer, gold = rf"(x+{number})^2", rf"x^2+{2 * number}x+{number**2 + number % 2}"
        name = "wrong" if number % 2 else "right"
        if number % ONE_IN == 0:
            if not with_hazards:
                continue
            hazard = next(hazards)
            answer, gold, name = hazard.answer, hazard.gold, "hazard"
        made.append(RewardRequest(f"{name}-{number}", 0, "any", "", f"\\boxed{{{answer}}}", gold))
    return made


async def flood(count: int, *, with_hazards: bool) -> tuple[float, Counter[str]]:
    """Seconds, and what became of each kind."""
    section = RewardSection(default_function="math", num_workers=2, timeout_seconds=3.0)
    outcomes = Counter[str]()
    async with (
        scoring(section) as parts,
        attach_server(section, parts, run="benchmark", token="") as address,
        grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
    ):
        stub: pb_grpc.RewardServiceAsyncStub = pb_grpc.RewardServiceStub(channel)
        everything = requests(count, with_hazards=with_hazards)
        batches = [everything[start : start + BATCH_SIZE] for start in range(0, len(everything), BATCH_SIZE)]
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(
                stub.Score(pb.ScoreRequest(requests=[reward_request_message(one) for one in batch]), timeout=900)
                for batch in batches
            )
        )
        seconds = time.perf_counter() - began
    for score in itertools.chain.from_iterable(answer.scores for answer in answers):
        kind = score.rollout_id.partition("-")[0]
        credit = f"scored {score.score:g}" if score.status == SCORED else rollout_pb2.ScoreStatus.Name(score.status)
        outcomes[f"{kind}: {credit}"] += 1
    assert outcomes.total() == len(everything)
    return seconds, outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description="Grade a thousand answers, one in ten a hazard.")
    parser.add_argument("--requests", type=int, default=1000)
    count = parser.parse_args().requests
    calm_seconds, calm = asyncio.run(flood(count, with_hazards=False))
    seconds, outcomes = asyncio.run(flood(count, with_hazards=True))
    for name, number in sorted(outcomes.items()):
        print(f"{number:5d}  {name}")
    print(f"{seconds:.1f} s; without the hazards {calm_seconds:.1f} s")
    others = Counter({name: number for name, number in outcomes.items() if not name.startswith("hazard")})
    has_credit = any(name.startswith("hazard: scored") and not name.endswith(" 0") for name in outcomes)
    return int(others != calm or has_credit)


if __name__ == "__main__":
    raise SystemExit(main())
