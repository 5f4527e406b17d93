"""The users of a run's Redis: each role may run the commands that its work needs, on the keys that it needs them on.

Redis checks the commands of a script as it checks others, by whoever runs it. So a user needs the right to run scripts
on all keys that they name, and beside it the right to each command inside, on its key alone: a generator appends to
the inbox, and can neither read nor delete it. docs/security.md has the table that `RIGHTS` is.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, urlsplit

EVERYBODY = ("ping", "time", "info", "select", "script|load")
"""Commands that name no key."""
SCRIPTS = ("eval", "evalsha")
EVERY_RUN = "*"
"""In place of a run's name: users of a server whose runs are one operator's, one after the other."""


class RedisUser(StrEnum):
    """A role, as Redis knows it."""

    GENERATION = "generation"
    REWARD = "reward"
    LEARNER = "learner"
    DASHBOARD = "dashboard"


@dataclass(frozen=True, slots=True)
class Right:
    """Commands, and the keys of the run on which a user may run them; a key ends in what stands here."""

    commands: tuple[str, ...]
    keys: tuple[str, ...]

    def rule(self, run: str) -> str:
        """As a selector of Redis' ACL."""
        parts = [*(f"+{command}" for command in self.commands), *(f"~tppo:{{{run}}}:{key}" for key in self.keys)]
        return f"({' '.join(parts)})"


def _presence(kind: str) -> tuple[Right, ...]:
    """Announcing oneself, and seeing who else is there."""
    return (
        Right(("hset", "hdel"), (f"presence:{kind}",)),
        Right(("hvals",), ("presence:*",)),
        Right(("get",), ("fence",)),
    )


def _appending() -> tuple[Right, ...]:
    """Records into the inbox, behind its highest position."""
    return Right(("xadd", "xinfo|stream"), ("inbox",)), Right(("get", "set"), ("position",))


def _serving(kind: str, queue: str) -> tuple[Right, ...]:
    """A worker's: leases, answers, dead letters."""
    scripted = (queue, "inbox", "position", "dead_letters", "dead_letter_counts", "fence", f"presence:{kind}")
    return (
        Right(SCRIPTS, scripted),
        Right(("xpending", "xgroup|create", "xreadgroup", "xclaim", "xack", "xdel", "xlen"), (queue,)),
        *_appending(),
        Right(("xadd", "xtrim"), ("dead_letters",)),
        Right(("hincrby",), ("dead_letter_counts",)),
        *_presence(kind),
    )


OF_THE_LEARNER = (
    *("get", "set", "del", "exists", "pttl", "pexpire", "hget", "hset", "hdel", "hvals", "hincrby"),
    *("xadd", "xlen", "xrange", "xrevrange", "xread", "xtrim", "xinfo|stream", "xpending", "xgroup|create"),
)
RIGHTS: Mapping[RedisUser, tuple[Right, ...]] = {
    RedisUser.GENERATION: (*_serving("generation", "window_requests"), Right(("get",), ("weights",))),
    RedisUser.REWARD: _serving("reward", "reward_requests"),
    RedisUser.LEARNER: (Right((*SCRIPTS, *OF_THE_LEARNER), ("*",)),),
    RedisUser.DASHBOARD: (
        Right(SCRIPTS, ("window_requests", "reward_requests", "inbox", "position", "fence", "presence:dashboard")),
        Right(("xpending", "xgroup|create", "xlen"), ("window_requests", "reward_requests")),
        *_appending(),
        Right(("xlen",), ("inbox",)),
        Right(("xlen", "xrevrange"), ("dead_letters",)),
        Right(("hget",), ("dead_letter_counts",)),
        *_presence("dashboard"),
    ),
}
"""What each may, beside `EVERYBODY`'s commands; nothing else."""


def acl_lines(run: str, passwords: Mapping[RedisUser, str]) -> Iterator[str]:
    """The users of a run, for a server's configuration or its ACL file; of passwords the hash alone."""
    everybody = " ".join(f"+{command}" for command in EVERYBODY)
    for user, password in passwords.items():
        rules = " ".join(right.rule(run) for right in RIGHTS[user])
        yield f"user {user_name(run, user)} reset on {_hashed(password)} {everybody} {rules}"


def administrator_line(password: str) -> str:
    """The default user, who may do everything: an ACL file without one lets everybody in."""
    return f"user default reset on {_hashed(password)} ~* &* +@all"


def _hashed(password: str) -> str:
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


def user_name(run: str, user: RedisUser) -> str:
    """Runs may share a server."""
    return str(user) if run == EVERY_RUN else f"{run}.{user}"


def url_of_user(url: str, run: str, user: RedisUser, password: str) -> str:
    """The server's address for this user."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    name = quote(user_name(run, user), safe="")
    return parts._replace(netloc=f"{name}:{quote(password, safe='')}@{host}").geturl()
