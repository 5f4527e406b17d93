"""Who becomes a rank of the group: rank 0 listens until all are there, and for nobody afterwards.

Loop `_accept`, in a thread: consumes connections / waits for one / unblocked by a rank / produces a handshake, in a
thread of its own, `MAX_HANDSHAKES` at most at once.
"""

import logging
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from learner.ranks.channel import ChannelError, RefusedRankError, examine
from learner.ranks.place import why_not_together

logger = logging.getLogger(__name__)

ACCEPT_SECONDS = 0.5
MAX_HANDSHAKES = 64


@dataclass(frozen=True, slots=True)
class Meeting:
    """What decides who belongs to the group."""

    listening: socket.socket
    token: str
    own: Mapping[str, Any]  # what rank 0 says of itself
    limit_seconds: float  # after which a missing heartbeat ends the group


class Host(Protocol):
    """The group that ranks are admitted to."""

    @property
    def is_closed(self) -> bool:
        """Whether all are there, or nobody is admitted any more."""

    def admit(self, opened: socket.socket, other: Mapping[str, Any]) -> bool:
        """Take a rank that belongs to the group; False where it is there already."""

    def refuse(self, sentence: str) -> None:
        """Note that a rank does not belong to the group."""


class Admission:
    """Of one group."""

    def __init__(self, meeting: Meeting, host: Host) -> None:
        self._meeting, self._host = meeting, host
        self._room = threading.BoundedSemaphore(MAX_HANDSHAKES)

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        listening = self._meeting.listening
        while not self._host.is_closed:
            try:
                listening.settimeout(ACCEPT_SECONDS)
                opened, _ = listening.accept()
            except TimeoutError:
                continue
            except OSError:
                return  # closed
            self._room.acquire()
            threading.Thread(target=self._examine, args=(opened,), daemon=True).start()
        listening.close()  # whoever comes later, as a rank that was frozen, is none of this group

    def _examine(self, opened: socket.socket) -> None:
        is_admitted = False
        try:
            other = examine(opened, self._meeting.token, self._refusal, self._meeting.own)
            is_admitted = self._host.admit(opened, other)
        except RefusedRankError as refusal:
            self._host.refuse(str(refusal))
        except (OSError, ChannelError) as error:
            logger.warning("a connection was not admitted as a rank: %s", error)
        finally:
            self._room.release()
            if not is_admitted:
                opened.close()

    def _refusal(self, other: Mapping[str, Any]) -> str:
        return why_not_together(self._meeting.own, other)
