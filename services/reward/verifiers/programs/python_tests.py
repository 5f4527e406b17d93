"""Tests that are Python code: what of them is a check, what they need of the program, and what is refused.

Everything here is read off the code before any program is run, so that no program decides what its tests are worth.
"""

import ast
import builtins
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from services.reward.verifiers.programs.free_names import (
    forgotten_imports,
    free_names,
    given_by_prompt,
    undefined_helper,
)
from services.reward.verifiers.programs.instrumentation import (
    checks_that_count,
    is_check,
    mark_changing_calls,
    with_counts,
)
from services.reward.verifiers.programs.own_classes import own_class_needed
from services.reward.verifiers.programs.process_state import process_state_needed
from services.reward.verifiers.sandbox.inside.calls.leetcode import HELPERS
from services.reward.verifiers.sandbox.inside.judge.judged_program import ALIASES
from services.reward.verifiers.sandbox.inside.judge.trial import BOUND, CHECK, ENTRY, IN_PLACE

CANDIDATE = "candidate"  # what HumanEval calls the function, and others after it
MAX_LABEL_CHARS = 200
DEFINITION = re.compile(r"\bdef\s+(\w+)")


@dataclass(frozen=True, slots=True)
class Row:
    """What a row says beside its tests."""

    prompt: str = ""
    entry_point: str = ""
    has_own_classes: bool = False  # the mark: run the tests in the program's own process


@dataclass(frozen=True, slots=True)
class PythonTests:
    """What the judge is given."""

    kind: str  # `statements` or `pytest`
    names: Sequence[str]  # which the program has to define
    required: Sequence[str]  # those of them that the row asks of it: without them it is wrong, not the row
    helpers: Sequence[str]
    row: Row
    inside: str  # what the tests can have in the program's own process alone; '' for nothing
    units: Sequence[dict[str, Any]] = ()
    source: str = ""
    checked: Sequence[str] = ()  # test functions that hold a check
    has_entry: bool = False  # they call the function that the row names by a name of their own
    imports: Sequence[str] = ()  # large libraries that they use

    @property
    def is_marked(self) -> bool:
        """Whether the row says that they run in the program's own process."""
        return self.row.has_own_classes


def python_tests(parts: Sequence[str], row: Row, *, form: str) -> PythonTests:
    """Read the tests of a row. Raises ValueError for such as cannot judge any program."""
    code, tree = _completed("\n".join(parts), row)
    if not any(checks_that_count(tree)):
        raise ValueError("the tests of the ground truth contain no check; expected assert, or a function that raises")
    imported, modules = _imports_of_program(tree)
    helpers = [name for name in HELPERS if name in code]
    free = [name for name in free_names(code, tree) if name not in helpers]
    if helper := undefined_helper(tree, set(free) - {name for name in free if _is_required(name, row)}, set(free)):
        raise ValueError(f"the tests use {helper}, which they do not define, to check what the program returns")
    kind = _kind(tree, form)
    added = list(_calls_to_add(tree, kind))
    is_entry = CANDIDATE in free or any(ENTRY in call for call in added)
    names = list(dict.fromkeys([*imported, *(name for name in free if name != CANDIDATE)]))
    if not (names or is_entry or modules):
        names = _shadowed_builtins(tree)
    unknown = [name for name in names if name not in imported and not _is_required(name, row)]
    if unknown and (row.entry_point or any(_is_required(name, row) for name in names)):
        raise ValueError(f"the tests use {unknown[0]}, which neither they define nor the row asks of the program")
    makers = {*names, *modules, *([CANDIDATE] if is_entry else [])}
    common: dict[str, Any] = {
        "names": names,
        "required": [name for name in names if name in imported or _is_required(name, row)],
        "helpers": helpers,
        "row": row,
        "inside": _needed_inside(tree, makers, modules),
        "has_entry": is_entry,
        "imports": [name for name in ("numpy",) if name in code],
    }
    if kind == "pytest":
        bound = [CHECK, IN_PLACE, *names, *helpers, *([CANDIDATE] if is_entry else [])]
        return PythonTests(kind, source=_file(tree, bound), checked=list(_checked(tree)), **common)
    units = list(_units(_tree(code), added))
    if not any(unit["is_test"] for unit in units):
        raise ValueError("the tests of the ground truth define checks and never run them; expected a call of them")
    return PythonTests("statements", units=units, **common)


def _needed_inside(tree: ast.Module, makers: Collection[str], modules: Collection[str]) -> str:
    if own_class := own_class_needed(tree, makers, modules):
        return f"{own_class}, so they need objects of a class of the program's own, and only data leaves its process"
    if state := process_state_needed(tree, modules):
        return f"{state}, which the program's process does not share with theirs"
    return ""


def _completed(code: str, row: Row) -> tuple[str, ast.Module]:
    """The code with what it counts on: modules that it forgot to import, and functions that the prompt defines."""
    tree = _tree(code)
    free = list(free_names(code, tree))
    added = list(forgotten_imports(tree, free))
    if row.entry_point and CANDIDATE in {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}:
        others = set(free) - set(re.findall(r"\w+", row.entry_point))
        added.append(given_by_prompt(row.prompt, others))
    if not any(added):
        return code, tree
    code = "\n".join([*added, code])
    return code, _tree(code)


def entry_of(program_names: Sequence[str], row: Row) -> str:
    """The function that `check(candidate)` gets where the row names none: the prompt's last, or its own."""
    asked = [name for name in reversed(DEFINITION.findall(row.prompt)) if name in program_names]
    return next(iter(asked), program_names[-1] if program_names else "")


def _tree(code: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"the tests of the ground truth are no Python: {error.args[0]}{line}") from None


def _kind(tree: ast.Module, form: str) -> str:
    """`pytest` for what only pytest can run; a plain `def test_add()` is called."""
    if form == "pytest":
        return "pytest"
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) and _imports(node, "pytest"):
            return "pytest"
        if isinstance(node, ast.ClassDef) and any(_is_test_function(one) for one in node.body):
            return "pytest"
        if _is_test_function(node) and (isinstance(node, ast.AsyncFunctionDef) or _parameters(node)):
            return "pytest"
        if isinstance(node, ast.FunctionDef) and node.name in ("setup_module", "setup_function", "teardown_module"):
            return "pytest"
    return "statements"


def _calls_to_add(tree: ast.Module, kind: str) -> Iterator[str]:
    """Of the functions that hold the checks, where the code itself calls none of them."""
    if kind == "pytest":
        return
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "check" in functions and "check" not in used and len(_parameters(functions["check"])) == 1:
        yield f"check({ENTRY})"
    yield from (f"{name}()" for name, node in functions.items() if _is_test_function(node) and name not in used)


def _units(tree: ast.Module, calls: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The statements in their order; a test is one that holds a check, or uses a function that holds one."""
    statements = [*tree.body, *(ast.parse(call).body[0] for call in calls)]
    holders = _check_holders(tree)
    labels = [ast.unparse(statement).strip()[:MAX_LABEL_CHARS] for statement in statements]
    mark_changing_calls(tree)
    for statement, label in zip(statements, labels, strict=True):
        is_definition = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        has_check = not is_definition and any(is_check(node) for node in ast.walk(statement))
        uses = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)} & holders
        is_main = isinstance(statement, ast.If) and "__main__" in label
        yield {
            "source": with_counts([statement]),
            "label": label,
            "is_test": not is_definition and (has_check or bool(uses)),
            "has_check": not is_definition and (has_check or bool(uses)) and not is_main,
        }


def _check_holders(tree: ast.Module) -> set[str]:
    """Functions and classes that hold a check, or use one that does."""
    definitions = {
        node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    holders = {name for name, node in definitions.items() if any(map(is_check, ast.walk(node)))}
    used = {name: {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} for name, node in definitions.items()}
    while more := {name for name in definitions.keys() - holders if used[name] & holders}:
        holders |= more
    return holders


def _checked(tree: ast.Module) -> Iterator[str]:
    """Test functions, of the module and of its classes, that hold a check."""
    for node in ast.walk(tree):
        if _is_test_function(node) and any(map(is_check, ast.walk(node))):
            assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield node.name


def _file(tree: ast.Module, bound: Sequence[str]) -> str:
    """The whole module for pytest, which imports what the program has to define."""
    head = 0
    for node in tree.body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not is_docstring and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            break
        head += 1
    line = ast.ImportFrom(BOUND, [ast.alias(name) for name in bound], 0)
    mark_changing_calls(tree)
    return with_counts([*tree.body[:head], line, *tree.body[head:]])


def _imports_of_program(tree: ast.Module) -> tuple[list[str], list[str]]:
    """Names that the tests import from the program, and those by which they call it as a module."""
    names, modules = [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ALIASES and not node.level:
            names += [alias.name for alias in node.names if alias.name != "*"]
        elif isinstance(node, ast.Import):
            modules += [alias.asname or alias.name for alias in node.names if alias.name in ALIASES]
    return names, modules


def _shadowed_builtins(tree: ast.Module) -> list[str]:
    """The one function that all checks call, when the tests use no name but Python's own: `assert sum(1, 2) == 3`."""
    called = [
        {
            one.func.id
            for one in ast.walk(node)
            if isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and hasattr(builtins, one.func.id)
        }
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    common = set.intersection(*called) if called else set()
    return list(common) if len(common) == 1 else []


def _is_required(name: str, row: Row) -> bool:
    return name in re.findall(r"\w+", row.entry_point) or re.search(rf"\b{re.escape(name)}\b", row.prompt) is not None


def _is_test_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")


def _parameters(node: ast.AST) -> list[str]:
    """Those that a caller has to give, or that pytest does; a decorator counts, since it may give them."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    required = node.args.args[: len(node.args.args) - len(node.args.defaults)]
    return [one.arg for one in required] + [ast.unparse(one) for one in node.decorator_list]


def _imports(node: ast.Import | ast.ImportFrom, module: str) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return any(name.partition(".")[0] == module for name in names)
