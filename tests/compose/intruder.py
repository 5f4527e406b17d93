"""What somebody tries who has taken a worker's container over, with all that is found in there.

    docker exec --interactive CONTAINER python - RUN generation|reward < tests/compose/intruder.py

Prints a line of JSON for each attempt: what it is, and "done" or the refusal. Another error ends it.
"""

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from tppo import codec
from tppo.rollout import Action, Command, InboxRecord, Score, ScoreStatus
from tppo.security.envelope import Sealer, Writer
from tppo.security.environment import secret_from_environment
from tppo.security.redis_address import redis_url_from_environment
from tppo.security.redis_users import EVERY_RUN, RedisUser, url_of_user
from tppo.streams import StreamsDenied
from tppo.streams.connection import RedisClient, connect
from tppo.streams.redis import RedisStreams

SECRETS = Path("/run/secrets")
STOP = "http://dashboard:8265/api/v1/control/stop-after-step"
STOPPING = Command("stop", Action.STOP_AFTER_STEP)
SCORE = Score("0-0-0", 0, ScoreStatus.SCORED, score=1.0)
FORGED: list[tuple[InboxRecord, Writer | None]] = [
    (STOPPING, None),
    (STOPPING, Writer.OPERATOR),
    (STOPPING, Writer.GENERATION),
    (STOPPING, Writer.REWARD),
    (SCORE, Writer.GENERATION),
    (SCORE, Writer.REWARD),
]
"""Records, and as whom they are sealed; nobody's key but the container's own is there."""


def report(attempt: str, outcome: str) -> None:
    print(json.dumps({"attempt": attempt, "outcome": outcome}), flush=True)


async def forge(client: RedisClient, run: str, own: Writer) -> None:
    """Into the inbox, to which a worker may append."""
    key = secret_from_environment(own.variable)
    for record, role in FORGED:
        if record is SCORE and role is own is Writer.REWARD:
            continue  # its own work
        seal = bytes if role is None else Sealer(role, key).seal
        inbox = RedisStreams(client, run=run, lease_seconds=60, seal=seal).inbox
        await inbox.append([codec.encode_inbox_record(record)])
        report(f"{type(record).__name__.lower()}, sealed as {role or 'nobody'}", "appended")


def commands_of_others(run: str, own: Writer) -> Iterator[tuple[str, ...]]:
    key = f"tppo:{{{run}}}:"
    others = "reward_requests" if own is Writer.GENERATION else "window_requests"
    yield "XREAD", "STREAMS", f"{key}inbox", "0"
    yield "XTRIM", f"{key}inbox", "MAXLEN", "0"
    yield "XADD", f"{key}{others}", "*", "payload", "forged"
    yield "XREADGROUP", "GROUP", "workers", "me", "STREAMS", f"{key}{others}", ">"
    yield "SET", f"{key}weights", "9 9 blake3:00"
    yield "SET", f"{key}fence", "99"
    yield "HSET", f"{key}presence:learner", "learner", "{}"
    yield "FLUSHALL", "ASYNC"
    yield "SHUTDOWN", "NOSAVE"
    yield "ACL", "LIST"
    yield "CONFIG", "GET", "*"


async def run_commands_of_others(client: RedisClient, run: str, own: Writer) -> None:
    for command in commands_of_others(run, own):
        try:
            await client.execute_command(*command)
        except StreamsDenied as error:
            report(" ".join(command), f"NOPERM, {error}")
        else:
            report(" ".join(command), "done")


async def log_in_as_others(url: str, own: Writer) -> None:
    password = urlsplit(url).password or ""
    for name in ("default", *(user for user in RedisUser if user != str(own))):
        try:
            client = await connect(url_of_user(url, EVERY_RUN, name, password))  # type: ignore[arg-type]
        except StreamsDenied as error:
            report(f"Redis as {name}", str(error))
        else:
            await client.aclose()
            report(f"Redis as {name}", "done")


def steer() -> None:
    """With every secret that is here, as a bearer token."""
    for path in sorted(SECRETS.iterdir()):
        request = urllib.request.Request(STOP, data=b"{}", method="POST")
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Bearer {path.read_text().strip()}")
        try:
            with urllib.request.urlopen(request, timeout=30):
                report(f"stop on the page, by {path.name}", "done")
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.UNAUTHORIZED:
                raise
            report(f"stop on the page, by {path.name}", f"{error.code} {error.reason}")


async def main(run: str, own: Writer) -> None:
    report("secrets", " ".join(sorted(os.listdir(SECRETS))))
    report("files of runs", " ".join(sorted(os.listdir("/runs"))) or "none")
    url = redis_url_from_environment()
    async with await connect(url) as client:
        await forge(client, run, own)
        await run_commands_of_others(client, run, own)
    await log_in_as_others(url, own)
    await asyncio.to_thread(steer)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Writer[sys.argv[2].upper()]))
