"""The rules that a client of Attach has to keep, each checked against the client that dials."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc

from services.reward.commands.conformance.examined import ExaminedStream, ExaminingServicer, ViolationError
from tppo.v1 import reward_pb2 as pb
from tppo.v1 import rollout_pb2

MOST_AT_ONCE = 256  # pieces of work, however many a client offers to hold
PAUSE_SECONDS = 0.5
ODD_TEXTS = ("", "\0", "🦆" * 1000, "\\boxed{4}\r\n\u2028", "x" * 2**20)
ODD_EXTRA_INFO = ("", "{}", '{"a": {"b": [1, null, "c"]}}', "[1, 2", "null")
NOT_OFFERED = "conformance.offered_by_nobody"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One rule, and how the client broke it; empty: it did not."""

    rule: str
    violation: str


class Examination:
    """What the checks share: the stream that is open, and lease ids that are never used twice."""

    def __init__(self, servicer: ExaminingServicer, *, wait_seconds: float, answer_seconds: float) -> None:
        self._servicer = servicer
        self._wait_seconds = wait_seconds
        self._answer_seconds = answer_seconds
        self._stream: ExaminedStream | None = None
        self._lease_ids = itertools.count(1)

    async def stream(self) -> ExaminedStream:
        """The open stream; after the end of one, the next."""
        while self._stream is None or not self._stream.is_open:
            self._stream = await self._servicer.next_stream(seconds=self._wait_seconds)
        return self._stream

    def work(self, stream: ExaminedStream, response: str = "4", function: str = "", extra_info: str = "{}") -> pb.Work:
        lease_id = next(self._lease_ids)
        request = rollout_pb2.RewardRequest(
            rollout_id=f"conformance-{lease_id}",
            data_source="conformance",
            prompt="2+2?",
            response=response,
            ground_truth="4",
            extra_info=extra_info,
            num_response_tokens=1,
        )
        return pb.Work(lease_id=lease_id, function=function or next(iter(stream.offer.functions)), request=request)

    async def answers(self, stream: ExaminedStream, work: Sequence[pb.Work]) -> list[pb.WorkResult]:
        """Send work, and take its answers in the order of the work."""
        await stream.send(pb.AttachResponse(work=pb.WorkBatch(work=work)))
        found = await stream.answers(work, seconds=self._answer_seconds)
        return [found[one.lease_id] for one in work]

    def close(self) -> None:
        """End the client's stream."""
        if self._stream:
            self._stream.end(grpc.StatusCode.UNAVAILABLE)


async def _dials_and_offers(examination: Examination) -> None:
    await examination.stream()


async def _scores_each_function(examination: Examination) -> None:
    stream = await examination.stream()
    for name in stream.offer.functions:
        await examination.answers(stream, [examination.work(stream, function=name)])


async def _takes_as_much_as_it_offered_room_for(examination: Examination) -> None:
    stream = await examination.stream()
    count = min(stream.offer.max_held, MOST_AT_ONCE)
    for _ in range(2):
        await examination.answers(stream, [examination.work(stream, str(index)) for index in range(count)])


async def _takes_odd_texts(examination: Examination) -> None:
    stream = await examination.stream()
    for text in ODD_TEXTS:
        await examination.answers(stream, [examination.work(stream, text)])


async def _takes_odd_extra_info(examination: Examination) -> None:
    stream = await examination.stream()
    for extra_info in ODD_EXTRA_INFO:
        await examination.answers(stream, [examination.work(stream, extra_info=extra_info)])


async def _fails_what_it_does_not_offer(examination: Examination) -> None:
    stream = await examination.stream()
    (result,) = await examination.answers(stream, [examination.work(stream, function=NOT_OFFERED)])
    if result.status != rollout_pb2.SCORE_STATUS_FAILED:
        raise ViolationError(f"status {result.status} for a function that it does not offer; expected FAILED")


async def _ignores_what_it_does_not_know(examination: Examination) -> None:
    stream = await examination.stream()
    await stream.send(pb.AttachResponse())
    await examination.answers(stream, [examination.work(stream)])


async def _takes_slow_work(examination: Examination) -> None:
    stream = await examination.stream()
    for _ in range(3):
        await asyncio.sleep(PAUSE_SECONDS)
        await examination.answers(stream, [examination.work(stream)])


async def _comes_back(examination: Examination, code: grpc.StatusCode) -> None:
    before = await examination.stream()
    await before.send(pb.AttachResponse(work=pb.WorkBatch(work=[examination.work(before)])))
    before.end(code)
    after = await examination.stream()
    if after.offer.functions != before.offer.functions:
        raise ViolationError("it offers other functions than before")
    await examination.answers(after, [examination.work(after)])


async def _comes_back_after_a_loss(examination: Examination) -> None:
    await _comes_back(examination, grpc.StatusCode.UNAVAILABLE)


async def _comes_back_after_a_refusal(examination: Examination) -> None:
    await _comes_back(examination, grpc.StatusCode.INVALID_ARGUMENT)


RULES: dict[str, Callable[[Examination], Awaitable[None]]] = {
    "dials in, and its first message is a valid offer": _dials_and_offers,
    "answers work for each function, with the lease and the rollout of the work": _scores_each_function,
    "answers as much at once as it offered room for, each piece once": _takes_as_much_as_it_offered_room_for,
    "answers whatever the response holds: nothing, NUL, emoji, a megabyte": _takes_odd_texts,
    "answers whatever extra_info holds, even invalid JSON": _takes_odd_extra_info,
    "fails a function that it does not offer": _fails_what_it_does_not_offer,
    "ignores a message of a kind that it does not know": _ignores_what_it_does_not_know,
    "answers work that comes slowly": _takes_slow_work,
    "attaches again when the service stops, and does not answer the old work": _comes_back_after_a_loss,
    "attaches again when one of its answers was refused": _comes_back_after_a_refusal,
}


async def verdicts(examination: Examination) -> list[Verdict]:
    """One for each rule, in order; without a client the rest is not tried."""
    found: list[Verdict] = []
    for rule, check in RULES.items():
        try:
            await check(examination)
        except ViolationError as violation:
            found.append(Verdict(rule, str(violation)))
            if len(found) == 1:
                break
            examination.close()  # the next rule is tried on a fresh stream
        else:
            found.append(Verdict(rule, ""))
    return found
