"""The program as a module whose functions the judge calls."""

import builtins
import functools
import importlib
import inspect
import io
import os
import socket
import sys
import types
from collections.abc import Sequence
from typing import Any, NoReturn

from ..script import execute, new_module, print_error
from .leetcode import IMPORTS, NODE_CLASSES, TYPING, list_node, tree_node, values_of
from .peer import Frame, Peer, is_function
from .values import Nodes, NotDataError

MODULE, HOLDER = "solution", "Solution"
MAX_OUTPUT_BYTES = 100_000


def load(source: str) -> types.ModuleType:
    """The program as the module `solution`; a program that raises ends the process."""
    module = new_module(MODULE)
    for name, made in NODE_CLASSES.items():
        if name in source:
            vars(module)[name] = made
    _offer(IMPORTS if "class Solution" in source else TYPING)
    sys.stdin = io.StringIO()
    execute(source, module)
    return module


def serve(source: str, connection: socket.socket) -> NoReturn:
    """Answer the judge's calls until it is gone."""
    output = _Output()
    sys.stdout = output
    ProgramPeer(connection, load(source), output).serve_until_closed()
    os._exit(0)


class ProgramPeer(Peer):
    """Offers what the module defines."""

    def __init__(self, connection: socket.socket, module: types.ModuleType, output: "_Output") -> None:
        own = {name: vars(module).get(name, made) for name, made in NODE_CLASSES.items()}
        super().__init__(connection, {name: made for name, made in own.items() if isinstance(made, type)})
        self._module = module
        self._output = output

    def names(self) -> list[str]:
        return names_of(self._module)

    def named(self, name: str) -> object:
        return _as_function(vars(self._module)[name])

    def attribute(self, target: object, name: str) -> object:
        return _as_function(getattr(target, name))

    def crosses_as_object(self, value: object) -> bool:
        """LeetCode's `Solution` alone, which is no more than a holder of functions."""
        return type(value).__name__ == HOLDER

    def _done(self, request: Frame, nodes: Nodes) -> object:
        if request["do"] == "seed":
            _seed(str(request["module"]), self._decoder(nodes, self._resolved).values(request["arguments"]))
            return None
        if request["do"] == "call" and request.get("as_leetcode"):
            return self._called_as_leetcode(request, nodes)
        return super()._done(request, nodes)

    def _called_as_leetcode(self, request: Frame, nodes: Nodes) -> object:
        """Lists become linked lists and trees where the function's annotations say so, and the result a list."""
        function: Any = self._exported[request["on"]]
        given = self._decoder(nodes, self._resolved).values(request["arguments"])
        hints = _hints(function)
        arguments = [self._as_node(value, hint) for value, hint in zip(given, hints["given"], strict=False)]
        value = function(*arguments, *given[len(arguments) :])
        if value is None and any(name in hints["returned"] for name in NODE_CLASSES):
            return []
        listed = values_of(value)
        return value if listed is None else listed

    def _as_node(self, value: object, hint: str) -> object:
        if isinstance(value, list) and "ListNode" in hint:
            is_list_of_them = "List[" in hint.replace("typing.", "") and all(isinstance(one, list) for one in value)
            made = self._node_classes["ListNode"]
            return [list_node(one, made) for one in value] if is_list_of_them else list_node(value, made)
        if isinstance(value, list) and "TreeNode" in hint:
            return tree_node(value, self._node_classes["TreeNode"])
        return value

    def _notes(self) -> Frame:
        printed = self._output.taken()
        return {"printed": printed} if printed else {}

    def _raised(self, error: BaseException, nodes: Nodes) -> Frame:
        if not isinstance(error, StopIteration | NotDataError):
            print_error(error)
        return super()._raised(error, nodes)


def _seed(module: str, arguments: Sequence[object]) -> None:
    """Random numbers of a module that the program has imported, or a part of it."""
    if module.partition(".")[0] in sys.modules:
        importlib.import_module(module).seed(*arguments)


def names_of(module: types.ModuleType) -> list[str]:
    """Those that the program has, in the order in which it bound them."""
    return [name for name in vars(module) if isinstance(name, str) and not name.startswith("__")]


class _Output(io.TextIOWrapper):
    """What the program prints while it is called, which the judge prints on its side."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, encoding="utf-8", errors="replace", write_through=True)

    def taken(self) -> str:
        """What was printed since it was last taken."""
        data = self._bytes.getvalue()
        if data:
            self._bytes.seek(0)
            self._bytes.truncate()
        return data[:MAX_OUTPUT_BYTES].decode(errors="replace")


def _as_function(value: Any) -> object:
    """Also where a decorator that is a class put its object, which can be called."""
    is_object = callable(value) and not is_function(value) and not isinstance(value, (int, str, list, dict, tuple, set))
    return functools.partial(value) if is_object and type(value).__name__ != HOLDER else value


def _offer(imports: str) -> None:
    """Names that a program may use without importing them; it has none of them as its own."""
    offered: dict[str, Any] = {}
    exec(imports, offered)
    known = vars(builtins)
    known.update({name: value for name, value in offered.items() if name not in known})


def _hints(function: Any) -> dict[str, Any]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return {"given": [], "returned": ""}
    given = [str(parameter.annotation) for parameter in signature.parameters.values()]
    return {"given": given, "returned": str(signature.return_annotation)}
