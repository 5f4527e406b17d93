"""Calls between two processes over a socket: the judge's tests call the program, which calls what they handed it.

Both sides are the same: one sends a request and serves the other's requests until the answer comes. Frames are 4 bytes
of length, big-endian, then JSON. A function, an iterator, or an object that the protocol lets through stays where it
is, and the other side holds a `Remote`. A program that writes into the socket itself says nothing that it could not
have returned.

Threads share the connection: one at a time makes a request, and reads until its answer is there. What serves holds
nothing while a function runs, whose threads may make requests of their own.
"""

import builtins
import json
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any

from .remote import ClosedError, ProgramError, Remote, RemoteIterator
from .values import Encoded, Nodes, NotDataError, ValueReader, ValueWriter

Frame = dict[str, Any]
HEADER_BYTES = 4
MAX_FRAME_BYTES = 16 * 2**20
NOT_DATA = "not data"  # stands for the name of an exception
USES = ("call", "next", "attribute")
SHARED_BUILTINS = (
    *("int", "float", "str", "bool", "list", "dict", "tuple", "set", "frozenset", "bytes", "complex", "object"),
    *("len", "sum", "min", "max", "abs", "sorted", "any", "all", "repr", "ord", "chr", "round", "pow", "divmod"),
)


class Peer:
    """One end of the connection."""

    remote_class: type[Remote] = Remote
    iterator_class: type[Remote] = RemoteIterator

    def __init__(self, connection: socket.socket, node_classes: dict[str, type]) -> None:
        self._connection = connection
        self._node_classes = node_classes
        self._exported: list[object] = []
        self._numbers: dict[int, int] = {}
        self._reading = threading.RLock()  # from a request to its answer, and for the next request
        self._writing = threading.Lock()  # of a frame, or of what is exported
        self.num_uses = 0  # of what the other side has, beyond looking it up
        self.is_closed = False

    def request(self, frame: Frame, nodes: Nodes | None = None) -> Any:
        """What the other side answers; raises what it raised."""
        with self._reading:
            self.num_uses += frame["do"] in USES
            self._send(frame)
            while "do" in (answer := self._received()):
                self._serve(answer)
            return self._answered(frame, answer, nodes)

    def _answered(self, frame: Frame, answer: Frame, nodes: Nodes | None) -> Any:
        try:
            return self._value_of(answer, nodes or Nodes())
        except StopIteration as end:
            if frame["do"] == "next":
                raise
            # As in a generator: it would end a `map` in the tests, and their `all` of what it had before.
            raise RuntimeError(f"a function raised StopIteration{end.args!r:.100}") from None

    def call(self, number: int, args: tuple[object, ...], kwargs: dict[str, object], *, in_place: bool = True) -> Any:
        """Call a function of the other side; `in_place`: what it changes in its arguments changes here."""
        nodes = Nodes()
        message = self._encoder(nodes).message(*args, *kwargs.values())
        if not in_place:
            nodes = Nodes()
            self._decoder(nodes, self._own).values(message)  # copies
        return self.request({"do": "call", "on": number, "arguments": message, "names": list(kwargs)}, nodes)

    def serve_until_closed(self) -> None:
        """Answer requests until the other side is gone."""
        while True:
            try:
                with self._reading:
                    request = self._received()
            except ClosedError:
                return
            if "do" in request:
                self._serve(request)

    def _serve(self, request: Frame) -> None:
        nodes = Nodes()
        try:
            value = self._done(request, nodes)
            answer = {"message": self._encoder(nodes).message(value)}
        except ClosedError:
            raise
        except BaseException as error:  # a program's: whatever it is goes back to the caller
            answer = self._raised(error, nodes)
        try:
            self._send({**answer, **self._notes()})
        except (ValueError, NotDataError) as error:  # too large, or a text that is none
            self._send(self._raised(NotDataError(str(error)), Nodes()))

    def _done(self, request: Frame, nodes: Nodes) -> object:
        if request["do"] == "names":
            return self.names()
        if request["do"] == "get":
            return self.named(str(request["name"]))
        target: Any = self._exported[_index(request["on"])]
        if request["do"] == "attribute":
            return self.attribute(target, str(request["name"]))
        if request["do"] == "next":
            return next(target)
        values = self._decoder(nodes, self._resolved).values(request["arguments"])
        names = request["names"]
        num_args = len(values) - len(names)
        return target(*values[:num_args], **dict(zip(names, values[num_args:], strict=True)))

    def names(self) -> list[str]:
        """What `named` finds."""
        return []

    def named(self, name: str) -> object:
        """An object of this side that the other side may ask by name."""
        raise NameError(name)

    def attribute(self, target: object, name: str) -> object:
        """An attribute of an object that the other side has."""
        raise AttributeError(name)

    def crosses_as_object(self, value: object) -> bool:
        """Whether an object that is no data may be held by the other side."""
        return False

    def _notes(self) -> Frame:
        """What else an answer says."""
        return {}

    def _heed(self, answer: Frame) -> None:
        """What else an answer said."""

    def _value_of(self, answer: Frame, nodes: Nodes) -> Any:
        self._heed(answer)
        try:
            (value,) = self._decoder(nodes, self._resolved).values(answer["message"])
        except Exception as error:  # whatever the other side sent, it is no value
            raise ProgramError(f"an answer that is no data: {error!r:.200}") from None
        if "raised" not in answer:
            return value
        raise self.error_of(str(answer["raised"]), value if isinstance(value, tuple) else (), str(answer.get("text")))

    def error_of(self, name: str, args: tuple[object, ...], text: str) -> BaseException:
        """The exception that stands here for the other side's."""
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(*args)
            except Exception:  # of other arguments
                return ProgramError(text)
        return ProgramError(text)

    def _raised(self, error: BaseException, nodes: Nodes) -> Frame:
        if isinstance(error, NotDataError):
            return {"message": {"values": [["tuple", []]], "nodes": []}, "raised": NOT_DATA, "text": str(error)[:1000]}
        own = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
        try:
            message = self._encoder(nodes).message(tuple(error.args))
        except BaseException:  # its arguments are no data, or raise themselves
            message = {"values": [["tuple", []]], "nodes": []}
        try:
            text = "".join(traceback.format_exception_only(error)).strip()
        except BaseException:
            text = own
        return {"message": message, "raised": own, "text": text[:1000]}

    def _encoder(self, nodes: Nodes) -> ValueWriter:
        return ValueWriter(nodes, self._referred)

    def _decoder(self, nodes: Nodes, resolve: Callable[[Encoded], object]) -> ValueReader:
        return ValueReader(nodes, resolve, self._node_classes)

    def _referred(self, value: object) -> Encoded:
        name = getattr(value, "__name__", "")
        if type(name) is str and name in SHARED_BUILTINS and getattr(builtins, name) is value:
            return ["builtin", name]
        if isinstance(value, Remote) and value._tppo[0] is self:
            return ["yours", value._tppo[1]]
        is_iterator = hasattr(type(value), "__next__")
        if not (is_iterator or self.crosses_as_object(value) or is_function(value)):
            raise NotDataError(f"an object of the class {type(value).__name__}, which is no data")
        return ["iterator" if is_iterator else "object", self._export(value), str(name or type(value).__name__)]

    def _export(self, value: object) -> int:
        with self._writing:
            number = self._numbers.get(id(value))
            if number is None:
                number = self._numbers[id(value)] = len(self._exported)
                self._exported.append(value)
            return number

    def _resolved(self, encoded: Encoded) -> object:
        kind, content, *rest = encoded
        if kind == "builtin" and content in SHARED_BUILTINS:
            return getattr(builtins, content)
        if kind == "yours":
            return self._exported[_index(content)]
        made = {"iterator": self.iterator_class, "object": self.remote_class}[kind]
        return made(self, _index(content), str(rest[0])[:100])

    def _own(self, encoded: Encoded) -> object:
        """For a message of this side, read by itself."""
        kind, content, *_ = encoded
        if kind == "builtin":
            return self._resolved(encoded)
        return self.remote_class(self, content, "object") if kind == "yours" else self._exported[content]

    def _send(self, frame: Frame) -> None:
        body = json.dumps(frame).encode()
        if len(body) > MAX_FRAME_BYTES:
            raise ValueError(f"a value of {len(body)} bytes; expected at most {MAX_FRAME_BYTES}")
        try:
            with self._writing:
                self._connection.sendall(len(body).to_bytes(HEADER_BYTES, "big") + body)
        except OSError:
            raise self._closed() from None

    def _received(self) -> Frame:
        length = int.from_bytes(self._exactly(HEADER_BYTES), "big")
        if length > MAX_FRAME_BYTES:
            raise self._closed()  # nothing after it can be read
        try:
            frame = json.loads(self._exactly(length))
        except (ValueError, RecursionError):
            raise self._closed() from None
        if not isinstance(frame, dict):
            raise self._closed()
        return frame

    def _closed(self) -> ClosedError:
        self.is_closed = True
        return ClosedError()

    def _exactly(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            try:
                part = self._connection.recv(min(length - len(received), 2**20))
            except OSError:
                part = b""
            if not part:
                raise self._closed()
            received += part
        return bytes(received)


def is_function(value: object) -> bool:
    """A function, a method, a class, or what was made of them: not an object that can be called besides."""
    return type(value).__name__ in FUNCTION_TYPES or isinstance(value, type | Remote)


def _index(value: object) -> int:
    """Raises ValueError for what is no number of an exported object."""
    if type(value) is not int or value < 0:
        raise ValueError(f"object {value!r:.50}")
    return value


FUNCTION_TYPES = (
    *("function", "method", "builtin_function_or_method", "method-wrapper", "method_descriptor", "wrapper_descriptor"),
    *("partial", "_lru_cache_wrapper", "itemgetter", "attrgetter", "methodcaller", "ufunc"),
)
