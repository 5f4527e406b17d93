"""Each role's user of Redis does its work on a real server, and nothing beyond it."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.dashboard.live.source import RedisSource
from tests.support.outstanding import outstanding
from tests.support.redis_server import StartRedis
from tppo.announced_weights import AnnouncedWeights, announce_weights, announced_weights
from tppo.process.presence import announce, present, this_process, withdraw
from tppo.rollout import Action, Command
from tppo.security.envelope import Sealer, Writer
from tppo.security.redis_users import (
    EVERY_RUN,
    EVERYBODY,
    RIGHTS,
    RedisUser,
    acl_lines,
    administrator_line,
    url_of_user,
)
from tppo.streams import StreamsDenied, StreamsError
from tppo.streams.connection import RedisClient, connect
from tppo.streams.contract import BEGINNING, DeadLetter
from tppo.streams.fence import UNFENCED, Fence
from tppo.streams.redis import RedisStreams

RUN = "a-run"
KEY = f"tppo:{{{RUN}}}:"
PASSWORDS = {user: f"password-of-{user}" for user in RedisUser}
QUEUES = {RedisUser.GENERATION: "window_requests", RedisUser.REWARD: "reward_requests"}
DIGEST = "blake3:00"


@pytest.fixture(scope="module", params=[RUN, EVERY_RUN], ids=["of a run", "of every run"])
def users_run(request: pytest.FixtureRequest) -> str:
    """Users may be one run's, or of all runs of a server."""
    run: str = request.param
    return run


@pytest.fixture(scope="module")
def server_url(users_run: str, start_redis: StartRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("redis")
    (folder / "users.conf").write_text("\n".join(acl_lines(users_run, PASSWORDS)) + "\n")
    with start_redis(folder / "data", "--include", str(folder / "users.conf")) as server:
        yield server.url


@pytest.fixture
async def clients(server_url: str, users_run: str) -> AsyncIterator[dict[RedisUser, RedisClient]]:
    async with AsyncExitStack() as stack:
        opened = {user: await connect(url_of_user(server_url, users_run, user, PASSWORDS[user])) for user in RedisUser}
        for client in opened.values():
            await stack.enter_async_context(client)
        yield opened


@pytest.fixture
async def learner(clients: dict[RedisUser, RedisClient]) -> AsyncIterator[RedisStreams]:
    """With the lease of the run, which begins empty."""
    client = clients[RedisUser.LEARNER]
    fence = Fence(client, RUN, host="here", lease_seconds=60)
    incarnation = await fence.acquire(1)
    assert isinstance(incarnation, int)
    streams = RedisStreams(client, run=RUN, lease_seconds=60, incarnation=incarnation)
    await streams.discard()
    yield streams
    await fence.renew(incarnation, "1-0")
    await fence.release(incarnation)


@pytest.mark.parametrize("user", QUEUES)
async def test_a_worker_serves_its_queue(
    clients: dict[RedisUser, RedisClient], learner: RedisStreams, user: RedisUser
) -> None:
    client = clients[user]
    queue, own = getattr(learner, QUEUES[user]), getattr(RedisStreams(client, run=RUN, lease_seconds=60), QUEUES[user])
    await announce_weights(clients[RedisUser.LEARNER], RUN, AnnouncedWeights(UNFENCED, 0, DIGEST))
    await queue.put([b"a", b"b", b"c"])

    await announce(client, RUN, this_process("worker", user))
    leases = await own.lease("worker", max_count=3, wait_seconds=0.01)
    await own.renew("worker", leases)
    await own.release("worker", leases[2:])
    assert await own.complete("worker", [(leases[0], b"answer")]) == [True]
    assert await own.reject("worker", leases[1], "no request")
    assert user in [one.kind for one in await present(client, RUN, gone_after_seconds=3600)]
    await withdraw(client, RUN, this_process("worker", user))

    assert await outstanding(queue) == [b"c"]
    entries = await learner.inbox.read(BEGINNING, max_count=9, wait_seconds=0)
    assert [entry.payload for entry in entries] == [b"answer"]
    assert (await learner.dead_letters.newest(1))[0].cause == "no request"
    assert await learner.dead_letters.count()
    if user is RedisUser.GENERATION:
        assert await announced_weights(client, RUN) == AnnouncedWeights(UNFENCED, 0, DIGEST)


async def test_the_dashboard_looks_and_commands(
    clients: dict[RedisUser, RedisClient], learner: RedisStreams, server_url: str, users_run: str
) -> None:
    user = RedisUser.DASHBOARD
    url = url_of_user(server_url, users_run, user, PASSWORDS[user])
    source = RedisSource(url, run=RUN, lease_seconds=60, sealer=Sealer(Writer.OPERATOR, "key"))
    await learner.window_requests.put([b"a"])
    await learner.dead_letters.add_records([DeadLetter("inbox", "9-0", "cause", b"")])

    await announce(clients[user], RUN, this_process("dashboard", user))
    await source.append(Command("1", Action.PAUSE))
    found = await source.observe()
    await source.aclose()

    assert (found.window_requests.num_waiting, found.num_inbox_entries) == (1, 1)
    assert user in [one.kind for one in found.presences]
    assert [one.cause for one in found.newest_dead_letters][:1] == ["cause"]


async def test_the_learner_trims_what_it_has_read_and_sees_whether_the_server_is_full(learner: RedisStreams) -> None:
    await learner.inbox.append([b"a", b"b"])
    (first, _) = await learner.inbox.read(BEGINNING, max_count=2, wait_seconds=0.01)

    await learner.inbox.trim(first.position)

    assert (await learner.inbox.length(), await learner.is_full()) == (1, False)
    assert (await learner.reward_requests.depth()).num_waiting == 0


async def test_the_learner_finds_out_which_of_its_requests_are_left(
    clients: dict[RedisUser, RedisClient], learner: RedisStreams
) -> None:
    for user, name in QUEUES.items():
        queue, own = getattr(learner, name), getattr(RedisStreams(clients[user], run=RUN, lease_seconds=60), name)
        first, second, third = await queue.put([b"a", b"b", b"c"])
        lease, _ = await own.lease("worker", max_count=2, wait_seconds=0.01)
        await own.complete("worker", [(lease, b"answer")])

        assert await queue.remaining([first, second, third]) == {second, third}
        assert [one.entry_id for one in await queue.outstanding(max_count=9)] == [second, third]
    entries = await learner.inbox.read(BEGINNING, max_count=9, wait_seconds=0.01)
    assert await learner.inbox.last() == entries[-1].position


OF_OTHERS = {
    RedisUser.GENERATION: [
        ("XADD", KEY + "window_requests", "*", "payload", "forged"),
        ("XADD", KEY + "reward_requests", "*", "payload", "forged"),
        ("XRANGE", KEY + "reward_requests", "-", "+"),
        ("XREADGROUP", "GROUP", "workers", "me", "STREAMS", KEY + "reward_requests", ">"),
        ("XREAD", "STREAMS", KEY + "inbox", "0"),
        ("XRANGE", KEY + "inbox", "-", "+"),
        ("XDEL", KEY + "inbox", "1-0"),
        ("XTRIM", KEY + "inbox", "MAXLEN", "0"),
        ("SET", KEY + "weights", "1 1 blake3:00"),
        ("SET", KEY + "fence", "99"),
        ("DEL", KEY + "learner"),
        ("HSET", KEY + "presence:learner", "learner", "{}"),
        ("HSET", KEY + "presence:reward", "reward-0", "{}"),
        ("XRANGE", KEY + "dead_letters", "-", "+"),
        ("EVAL", "return redis.call('SET', KEYS[1], '99')", "1", KEY + "fence"),
        ("EVAL", "return redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)", "1", KEY + "inbox"),
        ("EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", KEY + "weights"),
    ],
    RedisUser.REWARD: [
        ("XADD", KEY + "reward_requests", "*", "payload", "forged"),
        ("XREADGROUP", "GROUP", "workers", "me", "STREAMS", KEY + "window_requests", ">"),
        ("XREAD", "STREAMS", KEY + "inbox", "0"),
        ("XTRIM", KEY + "inbox", "MAXLEN", "0"),
        ("GET", KEY + "weights"),
        ("SET", KEY + "fence", "99"),
        ("HSET", KEY + "presence:generation", "generation-0", "{}"),
        ("EVAL", "return redis.call('XADD', KEYS[1], '*', 'payload', 'x')", "1", KEY + "reward_requests"),
    ],
    RedisUser.DASHBOARD: [
        ("XREAD", "STREAMS", KEY + "inbox", "0"),
        ("XTRIM", KEY + "inbox", "MAXLEN", "0"),
        ("XADD", KEY + "window_requests", "*", "payload", "forged"),
        ("XRANGE", KEY + "reward_requests", "-", "+"),
        ("XREADGROUP", "GROUP", "workers", "me", "STREAMS", KEY + "window_requests", ">"),
        ("SET", KEY + "weights", "1 1 blake3:00"),
        ("SET", KEY + "fence", "99"),
        ("HSET", KEY + "presence:generation", "generation-0", "{}"),
    ],
    RedisUser.LEARNER: [("GET", "fence"), ("XADD", "another:{a-run}:inbox", "*", "payload", "forged")],
}
OF_ANOTHER_RUN = [
    ("GET", "tppo:{another-run}:fence"),
    ("XADD", "tppo:{another-run}:inbox", "*", "payload", "forged"),
]
OF_AN_ADMINISTRATOR = [
    ("FLUSHALL",),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "me", "on"),
    ("SHUTDOWN", "NOSAVE"),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("MONITOR",),
    ("CLIENT", "LIST"),
    ("SCRIPT", "FLUSH"),
    ("FUNCTION", "LIST"),
    ("PUBLISH", "channel", "text"),
]


@pytest.mark.parametrize("user", RedisUser)
async def test_what_is_anothers_is_refused(
    clients: dict[RedisUser, RedisClient], user: RedisUser, users_run: str
) -> None:
    allowed = []
    for command in [*OF_OTHERS[user], *OF_AN_ADMINISTRATOR, *(OF_ANOTHER_RUN if users_run == RUN else [])]:
        try:
            await clients[user].execute_command(*command)
        except StreamsDenied:
            pass
        except StreamsError as error:  # of a command within a script
            if not re.search("ACL failure in script|The user executing the script can't", str(error)):
                allowed.append((command, str(error)))
        else:
            allowed.append((command, "done"))

    assert allowed == []


async def test_nobody_is_a_user_with_anothers_password(server_url: str, users_run: str) -> None:
    with pytest.raises(StreamsDenied):
        await connect(url_of_user(server_url, users_run, RedisUser.LEARNER, PASSWORDS[RedisUser.GENERATION]))


def test_the_lines_for_the_server_hold_no_password() -> None:
    text = "\n".join([administrator_line("of-the-administrator"), *acl_lines(RUN, PASSWORDS)])

    assert not any(password in text for password in [*PASSWORDS.values(), "of-the-administrator"])


def test_the_documents_table_is_what_the_server_is_given() -> None:
    document = Path(__file__).parents[2] / "docs" / "security.md"
    rows = re.findall(r"^\| `run\.(\w+)` \| (.+?) \| (.+?) \|$", document.read_text(), flags=re.MULTILINE)

    found: dict[str, list[tuple[str, str]]] = {}
    for user, keys, commands in rows:
        found.setdefault(user, []).append((keys, commands))

    def shown(names: tuple[str, ...]) -> str:
        return ", ".join(f"`{name.replace('|', ' ')}`" for name in names)

    assert found == {
        user: [(shown(right.keys), shown(right.commands)) for right in rights] for user, rights in RIGHTS.items()
    }
    assert f"What names no key: {shown(EVERYBODY)}" in document.read_text().replace("\n", " ")
