"""What a queue still holds."""

from tppo.streams import RequestQueue
from tppo.streams.contract import BEGINNING


async def outstanding(queue: RequestQueue) -> list[bytes]:
    """The payloads of all requests that are not completed, in order."""
    payloads: list[bytes] = []
    after = BEGINNING
    while page := await queue.outstanding(after, max_count=100):
        payloads += [one.payload for one in page]
        after = page[-1].entry_id
    return payloads
