"""Where a reward function runs: in the service itself, in a worker that may be killed, or in a user's own process."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from services.reward.verifiers.built_in import BUILT_IN
from services.reward.verifiers.expressions import Term, terms


class Place(Enum):
    """Where a function is called."""

    INLINE = auto()  # built-ins whose time is bounded
    WORKER = auto()
    ATTACHED = auto()


@dataclass(frozen=True, slots=True)
class Call:
    """What is called at one place, and its part in the sum."""

    place: Place
    spec: str  # ATTACHED: the offered name
    term: Term


@functools.cache
def calls(spec: str) -> tuple[Call, ...]:
    """One call for the whole expression, or, if a user's process or file takes part, one for each of its terms: calls
    of an asynchronous function overlap, and a slow built-in beside it would hold all of them up.

    Raises ValueError with one sentence.
    """
    found = terms(spec)
    if any(term.is_attached for term in found) or (len(found) > 1 and any(term.is_file for term in found)):
        return tuple(map(_call, found))
    return (Call(_place(found), spec, Term(1.0, spec, spec)),)


def specs_at(place: Place, specs: Iterable[str]) -> list[str]:
    """What is called there by any of the functions; each once, in order. Raises ValueError with one sentence."""
    return sorted({call.spec for spec in specs for call in calls(spec) if call.place is place})


def _call(term: Term) -> Call:
    if term.is_attached:
        return Call(Place.ATTACHED, term.name.partition(":")[2], term)
    return Call(_place([term]), term.spec, term)


def _place(found: Sequence[Term]) -> Place:
    is_bounded = all(term.name in BUILT_IN and BUILT_IN[term.name].is_bounded for term in found)
    return Place.INLINE if is_bounded else Place.WORKER
