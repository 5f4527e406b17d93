"""The syntax of Python source that others wrote."""

import ast
import warnings
from collections.abc import Iterator

MAX_PARSED_CHARS = 60_000  # a longer text is taken as it is
DEFINITIONS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.Assign,
    ast.AnnAssign,
)


def parsed(source: str) -> ast.Module | None:
    """The syntax of Python source; None for another text."""
    if len(source) > MAX_PARSED_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in what a model wrote
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def defined_names(tree: ast.Module) -> Iterator[str]:
    """What the module's own statements bind, in their order."""
    for statement in tree.body:
        yield from bound_names(statement)


def bound_names(statement: ast.stmt) -> Iterator[str]:
    """What one statement binds."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in aliases)


def is_stub(statement: ast.stmt) -> bool:
    """Whether it is a function, or a class of functions, of which only the head is there."""
    match statement:
        case ast.FunctionDef(body=body) | ast.AsyncFunctionDef(body=body):
            return all(map(_does_nothing, body))
        case ast.ClassDef(body=body):
            functions = [one for one in body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
            return bool(functions) and all(is_stub(one) for one in functions)
    return False


def _does_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Raise(exc=ast.Name(id="NotImplementedError") | ast.Call(func=ast.Name(id="NotImplementedError"))):
            return True
    return False
