"""Whether tests set or look at the state of a process: its files, its input, its patches, how its functions are made.

The program runs in another process, so such tests would find a right program wrong. Seeds of random numbers are set in
both (`inside/judge/judged_program.py`), and what a call prints is printed on the tests' side.
"""

import ast
from collections.abc import Collection, Iterator

FIXTURES = {
    *("tmp_path", "tmp_path_factory", "tmpdir", "tmpdir_factory", "monkeypatch", "mocker", "caplog", "recwarn"),
    *("event_loop", "unused_tcp_port"),
}
NAMES = {"open", "patch", "asyncio", "inspect", "tempfile", "shutil", "mock_open"}
KINDS_OF_FUNCTIONS = {"GeneratorType", "FunctionType", "LambdaType", "CoroutineType", "MethodType"}
PARTS_OF_FUNCTIONS = {"__code__", "__annotations__", "__defaults__", "__kwdefaults__", "__closure__", "__globals__"}
WRITES = {"write_text", "write_bytes", "read_text", "read_bytes", "touch", "mkdir", "makedirs", "unlink", "rmdir"}
REPORTS = {
    "warns",
    "deprecated_call",
    "assertWarns",
    "assertWarnsRegex",
    "assertLogs",
    "assertNoLogs",
    "catch_warnings",
}
STATE = {
    *(
        "os.environ",
        "os.putenv",
        "os.getenv",
        "os.chdir",
        "os.remove",
        "os.listdir",
        "os.path.exists",
        "os.path.isfile",
    ),
    *("os.path.isdir", "os.path.getsize", "sys.stdin", "sys.argv", "importlib.reload", "typing.get_type_hints"),
    *("signal.signal", "signal.alarm", "threading.active_count"),
}


def process_state_needed(tree: ast.Module, modules: Collection[str]) -> str:
    """What the tests say that only makes sense in the program's process; '' for nothing."""
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return next(_uses(tree, modules, NAMES - bound), "")


def _uses(tree: ast.Module, modules: Collection[str], names: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.arg(arg=name) if name in FIXTURES:
                yield f"the fixture {name}"
            case ast.Name(id=name, ctx=ast.Load()) if name in names | KINDS_OF_FUNCTIONS:
                yield name
            case ast.Attribute(attr=name) if name in PARTS_OF_FUNCTIONS | KINDS_OF_FUNCTIONS | WRITES | REPORTS | {
                "err"
            }:
                yield ast.unparse(node)
            case ast.Attribute() if (text := ast.unparse(node)) in STATE or text.startswith("mock.patch"):
                yield text
            case ast.Attribute(value=ast.Name(id=name), ctx=ast.Store()) if name in modules:
                yield f"{ast.unparse(node)} = ..."
            case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[ast.Name(id=name), *_]) if name in modules:
                yield ast.unparse(node)
            case ast.Call(func=function, args=[_, ast.expr() as kind]) if _is_about_kind(function, kind):
                yield ast.unparse(node)
            case ast.AsyncFunctionDef(name=name):
                yield f"async def {name}"


def _is_about_kind(function: ast.expr, kind: ast.expr) -> bool:
    """Whether a check is that a result is a generator, and not a list of what it yields."""
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("isinstance", "assertIsInstance") and ast.unparse(kind).endswith("Generator")
