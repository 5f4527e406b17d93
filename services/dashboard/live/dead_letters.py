"""What an answer says of the requests and records that were rejected."""

from services.dashboard.api_model import ApiModel
from services.dashboard.live.source import Observation


class DeadLetterStatus(ApiModel):
    """A request or a record that was rejected."""

    source: str
    """The stream that held it."""
    place: str
    """Its entry there."""
    cause: str


class DeadLettersStatus(ApiModel):
    """Requests and records that no process can use; docs/architecture.md says where they stand."""

    num_kept: int
    num_dropped: int
    """The oldest, beyond the bound."""
    newest: list[DeadLetterStatus]


def dead_letters_of(observation: Observation) -> DeadLettersStatus:
    """As Redis has them."""
    count = observation.dead_letters
    newest = [
        DeadLetterStatus(source=one.source, place=one.place, cause=one.cause) for one in observation.newest_dead_letters
    ]
    return DeadLettersStatus(num_kept=count.num_kept, num_dropped=count.num_dropped, newest=newest)
