"""Values that cross between the judge's process and the program's, as JSON: what they are, never how they behave.

A value is immutable and stands where it is used, or it is a container, stands in the message's list of nodes, and is
named by its number. So cycles, shared parts and a linked list of any length cross, and a container that is known on
both sides keeps its number: what a call changed in its arguments is changed on the caller's side too.

A subclass crosses as its base: what reaches the judge has no behaviour that the program could have given it. What is no
data, such as an object of a program's own class, does not cross at all.
"""

import array
import base64
import collections
import datetime
import decimal
import fractions
import importlib
import pathlib
import types
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .leetcode import FIELDS

MAX_DEPTH = 100  # of tuples in tuples, which are not nodes
PLAIN_INT_BITS = 63
NUMPY_KINDS = "biufcSU"  # numbers and texts
Encoded = Any  # what JSON holds
Refer = Callable[[object], Encoded]  # how this side names what stays with it: a function, an iterator
Resolve = Callable[[Encoded], object]  # and what the other side's name stands for


class NotDataError(Exception):
    """An object has no form in which it crosses."""


class Nodes:
    """The containers of one message, by number."""

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self.encoded: list[Encoded] = []
        self._numbers: dict[int, int] = {}

    def number(self, container: object) -> int:
        """Of a container; a new one gets the next."""
        found = self._numbers.get(id(container))
        if found is None:
            found = self._numbers[id(container)] = len(self.objects)
            self.objects.append(container)
        return found


class ValueWriter:
    """Turns values into a message."""

    def __init__(self, nodes: Nodes, refer: Refer) -> None:
        self._nodes = nodes
        self._refer = refer

    def message(self, *values: object) -> dict[str, Encoded]:
        """The values, and those nodes that the other side does not have as they are."""
        roots = [self._value(value, 0) for value in values]
        changed: dict[int, Encoded] = {}
        known, number = self._nodes.encoded, 0
        while number < len(self._nodes.objects):  # which grows as they are looked at
            node = self._node(self._nodes.objects[number])
            if number >= len(known):
                known.append(None)
            if known[number] != node:
                known[number] = changed[number] = node
            number += 1
        return {"values": roots, "nodes": list(changed.items())}

    def _value(self, value: object, depth: int) -> Encoded:
        if value is None or value is True or value is False or type(value) is float or type(value) is str:
            return value
        if depth > MAX_DEPTH:
            raise NotDataError("tuples nested too deep")
        for kind, encode in IMMUTABLE:
            if isinstance(value, kind):
                return encode(value)
        if isinstance(value, tuple):
            return ["tuple", [self._value(one, depth + 1) for one in tuple.__iter__(value)]]
        if isinstance(value, frozenset):
            return ["frozenset", [self._value(one, depth + 1) for one in frozenset.__iter__(value)]]
        if isinstance(value, VIEWS + WRAPPERS):
            return self._value(_copied(value), depth + 1)
        if _kind(value) is not None:
            return ["node", self._nodes.number(value)]
        if array := _array(value):
            return array
        return self._refer(value)

    def _node(self, container: Any) -> Encoded:
        kind = _kind(container)
        assert kind is not None
        if kind in TABLES:
            return [kind, [[self._value(key, 0), self._value(one, 0)] for key, one in list(dict.items(container))]]
        if kind == "bytearray":
            return [kind, _text(container)]
        if kind in FIELDS:
            return [kind, [self._value(getattr(container, name, None), 0) for name in FIELDS[kind]]]
        return [kind, [self._value(one, 0) for one in ITERATED[kind](container)]]


class ValueReader:
    """Turns a message into values; containers that are known already are changed in place."""

    def __init__(self, nodes: Nodes, resolve: Resolve, node_classes: dict[str, type]) -> None:
        self._nodes = nodes
        self._resolve = resolve
        self._classes = node_classes

    def values(self, message: dict[str, Encoded]) -> list[Any]:
        """Those that were encoded. Raises ValueError, TypeError, KeyError or IndexError for what is no message."""
        changed = message["nodes"]
        for number, encoded in changed:
            if number == len(self._nodes.objects):
                self._nodes.number(self._empty(encoded))
            elif not 0 <= number < len(self._nodes.objects):
                raise ValueError(f"node {number}")
        for number, encoded in changed:
            self._fill(self._nodes.objects[number], encoded)
            known = self._nodes.encoded
            known += [None] * (number + 1 - len(known))
            known[number] = encoded
        return [self._value(value) for value in message["values"]]

    def _empty(self, encoded: Encoded) -> object:
        kind = encoded[0]
        if kind in FIELDS:
            made: Any = self._classes[kind]
            return made.__new__(made)
        return EMPTY[kind]()

    def _fill(self, container: Any, encoded: Encoded) -> None:
        kind, content = encoded
        if kind != _kind(container):
            raise ValueError(f"{kind} for {type(container).__name__}")
        if kind in FIELDS:
            for name, one in zip(FIELDS[kind], content, strict=True):
                setattr(container, name, self._value(one))
            return
        container.clear()
        if kind in TABLES:
            update = container.update if kind == "ordered" else partial(dict.update, container)  # a counter's adds
            update([(self._value(key), self._value(one)) for key, one in content])
        elif kind == "bytearray":
            container += base64.b64decode(content)
        elif kind == "set":
            container.update(map(self._value, content))
        else:
            container.extend(map(self._value, content))

    def _value(self, encoded: Encoded) -> Any:
        if not isinstance(encoded, list):
            return encoded
        kind, *content = encoded
        if kind == "node":
            if content[0] < 0:
                raise ValueError(f"node {content[0]}")
            return self._nodes.objects[content[0]]
        if kind == "tuple":
            return tuple(map(self._value, content[0]))
        if kind == "frozenset":
            return frozenset(map(self._value, content[0]))
        if kind in DECODED:
            return DECODED[kind](*content)
        return self._resolve(encoded)


def _kind(value: object) -> str | None:
    """Of a container, by its base; None for what is none."""
    for kind, base in CONTAINERS.items():
        if isinstance(value, base):
            return kind
    name = type(value).__name__
    return name if name in FIELDS and not isinstance(value, type) else None


def _copied(view: Any) -> Any:
    """Of a view on other containers, or of what wraps one: its own type stays where they are."""
    if isinstance(view, WRAPPERS):
        return view.data
    return dict(view) if isinstance(view, types.MappingProxyType | collections.ChainMap) else list(view)


def _text(data: bytes | bytearray) -> str:
    return base64.b64encode(bytes(data)).decode()


def _integer(value: int) -> Encoded:
    value = int.__index__(value)
    return value if value.bit_length() <= PLAIN_INT_BITS else ["int", hex(value)]


def _end(value: object) -> Encoded:
    if value is not None and not isinstance(value, int):
        raise NotDataError("a slice of other ends than integers")
    return value if value is None else _integer(value)


def _decimal(value: decimal.Decimal) -> Encoded:
    return ["decimal", decimal.Decimal.__str__(value)]


def _time(value: Any) -> Encoded:
    """Without a time zone's object, which is nobody's data."""
    kind = next(base for base in (datetime.datetime, datetime.date, datetime.time) if isinstance(value, base))
    return [kind.__name__, kind.isoformat(value)]


def _array(value: Any) -> Encoded:
    """An array or a number of numpy; None for another object."""
    if type(value).__module__ != "numpy" or not hasattr(value, "tobytes"):
        return None
    if value.dtype.kind not in NUMPY_KINDS:
        raise NotDataError(f"a numpy array of {value.dtype}")
    return ["numpy", value.dtype.str, list(value.shape), _text(value.tobytes()), type(value).__name__ == "ndarray"]


def _numpy(dtype: str, shape: list[int], data: str, is_array: bool) -> object:
    numpy: Any = importlib.import_module("numpy")  # installed, or the other side had no array
    if numpy.dtype(dtype).kind not in NUMPY_KINDS:
        raise ValueError(f"numpy array of {dtype}")
    array = numpy.frombuffer(base64.b64decode(data), dtype=numpy.dtype(dtype)).reshape(shape).copy()
    return array if is_array else array[()]


IMMUTABLE: list[tuple[Any, Callable[[Any], Encoded]]] = [
    (int, _integer),
    (float, lambda value: float.__float__(value)),
    (str, lambda value: str.__str__(value)),
    (bytes, lambda value: ["bytes", _text(value)]),
    (complex, lambda value: ["complex", value.real, value.imag]),
    (decimal.Decimal, _decimal),
    (fractions.Fraction, lambda value: ["fraction", _integer(value.numerator), _integer(value.denominator)]),
    ((datetime.date, datetime.time), _time),
    (datetime.timedelta, lambda value: ["timedelta", value.days, value.seconds, value.microseconds]),
    (range, lambda value: ["range", _integer(value.start), _integer(value.stop), _integer(value.step)]),
    (slice, lambda value: ["slice", *map(_end, (value.start, value.stop, value.step))]),
    (memoryview, lambda value: ["bytes", _text(bytes(value))]),
    (array.array, lambda value: ["array", value.typecode, _text(array.array.tobytes(value))]),
    (pathlib.PurePath, lambda value: ["path", str(pathlib.PurePosixPath(value))]),
    (uuid.UUID, lambda value: ["uuid", f"{value.int:032x}"]),
    (type(Ellipsis), lambda value: ["ellipsis"]),
    (type(NotImplemented), lambda value: ["not_implemented"]),
]
DECODED: dict[str, Callable[..., object]] = {
    "int": lambda text: int(text, 16),
    "bytes": base64.b64decode,
    "complex": complex,
    "decimal": decimal.Decimal,
    "fraction": lambda *parts: fractions.Fraction(*map(_whole, parts)),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": datetime.timedelta,
    "range": lambda *parts: range(*map(_whole, parts)),
    "slice": lambda *ends: slice(*(one if one is None else _whole(one) for one in ends)),
    "array": lambda kind, data: array.array(kind, base64.b64decode(data)),
    "path": pathlib.Path,
    "uuid": uuid.UUID,
    "ellipsis": lambda: Ellipsis,
    "not_implemented": lambda: NotImplemented,
    "numpy": _numpy,
}
CONTAINERS: dict[str, type] = {
    "counter": collections.Counter,
    "ordered": collections.OrderedDict,
    "default": collections.defaultdict,  # without its factory, which stays where it is
    "list": list,
    "dict": dict,
    "set": set,
    "deque": collections.deque,
    "bytearray": bytearray,
}
TABLES = ("counter", "ordered", "default", "dict")
EMPTY: dict[str, Callable[[], object]] = dict(CONTAINERS)
ITERATED: dict[str, Callable[[Any], Iterator[object]]] = {
    "list": list.__iter__,
    "set": set.__iter__,
    "deque": collections.deque.__iter__,
}
VIEWS: tuple[type, ...] = (
    *(type({}.keys()), type({}.values()), type({}.items())),
    *(types.MappingProxyType, collections.ChainMap),
)
WRAPPERS: tuple[Any, ...] = (collections.UserDict, collections.UserList, collections.UserString)


def _whole(part: Encoded) -> int:
    return int(part[1], 16) if isinstance(part, list) else part
