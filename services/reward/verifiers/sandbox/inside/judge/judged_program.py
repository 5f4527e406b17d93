"""The program as its judge has it: in another process, or in this one where a row is marked so."""

import importlib
import reprlib
import socket
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..calls import solution
from ..calls.leetcode import NODE_CLASSES
from ..calls.peer import NOT_DATA, Frame, Peer
from ..calls.remote import ClosedError, ProgramError, Remote, StrictIterator, StrictRemote
from ..calls.values import Encoded, Nodes, NotDataError

ALIASES = ("solution", "main", "submission", "candidate", "program", "your_module")  # what tests import it as
MODULES_OF_TESTS = ("__main__", "test_program", "unittest.mock")
SEEDED = ("random", "numpy.random")
MAX_PRINTED_CHARS = 200_000  # of a chatty program, whose prints must not fill the judge's file
SHOWN = reprlib.Repr()
SHOWN.maxstring = SHOWN.maxother = SHOWN.maxlong = 200
SHOWN.maxlist = SHOWN.maxtuple = SHOWN.maxset = SHOWN.maxdict = 20


class Failed(Exception):  # noqa: N818  a verdict
    """A test did not pass, because of the program."""


class Program(Protocol):
    """What the tests find of the program."""

    num_uses: int  # a function that is only looked up is not used
    returned: str  # by the last call; '' where that is not known
    unsendable: str  # a class of the tests' own, of which they gave the program an object that cannot leave them

    def names(self) -> list[str]: ...

    def get(self, name: str) -> Any: ...

    def as_module(self, name: str) -> types.ModuleType: ...

    @property
    def has_ended(self) -> bool: ...


class JudgePeer(Peer):
    """Calls the program, from whose process nothing but data comes."""

    remote_class = StrictRemote
    iterator_class = StrictIterator

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection, NODE_CLASSES)
        self.returned = ""
        self.unsendable = ""
        self._num_printable = MAX_PRINTED_CHARS

    def names(self) -> list[str]:
        return [str(name) for name in self.request({"do": "names"})]

    def get(self, name: str) -> Any:
        value = self.request({"do": "get", "name": name})
        self.num_uses += not isinstance(value, Remote)
        return value

    def as_module(self, name: str) -> types.ModuleType:
        return _Module(name, self)

    @property
    def has_ended(self) -> bool:
        return self.is_closed

    def called_as_leetcode(self, function: Any, arguments: Sequence[object]) -> Any:
        """Call with lists for linked lists and trees."""
        if not isinstance(function, Remote):
            raise Failed("the program defines a value of that name, and no function")
        nodes = Nodes()
        message = self._encoder(nodes).message(*arguments)
        frame = {"do": "call", "as_leetcode": True, "on": function._tppo[1], "arguments": message, "names": []}
        return self.request(frame, nodes)

    def call(self, number: int, args: tuple[object, ...], kwargs: dict[str, object], *, in_place: bool = False) -> Any:
        value = super().call(number, args, kwargs, in_place=in_place)
        self.returned = shown(value)
        return value

    def set_seed(self, module: str, *seed: object) -> None:
        """The program draws the same random numbers as if it ran where the tests do."""
        self.request({"do": "seed", "module": module, "arguments": self._encoder(Nodes()).message(*seed)})

    def _referred(self, value: object) -> Encoded:
        try:
            return super()._referred(value)
        except NotDataError:
            if type(value).__module__ in MODULES_OF_TESTS:
                self.unsendable = type(value).__name__
            raise

    def error_of(self, name: str, args: tuple[object, ...], text: str) -> BaseException:
        error = super().error_of(name, args, text)
        verb = "returned" if name == NOT_DATA else "raised"
        error.of_program = f"the program {verb} {text}"  # type: ignore[attr-defined]
        return error

    def named(self, name: str) -> object:
        raise ProgramError("nothing of the judge's is to be had by name")

    def _heed(self, answer: Frame) -> None:
        printed = str(answer.get("printed", ""))[: self._num_printable]
        if printed:
            self._num_printable -= len(printed)
            sys.stdout.write(printed)


class ProgramHere:
    """The program in this process."""

    returned = unsendable = ""
    has_ended = False

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self.num_uses = 0

    def names(self) -> list[str]:
        return solution.names_of(self._module)

    def get(self, name: str) -> Any:
        self.num_uses += 1
        return vars(self._module)[name]

    def as_module(self, name: str) -> types.ModuleType:
        return self._module


class _Module(types.ModuleType):
    """The program as the module that tests import."""

    def __init__(self, name: str, program: Program) -> None:
        super().__init__(name)
        self._tppo_program = program
        self._tppo_found: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":  # what tests use is bound already; more would replace Python's own `abs` and `all`
            return []
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._tppo_found:
            try:
                self._tppo_found[name] = self._tppo_program.get(name)
            except KeyError:
                raise AttributeError(f"the program defines no {name}") from None
        return self._tppo_found[name]


def shown(value: object) -> str:
    """Cut to what a person reads; whatever the value is, it is no reason to fail."""
    try:
        return SHOWN.repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes
        return f"<{type(value).__name__}>"


def in_place(function: Any) -> Any:
    """The function so that what it changes in its arguments is changed for the test, too."""
    if not isinstance(function, Remote):
        return function
    peer, number, _ = function._tppo
    return lambda *args, **kwargs: peer.call(number, args, kwargs, in_place=True)


def share_seeds(program: Program) -> None:
    """What the tests seed is seeded in the program's process, too."""
    for name in SEEDED:
        if name.partition(".")[0] in sys.modules and isinstance(program, JudgePeer):
            module: Any = importlib.import_module(name)
            module.seed = _shared_seed(module.seed, name, program)


def _shared_seed(seed: Callable[..., None], module: str, program: JudgePeer) -> Callable[..., None]:
    def shared(*args: object) -> None:
        seed(*args)
        program.set_seed(module, *args)

    return shared


def function_of(program: Program, name: str, names: Sequence[str]) -> Any:
    """A function of the module, or a method of a new `Solution`, as LeetCode calls it."""
    holder, _, name = name.replace("()", "").rpartition(".")
    if not holder and name in names:
        return program.get(name)
    holder = holder or "Solution"
    if holder not in names:
        raise Failed(f"the program defines no {name}")
    return getattr(program.get(holder)(), name)


def cause_of(error: BaseException, program: Program) -> str:
    """Why a test did not pass, in one line."""
    if isinstance(error, Failed):
        return str(error)
    if isinstance(error, ClosedError) or program.has_ended:
        return "the program ended"
    if (text := getattr(error, "of_program", None)) is not None:
        return str(text)
    seen = f"; the program returned {program.returned}" if program.returned else ""
    try:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    except Exception:  # a message that holds what the program returned, such as a number of too many digits
        text = type(error).__name__
    return f"{text:.500}{seen}"
