"""Tests as the judge runs them: with a count before each check, and calls that may change their arguments marked.

What a program changes in an argument is changed in the test only where the test looks at it. A check such as
`assert sort_list(values) == sorted(values)` has to see the values as they were: a program that empties the list would
pass it. In `rotate(values, 1)` by itself, or `k = remove(values, 3)` with a later check of `values`, the change is the
result.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.reward.verifiers.sandbox.inside.judge.trial import CHECK, IN_PLACE

CAUGHT = {"", "AssertionError", "Exception", "BaseException"}
ENDS = ("exit", "_exit", "quit", "fail", "skip")
RAISERS = ("raises", "warns", "deprecated_call")
Texts = frozenset[str]
Binding = tuple[Texts, Texts]


def is_check(node: ast.AST) -> bool:
    """Whether a statement can fail by what the program does."""
    match node:
        case ast.Assert(test=test, msg=message):
            return not _is_always_true(test) and not (isinstance(test, ast.Call) and _is_value(message))
        case ast.Expr(value=ast.Call(func=function)):
            return _last_name(function).startswith(("assert", "fail"))
        case ast.With(items=items) | ast.AsyncWith(items=items):
            called = [item.context_expr.func for item in items if isinstance(item.context_expr, ast.Call)]
            return any(_last_name(one).startswith("assert") or _last_name(one) in RAISERS for one in called)
        case ast.If(body=body, orelse=orelse):
            return any(isinstance(one, ast.Raise) for one in (*body, *orelse))
    return False


def checks_that_count(node: ast.AST) -> Iterator[ast.AST]:
    """Those that no handler around them swallows: `try: assert f(1) == 2` with `except AssertionError: print("no")`."""
    if is_check(node):
        yield node
    swallowed = node.body if isinstance(node, ast.Try) and any(map(_swallows, node.handlers)) else []
    for child in ast.iter_child_nodes(node):
        if child not in swallowed:
            yield from checks_that_count(child)


def _swallows(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    if CAUGHT.isdisjoint(_last_name(kind) if kind else "" for kind in kinds):
        return False
    inside = [node for statement in handler.body for node in ast.walk(statement)]
    return not any(
        isinstance(node, ast.Raise | ast.Assert) or (isinstance(node, ast.Call) and _last_name(node.func) in ENDS)
        for node in inside
    )


def _is_always_true(test: ast.expr) -> bool:
    """As `assert True` and `assert (f(1) == 2, "message")`."""
    return (isinstance(test, ast.Constant) and bool(test.value)) or (isinstance(test, ast.Tuple) and bool(test.elts))


def _is_value(message: ast.expr | None) -> bool:
    """A number or a container, which was meant as what is expected: `assert f(1), 2`."""
    is_number = isinstance(message, ast.Constant) and isinstance(message.value, int | float)
    return is_number or isinstance(message, ast.List | ast.Dict | ast.Set)


def mark_changing_calls(tree: ast.Module) -> None:
    """Of a whole module, since a later statement decides whether a call's argument is looked at."""
    for scope in _scopes(tree):
        _mark_in(scope)


def with_counts(statements: Sequence[ast.stmt]) -> str:
    """Their source, with a count before each check."""
    module = ast.Module(list(statements), [])
    _CountChecks().visit(module)
    return ast.unparse(ast.fix_missing_locations(module))


class _CountChecks(ast.NodeTransformer):
    """Puts a call of the counter before each check, and first into each handler of an exception."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                setattr(node, name, [one for given in statements for one in _counted(given)])
        if isinstance(node, ast.ExceptHandler):
            node.body.insert(0, _count())
        return node


def _counted(statement: ast.stmt) -> Iterator[ast.stmt]:
    if is_check(statement):
        yield _count()
    yield statement


def _count() -> ast.stmt:
    return ast.Expr(ast.Call(ast.Name(CHECK, ast.Load()), [], []))


def _scopes(tree: ast.Module) -> Iterator[Sequence[ast.stmt]]:
    """The statements of the module without its functions, and those of each function."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    yield [one for one in tree.body if not isinstance(one, (*functions, ast.ClassDef))]
    for node in ast.walk(tree):
        if isinstance(node, functions):
            yield node.body


@dataclass(frozen=True)
class _Sides:
    """What is compared with what, or handed over beside what, by the names in each."""

    texts: Sequence[Texts]
    is_by_identity: bool

    def has_as_reference(self, given: Texts, result: Texts) -> bool:
        """Whether the argument stands on one side and the result on another, or what was made of them."""
        if self.is_by_identity:
            return False
        given_alone = any(given & side and not result & side for side in self.texts)
        return given_alone and any(result & side and not given & side for side in self.texts)


def _mark_in(scope: Sequence[ast.stmt]) -> None:
    checks = [node for statement in scope for node in ast.walk(statement) if is_check(node)]
    sides = [found for check in checks for found in _sides_of(check)]
    seen = frozenset(text for found in sides for side in found.texts for text in side)
    for statement in scope:
        for node in ast.walk(statement):
            match node:
                case ast.Expr(value=ast.Call() as call):
                    _mark(call)
                case ast.Compare(left=ast.Call() as call, comparators=[ast.Constant(value=None)]):
                    _mark(call)
                case ast.Assign(targets=[target], value=ast.Call() as call):
                    if _is_looked_at(call, ast.unparse(target), seen, sides, list(_bindings(scope, call))):
                        _mark(call)


def _is_looked_at(
    call: ast.Call, result: str, seen: Texts, sides: Sequence[_Sides], bindings: Sequence[Binding]
) -> bool:
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    given = set().union(*map(_texts, arguments)) & seen if arguments else set()
    made = _made_of(result, bindings) - given
    return bool(given) and not any(
        found.has_as_reference(_made_of(one, bindings) - {result}, made) for one in given for found in sides
    )


def _bindings(scope: Sequence[ast.stmt], call: ast.Call) -> Iterator[Binding]:
    """What is bound behind the call, and of what: `got = list(result)`, `all(x in values for x in result)`."""
    for node in (one for statement in scope for one in ast.walk(statement)):
        match node:
            case ast.Assign(targets=[target], value=value) | ast.NamedExpr(target=target, value=value):
                pass
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                pass
            case _:
                continue
        if value is not call and value.lineno >= call.lineno:
            yield _texts(target), _texts(value)


def _made_of(name: str, bindings: Sequence[Binding]) -> Texts:
    """The name, and those that its value went into."""
    found = frozenset({name})
    while more := frozenset().union(*(made for made, texts in bindings if texts & found and not made <= found)):
        found |= more
    return found


def _sides_of(check: ast.AST) -> Iterator[_Sides]:
    if isinstance(check, ast.If | ast.With | ast.AsyncWith):
        return
    for node in ast.walk(check):
        if isinstance(node, ast.Compare):
            is_by_identity = all(isinstance(one, ast.Is | ast.IsNot) for one in node.ops)
            yield _Sides([_texts(one) for one in (node.left, *node.comparators)], is_by_identity)
        elif isinstance(node, ast.Call):
            yield _Sides([_texts(one) for one in node.args], is_by_identity=False)
    if isinstance(check, ast.Assert):
        yield _Sides([_texts(check.test)], is_by_identity=False)


def _texts(node: ast.AST) -> Texts:
    """The names and attributes that occur in it."""
    return frozenset(ast.unparse(one) for one in ast.walk(node) if isinstance(one, ast.Name | ast.Attribute))


def _mark(call: ast.Call) -> None:
    if isinstance(call.func, ast.Call) or _last_name(call.func).startswith("assert"):
        return
    call.func = ast.Call(ast.Name(IN_PLACE, ast.Load()), [call.func], [])


def _last_name(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
