"""Nothing is pickled or unpickled: whoever can write a file of a run, or reach a port, must not run code by it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("tppo", "learner", "services", "benchmarks", "examples", "tools")
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle5", "shelve"}
CALLS = {("torch", "load"), ("torch", "save"), ("numpy", "load"), ("np", "load"), ("pandas", "read_pickle")}


def unpickling(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name.partition(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                yield module
            case ast.ImportFrom(module="torch" | "numpy", names=names):
                yield from (name.name for name in names if name.name in ("load", "save"))
            case ast.Attribute(value=ast.Name(id=module), attr=name) if (module, name) in CALLS:
                yield f"{module}.{name}"


def test_no_module_of_ours_pickles() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if "node_modules" not in path.parts]

    assert len(files) > 200
    assert {str(path): found for path in files if (found := list(unpickling(path)))} == {}
