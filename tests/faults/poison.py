"""Records that no run can use, put straight into its streams, as a broken or malicious generator or a stranger would.

Each is about a rollout that the run waits for, where there is one at that moment: what is nobody's is easily ignored.
"""

import math
import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tppo import codec
from tppo.rollout import (
    Action,
    Command,
    FinishReason,
    Score,
    ScoreStatus,
    VersionSpan,
    Window,
    WindowRequest,
    logprobs,
    tokens,
)
from tppo.security.envelope import PLAIN, SealedRecords, Writer, writer_of
from tppo.streams.connection import RedisClient
from tppo.streams.redis import FIELD, GROUP

PREFIX = "tppo:{quickstart}"
REQUESTS = f"{PREFIX}:window_requests"
MANY_LOOKS = 200
NUM_TOKENS = 24  # more than the tail that trains no policy
NOBODY = WindowRequest("0-0-0", 0, tokens(), tokens(), 1, (), 1.0, 0)  # where nothing is requested in that moment
Make = Callable[[WindowRequest, random.Random], Sequence[bytes]]


def a_window(
    request: WindowRequest, *, token: int = 1, logprob: float = -0.5, version: int = 0, **fields: object
) -> bytes:
    """An answer to the request, right but for what is named."""
    parts: dict[str, object] = {
        "rollout_id": request.rollout_id,
        "window_index": request.window_index,
        "tokens": tokens([1] * (NUM_TOKENS - 1) + [token]),
        "logprobs": logprobs([-0.5] * (NUM_TOKENS - 1) + [logprob]),
        "version_spans": (VersionSpan(version, NUM_TOKENS),),
        "finish_reason": FinishReason.LENGTH,
    }
    return codec.encode_inbox_record(Window(**{**parts, **fields}))  # type: ignore[arg-type]


def _other_rollouts(request: WindowRequest, source: random.Random) -> Sequence[bytes]:
    names = ["", "no rollout", "0-999999999-0", "00-0-0", "0-0-99", "evaluation-0-99999", "9" * 5000, "0-0-0\n"]
    windows = [a_window(request, rollout_id=name) for name in names]
    scores = [codec.encode_inbox_record(Score(name, 0, ScoreStatus.SCORED, 1.0)) for name in names]
    return source.sample([*windows, *scores], 4)


def _logprobs(request: WindowRequest, source: random.Random) -> Sequence[bytes]:
    return [a_window(request, logprob=source.choice([0.25, math.nan, math.inf, -math.inf]))]


def _scores(request: WindowRequest, source: random.Random) -> Sequence[bytes]:
    score = Score(request.rollout_id, 0, ScoreStatus.SCORED, source.choice([math.nan, math.inf, -math.inf, 1e300]))
    return [codec.encode_inbox_record(score)]


def _commands(_: WindowRequest, source: random.Random) -> Sequence[bytes]:
    arguments: list[tuple[Action, Mapping[str, str]]] = [
        (Action.SET, {"key": '"actor.lr"', "value": '"much"'}),
        (Action.SET, {"key": "actor.lr", "value": "{"}),
        (Action.SET, {"key": '"no.such"', "value": "1"}),
        (Action.SET, {}),
        (Action.ROLL_BACK, {"version": "1000000"}),
        (Action.ROLL_BACK, {"version": '"x"'}),
        (Action.STOP_AFTER_STEP, {"step": "[]"}),
        (Action.RETRY_PARKED, {"rollouts": "7"}),
        (Action.DROP_PARKED, {"rollouts": '["nobody"]'}),
    ]
    chosen = source.sample(arguments, 3)
    return [codec.encode_inbox_record(Command(_name(source), action, given)) for action, given in chosen]


def _of_another_role(request: WindowRequest, source: random.Random) -> Sequence[bytes]:
    score = Score(request.rollout_id, 0, ScoreStatus.SCORED, 1.0)
    commands = [
        Command(_name(source), Action.STOP_AFTER_STEP),
        Command(_name(source), Action.PAUSE),
        Command(_name(source), Action.SET, {"key": '"actor.lr"', "value": "1.0"}),
        Command("resume-1", Action.RECONFIGURE, {"after_step": "0", "position": '"0-0"', "values": "{}"}),
    ]
    return [codec.encode_inbox_record(score), *map(codec.encode_inbox_record, commands)]


def _without_envelope(request: WindowRequest, source: random.Random) -> Sequence[bytes]:
    return [a_window(request), *_of_another_role(request, source)]


def _name(source: random.Random) -> str:
    return uuid.UUID(int=source.getrandbits(128)).hex


def _bytes(_: WindowRequest, source: random.Random) -> Sequence[bytes]:
    return [b"", source.randbytes(10), source.randbytes(1000)]


@dataclass(frozen=True)
class Poison:
    """A kind: the records, and where they go."""

    make: Make
    stream: str = "inbox"
    takes_the_request: bool = False  # as one who answers it: there will be no other answer
    sealed_by: Writer | None = None  # None: by the role that may write such a record, generation for what is none
    is_sealed: bool = True

    def records(self, request: WindowRequest, source: random.Random, keys: SealedRecords) -> list[bytes]:
        """As they go into the stream."""
        made = self.make(request, source)
        if self.stream != "inbox" or not self.is_sealed:
            return list(made)
        return [keys.sealer(self.sealed_by or _writer(payload)).seal(payload) for payload in made]


def _writer(payload: bytes) -> Writer:
    try:
        return writer_of(PLAIN.record(payload))
    except ValueError:
        return Writer.GENERATION


KINDS: dict[str, Poison] = {
    "bytes in the inbox": Poison(_bytes),
    "bytes in window_requests": Poison(_bytes, "window_requests"),
    "bytes in reward_requests": Poison(_bytes, "reward_requests"),
    "token 10^6": Poison(lambda request, _: [a_window(request, token=10**6), a_window(request, token=-1)]),
    "policy version 2^31": Poison(lambda request, _: [a_window(request, version=2**31), a_window(request, version=-1)]),
    "a policy version to come": Poison(lambda request, _: [a_window(request, version=1000)]),
    "other rollouts": Poison(_other_rollouts),
    "log-probs that are none": Poison(_logprobs),
    "scores that are none": Poison(_scores),
    "commands that make no sense": Poison(_commands),
    "token 10^6 as the answer": Poison(lambda request, _: [a_window(request, token=10**6)], takes_the_request=True),
    "bytes as the answer": Poison(lambda _, source: [source.randbytes(50)], takes_the_request=True),
    "a generator that scores and commands": Poison(_of_another_role, sealed_by=Writer.GENERATION),
    "a reward worker that commands": Poison(lambda *of: _of_another_role(*of)[1:], sealed_by=Writer.REWARD),
    "records without an envelope": Poison(_without_envelope, is_sealed=False),
}


async def add(client: RedisClient, kind: Poison, source: random.Random, keys: SealedRecords) -> None:
    """Put records of the kind into the streams. `keys`: of the run."""
    entry_id, request = await _a_request(client, source)
    if kind.takes_the_request and entry_id:
        await client.xack(REQUESTS, GROUP, entry_id)
        await client.xdel(REQUESTS, entry_id)
    for payload in kind.records(request, source, keys):
        await client.xadd(f"{PREFIX}:{kind.stream}", {FIELD: payload})


async def _a_request(client: RedisClient, source: random.Random) -> tuple[bytes, WindowRequest]:
    """One that is out, if one is seen in time."""
    for _ in range(MANY_LOOKS):
        entries: Any = await client.xrange(REQUESTS)
        if requests := list(_training_requests(entries)):
            return source.choice(requests)
    return b"", NOBODY


def _training_requests(entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> Iterator[tuple[bytes, WindowRequest]]:
    for entry_id, fields in entries:
        with suppress(ValueError):  # poison too
            request = codec.decode_window_request(fields[FIELD])
            if request.rollout_id and not request.is_evaluation:
                yield entry_id, request
