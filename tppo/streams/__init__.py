"""Work and its results between the processes: request queues with leases, and the learner's inbox, a log."""

from tppo.streams.contract import Inbox, InboxEntry, Lease, QueueDepth, RequestQueue, Streams
from tppo.streams.memory import MemoryStreams
from tppo.streams.redis import RedisStreams, connect

__all__ = [
    "Inbox",
    "InboxEntry",
    "Lease",
    "MemoryStreams",
    "QueueDepth",
    "RedisStreams",
    "RequestQueue",
    "Streams",
    "connect",
]
