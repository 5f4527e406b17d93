"""What the learner knows of generators by their heartbeats."""

from learner.exchange.live_peers import PresentProcesses
from tppo.process.presence import Presence, announce
from tppo.streams.connection import RedisClient


def a_generator(num_tokens: int, *, address: str = "127.0.0.1:4000") -> Presence:
    status = {"num_tokens_generated": num_tokens}
    return Presence("g", "generation", address=address, started_at=1.0, pid=12, host="h", status=status)


async def test_counts_are_read_where_nobody_has_looked_for_generators(redis_client: RedisClient, run_name: str) -> None:
    await announce(redis_client, run_name, a_generator(7))

    totals = await PresentProcesses(redis_client, run_name).generation_totals()

    assert totals.num_tokens == 7


async def test_counts_are_those_of_the_last_look_for_generators(redis_client: RedisClient, run_name: str) -> None:
    processes = PresentProcesses(redis_client, run_name)
    for num_tokens in (7, 9):
        await announce(redis_client, run_name, a_generator(num_tokens))
        found = await processes.find_generators()
        totals = await processes.generation_totals()
        assert (found["g"].address, totals.num_tokens) == ("127.0.0.1:4000", num_tokens)


async def test_a_generator_without_an_address_takes_no_weights_and_is_counted(
    redis_client: RedisClient, run_name: str
) -> None:
    await announce(redis_client, run_name, a_generator(7, address=""))
    processes = PresentProcesses(redis_client, run_name)

    assert await processes.find_generators() == {}
    assert (await processes.generation_totals()).num_tokens == 7
