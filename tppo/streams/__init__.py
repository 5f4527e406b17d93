"""Work and its results between the processes: request queues with leases, and the learner's inbox, a log."""

from tppo.streams.contract import (
    Inbox,
    InboxEntry,
    Lease,
    QueueDepth,
    RequestQueue,
    Streams,
    StreamsDenied,
    StreamsError,
    StreamsUnavailable,
)
from tppo.streams.memory import MemoryStreams
from tppo.streams.retry import until_redis_answers

__all__ = [
    "Inbox",
    "InboxEntry",
    "Lease",
    "MemoryStreams",
    "QueueDepth",
    "RequestQueue",
    "Streams",
    "StreamsDenied",
    "StreamsError",
    "StreamsUnavailable",
    "until_redis_answers",
]
