"""What stands for a function, an iterator or an object of the other process."""

from typing import Any, NoReturn, Protocol, Self

MAX_ITEMS = 10**6  # of an iterator on the other side: a judge's `list` of an endless one ends
ASKED_DUNDERS = ("__name__", "__qualname__", "__doc__", "__wrapped__")


class CallsOtherSide(Protocol):
    """The end of the connection by which the other side is called."""

    def request(self, frame: dict[str, Any], /) -> Any: ...

    def call(
        self, number: int, args: tuple[object, ...], kwargs: dict[str, object], /, *, in_place: bool = ...
    ) -> Any: ...


class ClosedError(BaseException):
    """The other process has ended or closed the connection; no test catches it as an exception of the program."""


class ProgramError(Exception):
    """The other side raised what is no exception of Python's own, or sent what is no answer."""


class Remote:
    """A function or an object of the other side."""

    def __init__(self, peer: CallsOtherSide, number: int, name: str) -> None:
        self._tppo = (peer, number, name)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        peer, number, _ = self._tppo
        return peer.call(number, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ASKED_DUNDERS:  # what copy, inspect and pytest look for
            raise AttributeError(name)
        peer, number, _ = self._tppo
        return peer.request({"do": "attribute", "on": number, "name": name})

    def __repr__(self) -> str:
        return f"<{self._tppo[2]} of the program>"


class RemoteIterator(Remote):
    """An iterator of the other side."""

    _num_items = 0
    _has_ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._has_ended:  # whatever the other side would say: tests that look at it twice see nothing new
            raise StopIteration
        self._num_items += 1
        if self._num_items > MAX_ITEMS:
            raise ProgramError(f"an iterator with more than {MAX_ITEMS} items")
        peer, number, _ = self._tppo
        try:
            return peer.request({"do": "next", "on": number})
        except StopIteration:
            self._has_ended = True
            raise


class StrictRemote(Remote):
    """The judge's: it stands for no value, so that no check can pass by it."""

    def _refuse(self, *_: object) -> NoReturn:
        raise ProgramError(f"{self!r} where data was expected")

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __hash__ = object.__hash__


class StrictIterator(StrictRemote, RemoteIterator):
    """The judge's, of an iterator."""
