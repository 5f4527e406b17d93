"""Whether tests need objects of a program's own classes, which do not cross to the judge's process.

Read off how the tests use what they get: `Stack().push(1)` calls what no data has, `isinstance(shape, Shape)` and
`except StackError` need the class itself. LeetCode's `Solution` holds functions alone, and crosses.
"""

import ast
import re
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction

CAMEL = re.compile(r"[A-Z][a-z0-9]*(?:[A-Z][a-z0-9]*)*")
DATA = (str, int, float, complex, list, dict, set, frozenset, tuple, bytes, bytearray, range)
COLLECTIONS = (deque, Counter, OrderedDict)
TIMES = (Decimal, Fraction, date, datetime, time, timedelta)
ARRAY = ("shape", "dtype", "ndim", "size", "T", "tolist", "astype", "sum", "mean", "std", "min", "max", "all", "any")
MORE_OF_ARRAY = ("item", "flatten", "ravel", "reshape", "transpose", "dot", "round", "nbytes", "argmax", "argmin")
NODE = ("val", "next", "left", "right")
OF_FUNCTIONS = ("__name__", "__doc__", "__qualname__", "__wrapped__", "cache_info", "cache_clear")
KNOWN = {name for kind in (*DATA, *COLLECTIONS, *TIMES) for name in dir(kind)} | {
    *ARRAY,
    *MORE_OF_ARRAY,
    *NODE,
    *OF_FUNCTIONS,
}
HOLDER = "Solution"


def own_class_needed(tree: ast.Module, names: Collection[str], modules: Collection[str]) -> str:
    """A name of the program's that the tests use as a class, and how; '' for none."""
    makers = set(names) - {HOLDER, *modules}
    makers |= {getattr(one, "name", "") for one in ast.walk(tree) if _returns_one(one, makers, modules)}
    made = set(_made(tree, makers, modules))
    for node in ast.walk(tree):
        if use := _use(node, makers, made, modules):
            return use
    return ""


def _use(node: ast.AST, makers: Collection[str], made: Collection[str], modules: Collection[str]) -> str:
    match node:
        case ast.Attribute(value=value, attr=attribute) if attribute not in KNOWN:
            is_made = _text(value) in made or _called(value, makers, modules)
            return ast.unparse(node) if is_made or _maker(value, makers, modules) else ""
        case ast.Attribute(value=value, ctx=ast.Store()) if _text(value) in made:
            return ast.unparse(node)
        case ast.Call(func=function, args=[*arguments]) if _maker(function, makers, modules):
            return next((found for one in arguments if CAMEL.fullmatch(found := _called(one, makers, modules))), "")
        case ast.ExceptHandler(type=kind) if kind is not None:
            return _first_maker([kind], makers, modules)
        case ast.Call(func=function, args=[*arguments]) if _takes_class(function):
            return _first_maker(arguments, makers, modules)
        case ast.ClassDef(bases=bases):
            return _first_maker(bases, makers, modules)
        case ast.withitem(context_expr=value):
            return ast.unparse(value) if _called(value, makers, modules) else ""
        case ast.Compare(left=left, comparators=[right]):
            one, other = _called(left, makers, modules), _called(right, makers, modules)
            return one if one == other and CAMEL.fullmatch(one) else ""
    return ""


def _takes_class(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("raises", "assertRaises", "assertRaisesRegex", "isinstance", "issubclass", "assertIsInstance")


def _first_maker(nodes: Sequence[ast.expr], makers: Collection[str], modules: Collection[str]) -> str:
    flat = [one for node in nodes for one in (node.elts if isinstance(node, ast.Tuple) else [node])]
    return next((found for one in flat if (found := _maker(one, makers, modules))), "")


def _made(tree: ast.Module, makers: Collection[str], modules: Collection[str]) -> Iterator[str]:
    """Variables that hold what the program returned, and fixtures of tests that return it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _called(node.value, makers, modules):
            yield from map(_text, node.targets)
        elif isinstance(node, ast.FunctionDef) and _returns_one(node, makers, modules):
            yield node.name


def _returns_one(node: ast.AST, makers: Collection[str], modules: Collection[str]) -> bool:
    if not isinstance(node, ast.FunctionDef):
        return False
    results = [one.value for one in ast.walk(node) if isinstance(one, ast.Return | ast.Yield) and one.value]
    return any(_called(value, makers, modules) for value in results)


def _called(node: ast.AST, makers: Collection[str], modules: Collection[str]) -> str:
    """The program's function or class that the expression calls; '' for another expression."""
    return _maker(node.func, makers, modules) if isinstance(node, ast.Call) else ""


def _maker(node: ast.AST, makers: Collection[str], modules: Collection[str]) -> str:
    match node:
        case ast.Name(id=name) if name in makers:
            return name
        case ast.Attribute(value=ast.Name(id=module), attr=name) if module in modules and name != HOLDER:
            return name
    return ""


def _text(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
