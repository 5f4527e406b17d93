"""`tppo remote-score FILE.jsonl ADDRESS`: a file of responses, scored by a running reward service.

It needs nothing of the application. Lines go out in batches, several under way at a time; scores come out in the order
of the lines.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tppo.codec import reward_request_message, score_record
from tppo.config import ConfigError
from tppo.process.backoff import Backoff
from tppo.process.grpc_server import CHANNEL_OPTIONS
from tppo.rollout import RewardRequest, Score
from tppo.scoring.lines import DESCRIPTION, UnreadableLineError, opened, print_score, requests_in, results_in_order
from tppo.security.authentication import call_metadata
from tppo.security.service_tokens import token_for
from tppo.security.tls import channel
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import reward_pb2_grpc as pb_grpc

BATCH_SIZE = 64
BATCH_CHARACTERS = 2**20  # of the responses in a batch; a longer one goes alone
MAX_BATCHES = 4  # under way
USERS_MISTAKES = (
    grpc.StatusCode.INVALID_ARGUMENT,  # a function that the service does not know
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,  # no reward service
)

Line = RewardRequest | UnreadableLineError


def main(argv: Sequence[str]) -> int:
    """0 when every line was answered, whatever the answers are; 1 when the service was lost."""
    parser = argparse.ArgumentParser(prog="tppo remote-score", description=DESCRIPTION)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="- for standard input")
    parser.add_argument("address", metavar="ADDRESS", help="host:port of a reward service, such as 127.0.0.1:50052")
    parser.add_argument(
        "--function",
        default="",
        metavar="NAME",
        help="one of those in the service's configuration; by default the one of each line's data_source",
    )
    parser.add_argument("--timeout-seconds", type=float, default=600.0, help="for a batch of 64 lines [600.0]")
    arguments = parser.parse_args(argv)
    try:
        with opened(arguments.file) as lines:
            asyncio.run(_score_file(lines, arguments))
    except grpc.aio.AioRpcError as error:
        cause = f"{arguments.address}: {error.code().name}: {error.details()}"
        if error.code() in USERS_MISTAKES:
            raise ConfigError(cause) from None
        print(f"tppo remote-score: {cause}; expected a running reward service", file=sys.stderr)  # noqa: T201
        return 1
    return 0


class ScoringLostError(Exception):
    """A reward service that does not answer, or refuses; the text says which and why."""


@asynccontextmanager
async def remote_scorer(address: str, *, token: str, timeout_seconds: float) -> AsyncIterator["RemoteScorer"]:
    """A client of the reward service at the address. Within, its failures become `ScoringLostError`."""
    try:
        async with _connected(address, token=token, timeout_seconds=timeout_seconds) as scorer:
            yield scorer
    except grpc.aio.AioRpcError as error:
        raise ScoringLostError(f"{address}: {error.code().name}: {error.details()}") from None


@asynccontextmanager
async def _connected(
    address: str, *, token: str, timeout_seconds: float, function: str = ""
) -> AsyncIterator["RemoteScorer"]:
    async with channel(address, CHANNEL_OPTIONS) as opened_channel:
        stub: pb_grpc.RewardServiceAsyncStub = pb_grpc.RewardServiceStub(opened_channel)
        yield RemoteScorer(stub, function=function, timeout_seconds=timeout_seconds, token=token)


async def _score_file(lines: Iterable[str], arguments: argparse.Namespace) -> None:
    async with _connected(
        arguments.address,
        token=token_for(arguments.address),
        timeout_seconds=arguments.timeout_seconds,
        function=arguments.function,
    ) as client:
        batches = (client.scores(batch) for batch in _batches(requests_in(lines)))
        async for scores in results_in_order(batches, max_under_way=MAX_BATCHES):
            for score in scores:
                print_score(score)


class RemoteScorer:
    """Scores batches; every call has a deadline."""

    def __init__(self, stub: Any, *, function: str, timeout_seconds: float, token: str = "") -> None:
        self._stub = stub
        self._function = function
        self._timeout_seconds = timeout_seconds
        self._metadata = call_metadata(token)

    async def scores(self, lines: Sequence[Line]) -> list[Score]:
        """One for each line. Raises `AioRpcError`."""
        requests = [reward_request_message(line) for line in lines if isinstance(line, RewardRequest)]
        scores = iter(await self._answer(pb.ScoreRequest(requests=requests, function=self._function)))
        return [line.as_score() if isinstance(line, UnreadableLineError) else next(scores) for line in lines]

    async def _answer(self, request: pb.ScoreRequest) -> list[Score]:
        """Retried while the service has too much waiting."""
        backoff = Backoff(first_seconds=0.1, longest_seconds=5.0, jitter=0.5)
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        while True:
            try:
                response = await self._stub.Score(request, timeout=self._timeout_seconds, metadata=self._metadata)
                return [score_record(message) for message in response.scores]
            except grpc.aio.AioRpcError as error:
                is_over = asyncio.get_running_loop().time() > deadline
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or is_over:
                    raise
            await asyncio.sleep(backoff.next_delay())


def _batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    batch, num_characters = list[Line](), 0
    for line in lines:
        size = len(line.response) if isinstance(line, RewardRequest) else 0
        if batch and (len(batch) == BATCH_SIZE or num_characters + size > BATCH_CHARACTERS):
            yield batch
            batch, num_characters = [], 0
        batch.append(line)
        num_characters += size
    if batch:
        yield batch
