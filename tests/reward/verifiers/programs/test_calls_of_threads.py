"""Threads of tests that call a program at once, and threads of a program that call what the tests gave it."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.reward.verifiers.sandbox.inside.calls.peer import Peer
from tests.reward.verifiers.programs.scoring import outcome

NUM_THREADS, NUM_CALLS = 8, 400


class Functions(Peer):
    """Offers functions by their names."""

    def named(self, name: str) -> object:
        return {"plus_one": plus_one, "mapped": mapped}[name]


def plus_one(number: int) -> int:
    return number + 1


def mapped(function: Any, count: int) -> list[Any]:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(function, range(count)))


@pytest.fixture
def caller() -> Iterator[Peer]:
    """A peer whose other end serves in a thread."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        serving = threading.Thread(target=Functions(theirs, {}).serve_until_closed)
        serving.start()
        yield Peer(ours, {})
        ours.shutdown(socket.SHUT_RDWR)
        serving.join()


def test_threads_may_call_at_once(caller: Peer) -> None:
    function = caller.request({"do": "get", "name": "plus_one"})

    assert mapped(function, NUM_CALLS) == list(range(1, NUM_CALLS + 1))


def test_threads_of_what_is_called_may_call_back_at_once(caller: Peer) -> None:
    function = caller.request({"do": "get", "name": "mapped"})

    assert function(plus_one, NUM_CALLS) == list(range(1, NUM_CALLS + 1))


def test_threads_may_hand_over_functions_at_once(caller: Peer) -> None:
    function = caller.request({"do": "get", "name": "mapped"})

    assert mapped(lambda number: function(lambda one: one * number, 3), 50) == [[0, n, 2 * n] for n in range(50)]


@pytest.mark.process
@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (
            "def add(a, b):\n    return a + b",
            "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(8) as pool:\n"
            "    found = list(pool.map(add, range(300), range(300)))\nassert found == [2 * n for n in range(300)]",
        ),
        (
            "from concurrent.futures import ThreadPoolExecutor\ndef apply(f, values):\n"
            "    with ThreadPoolExecutor(8) as pool:\n        return list(pool.map(f, values))",
            "assert apply(lambda n: 2 * n, list(range(300))) == [2 * n for n in range(300)]",
        ),
    ],
    ids=["of the tests", "of the program"],
)
def test_programs_with_threads_are_judged(program: str, tests: str) -> None:
    assert outcome(program, tests).score == 1.0
    assert outcome(program.replace("a + b", "a").replace("pool.map(f, values)", "values"), tests).score == 0.0
