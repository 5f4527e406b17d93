"""Names that tests use and do not define: the program's to define, the prompt's, or nobody's.

A helper that decides by itself whether a result is right is nobody's: a program that defined it would pass.
"""

import ast
import builtins
import importlib
import re
import symtable
import sys
from collections.abc import Collection, Iterator

from services.reward.verifiers.programs.syntax import is_stub, parsed

MODULE_NAMES = {"__name__", "__file__", "__doc__", "__builtins__"}
STAR_MODULES = (
    "math",
    "typing",
    "collections",
    "itertools",
    "functools",
    "string",
    "heapq",
    "bisect",
    "operator",
    "re",
)
SHORT_NAMES = {"np": "numpy", "pd": "pandas"}  # by which tests call modules that they forgot to import
GIVEN = re.compile(r"^(?:def (\w+)\b|(?:from|import) )", re.MULTILINE)
QUANTIFIERS = ("all", "any")


def free_names(code: str, tree: ast.Module) -> Iterator[str]:
    """What the tests use and neither they nor Python define, in the order of their scopes."""
    top = symtable.symtable(code, "<tests>", "exec")
    bound = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    bound |= {symbol.get_name() for symbol in top.get_symbols() if symbol.is_namespace()}
    tables = list(_tables(top))
    for table in tables[1:]:
        bound |= {one.get_name() for one in table.get_symbols() if one.is_declared_global() and one.is_assigned()}
    bound |= {*dir(builtins), *MODULE_NAMES, *_starred(tree)}
    seen = set()
    for table in tables:
        for symbol in table.get_symbols():
            name = symbol.get_name()
            is_of_module = table is top or symbol.is_global()
            if is_of_module and symbol.is_referenced() and name not in bound and name not in seen:
                seen.add(name)
                yield name


def _tables(top: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield top
    for child in top.get_children():
        yield from _tables(child)


def _starred(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in STAR_MODULES and node.names[0].name == "*":
            module = importlib.import_module(node.module)
            yield from getattr(module, "__all__", dir(module))


def forgotten_imports(tree: ast.Module, free: Collection[str]) -> Iterator[str]:
    """Statements for modules of Python's own that tests use without an import: `math.isclose(f(4), 2)`."""
    owners = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    for name in free:
        module = SHORT_NAMES.get(name, name)
        is_owner = all(id(node) in owners for node in names if node.id == name)
        if is_owner and (name in sys.stdlib_module_names or name in SHORT_NAMES):
            yield f"import {module} as {name}"


def given_by_prompt(prompt: str, names: Collection[str]) -> str:
    """The functions of these names that the prompt defines in full, as HumanEval's `poly`, and its imports.

    They are the row's, so that no program replaces what its tests count on.
    """
    found, imports = [], []
    for match in GIVEN.finditer(prompt):
        lines = prompt[match.start() :].split("\n")
        length = next((n for n, line in enumerate(lines) if n and line and not line[0].isspace()), len(lines))
        source = "\n".join(lines[:length]) if match[1] else lines[0]
        tree = parsed(source)
        if tree is None or not tree.body:
            continue
        if not match[1]:
            imports.append(source)
        elif match[1] in names and not is_stub(tree.body[0]):
            found.append(source)
    return "\n".join([*imports, *found, ""]) if found else ""


def undefined_helper(tree: ast.Module, unknown: Collection[str], free: Collection[str]) -> str:
    """A name that decides by itself whether a result is right; '' for none."""
    for truth in _truths(tree):
        if isinstance(truth, ast.Call) and (name := _called_name(truth)) in unknown:
            given = (*truth.args, *(keyword.value for keyword in truth.keywords))
            inner = {one.id for part in given for one in ast.walk(part) if isinstance(one, ast.Name)}
            if not (set(free) - {name}).isdisjoint(inner):
                return name
    return ""


def _truths(tree: ast.Module) -> Iterator[ast.expr]:
    """The parts of checks whose truth is the verdict."""
    for node in ast.walk(tree):
        match node:
            case ast.Assert(test=test) | ast.If(test=test):
                yield from _parts(test)
            case ast.Expr(value=ast.Call() as call) if _called_name(call).startswith(("assert", "fail")):
                yield call


def _parts(test: ast.expr) -> Iterator[ast.expr]:
    match test:
        case ast.UnaryOp(operand=operand):
            yield from _parts(operand)
        case ast.BoolOp(values=values):
            for one in values:
                yield from _parts(one)
        case ast.Compare(left=left, comparators=[ast.Constant(value=bool())]):
            yield from _parts(left)
        case ast.Call(args=[ast.GeneratorExp(elt=part) | ast.ListComp(elt=part)]) if _called_name(test) in QUANTIFIERS:
            yield from _parts(part)
        case _:
            yield test


def _called_name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""
