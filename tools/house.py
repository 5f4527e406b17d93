"""The rules of CONTRIBUTING.md that no linter knows: `python tools/house.py [ROOT]` lists what breaks them.

Read are the files that git tracks. Rules on Python are for the rooms that ship, `ROOMS`; rules on words are for
everything that a person reads. Exit code 1 when anything is found.
"""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOMS = ("tppo", "learner", "services")
GENERATED = ("tppo/v1/",)
SMALL_FILE_LINES = 60
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60

READ_BY_PEOPLE = (".py", ".md", ".toml", ".proto", ".yml", ".yaml", ".js", ".html", ".css", ".sh", ".conf", "Makefile")
NOT_OURS = ("services/dashboard/static/vendor/", "tools/house.py", "tests/repository/test_house.py", "CHANGELOG.md")
WORDS = {
    r"doubles|doubled": "duplicate",
    r"ask(s|ed|ing)? again": "resend, request again",
    r"ask(s|ed|ing)? for": "request",
    r"wish(es|ed)?|fulfil(s|led)?|obeys?|obeyed": "request, apply",
    r"told|tells?": "report, send, say",
    r"anew": "again, from scratch",
    r"for ever": "indefinitely, without limit",
    r"fell silent|falls silent|has shown itself": "heartbeat missing for N s",
    r"(first|next|this|each|another|earlier|later|learner's) life|lives?d? again": "incarnation, restart, replay",
    r"nursery": "fork server",
    r"farewell|goodbye": "shut down, closing message",
    r"clerks?": "RolloutManager",
    r"relief": "memory pressure",
    r"patience|again and again": "retry, back-off, deadline",
    r"put(s)? aside": "deferred, dead letter, parked",
    r"without a word|merely looks?": "exited with code 1 and no message",
}
WORDS = {pattern.replace(" ", "[ _]"): word for pattern, word in WORDS.items()}  # names too, such as ask_again
DIALECT = re.compile(f"(?<![a-z.])(?:{'|'.join(WORDS)})(?![a-z])", re.IGNORECASE)


class Finding(NamedTuple):
    """Where a rule is broken, and what to do."""

    place: str
    text: str


@dataclass(frozen=True)
class Module:
    """A Python file of a room."""

    name: str
    path: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse(self.source)

    @property
    def num_lines(self) -> int:
        """Of the file."""
        return self.source.count("\n")

    @property
    def is_package(self) -> bool:
        """Whether it is a folder's `__init__.py`."""
        return self.path.endswith("__init__.py")

    @property
    def is_program(self) -> bool:
        """Whether it is run by name or path, and so needs no importer."""
        return self.path.endswith("__main__.py") or '__name__ == "__main__"' in self.source


Modules = Mapping[str, Module]


def small_files_with_one_importer(modules: Modules) -> Iterator[Finding]:
    """A file that only one other file uses belongs into that one."""
    importers = _importers(modules)
    exempt = {text for module in modules.values() for text in _strings(module) if text in modules}  # loaded by name
    exempt.update(*(_variants(module, modules) for module in modules.values()))
    for module in modules.values():
        users = importers[module.name]
        if module.is_package or module.is_program or module.name in exempt:
            continue
        if module.num_lines >= SMALL_FILE_LINES or len(users) > 1:
            continue
        neighbour = f"only {next(iter(users))} imports it" if users else "nothing imports it"
        yield Finding(module.path, f"{module.num_lines} lines, and {neighbour}: join them")


def class_names_in_two_places(modules: Modules) -> Iterator[Finding]:
    """One public class name means one thing in all rooms."""
    places = defaultdict(list)
    for module in modules.values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{module.path}:{node.lineno}")
    for name, found in places.items():
        if len(found) > 1:
            yield Finding(found[0], f"class {name} is also defined in {', '.join(found[1:])}: name them apart")


def import_circles(modules: Modules) -> Iterator[Finding]:
    """No module imports itself through others; imports under TYPE_CHECKING count."""
    graph = {name: _imported(module, modules) for name, module in modules.items()}
    for circle in _strongly_connected(graph):
        if len(circle) > 1:
            yield Finding(modules[circle[0]].path, f"imports in a circle: {' - '.join(sorted(circle))}")


def long_files_and_functions(modules: Modules) -> Iterator[Finding]:
    """Sizes beyond which nobody reads a thing as a whole."""
    for module in modules.values():
        if module.num_lines > MAX_FILE_LINES:
            yield Finding(module.path, f"{module.num_lines} lines; expected at most {MAX_FILE_LINES}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    place = f"{module.path}:{node.lineno}"
                    yield Finding(place, f"{node.name} has {length} lines; expected at most {MAX_FUNCTION_LINES}")


def words_of_no_field(texts: Mapping[str, str]) -> Iterator[Finding]:
    """Who searches types the field's word."""
    for path, text in texts.items():
        for number, line in enumerate(text.splitlines(), start=1):
            for found in DIALECT.finditer(line):
                instead = next(
                    word for pattern, word in WORDS.items() if re.fullmatch(pattern, found[0], re.IGNORECASE)
                )
                yield Finding(f"{path}:{number}", f"{found[0]!r}; say {instead}")


def findings(root: Path) -> Iterator[Finding]:
    """All rules on the repository at `root`."""
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    tracked = [path for path in tracked if (root / path).is_file()]
    modules = read_modules(root, tracked)
    yield from small_files_with_one_importer(modules)
    yield from class_names_in_two_places(modules)
    yield from import_circles(modules)
    yield from long_files_and_functions(modules)
    texts = [path for path in tracked if path.endswith(READ_BY_PEOPLE) and not path.startswith((*NOT_OURS, *GENERATED))]
    yield from words_of_no_field({path: (root / path).read_text(encoding="utf-8") for path in texts})


def read_modules(root: Path, paths: Sequence[str]) -> Modules:
    """The Python files of the rooms, by module name."""
    modules = {}
    for path in paths:
        if path.endswith(".py") and path.startswith(tuple(f"{room}/" for room in ROOMS)):
            if path.startswith(GENERATED):
                continue
            name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            modules[name] = Module(name, path, (root / path).read_text(encoding="utf-8"))
    return modules


def _imported(module: Module, modules: Modules) -> set[str]:
    """The modules that an import statement of this one names."""
    return {target for target, _ in _imports(module, modules)} - {module.name}


def _importers(modules: Modules) -> Mapping[str, set[str]]:
    """Who uses a module; a name that its package re-exports counts for the module that defines it."""
    defined_in = {
        (package.name, name): target
        for package in modules.values()
        if package.is_package
        for target, name in _imports(package, modules)
    }
    importers = defaultdict(set)
    for module in modules.values():
        for target, name in _imports(module, modules):
            owner = defined_in.get((target, name), target)
            is_reexport = module.is_package and owner.startswith(f"{module.name}.")
            if owner != module.name and not is_reexport:
                importers[owner].add(module.name)
    return importers


def _variants(package: Module, modules: Modules) -> set[str]:
    """The modules among which a function of their package's `__init__` chooses, one variant each."""
    has_function = any(isinstance(node, ast.FunctionDef) for node in package.tree.body)
    own = {name for name in _imported(package, modules) if name.startswith(f"{package.name}.")}
    return own if package.is_package and has_function and len(own) > 1 else set()


def _strings(module: Module) -> Iterator[str]:
    """Constants; among them are the names of modules that are loaded only when they are needed."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _imports(module: Module, modules: Modules) -> Iterator[tuple[str, str]]:
    """Each imported name with the module that it comes from; the name is empty where a whole module is imported."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (whole := f"{node.module}.{alias.name}") in modules:
                    yield whole, ""
                elif node.module in modules:
                    yield node.module, alias.name


def _strongly_connected(graph: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Tarjan's components."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        index[name] = lowest[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                yield from visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], index[target])
        if lowest[name] == index[name]:
            place = stack.index(name)
            yield stack[place:]
            del stack[place:]

    for name in sorted(graph):
        if name not in index:
            yield from visit(name)


def main(arguments: Sequence[str]) -> int:
    """Print what is found."""
    found = sorted(findings(Path(arguments[0] if arguments else ".")))
    for place, text in found:
        print(f"{place}: {text}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
