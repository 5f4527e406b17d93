"""What pyproject.toml declares is what each room imports, no more and no less."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"tppo", "services", "learner", "tests", "benchmarks", "examples", "tools"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOMS: Mapping[str, tuple[str, ...]] = {
    "tppo": ("weights", "web", "generation"),
    "services/generation": ("generation", "vllm", "web"),
    "services/reward": ("reward", "reasoning-gym"),
    "services/dashboard": ("dashboard", "web"),
    "services/local": ("local",),
    "learner": ("learner", "lora", "trackers"),
}
"""Each with the extras that install it."""
COME_WITH = {"starlette": "fastapi", "pydantic-core": "pydantic"}
"""Distributions that are part of another one, which pins them."""
USED_INDIRECTLY = {"jinja2", "numpy"}
"""Chat templates of transformers need jinja2; torch gives its tensors to others as numpy arrays."""


def distribution(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def declared(extra: str) -> Iterator[str]:
    """The distributions that an extra names, in other extras of ours too."""
    for requirement in PROJECT["optional-dependencies"][extra]:
        if requirement.startswith("tppo["):
            for other in requirement[len("tppo[") : requirement.index("]")].split(","):
                yield from declared(other)
        else:
            yield distribution(requirement)


def imported(folder: str, *, leaving_out: Sequence[str] = ()) -> set[str]:
    """Names of the top-level packages of others that a folder's modules import."""
    return {
        name
        for path in (ROOT / folder).rglob("*.py")
        if not {*path.relative_to(ROOT).parts} & {*leaving_out}
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _roots(node)
        if name not in sys.stdlib_module_names and name not in OURS
    }


def _roots(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.partition(".")[0]]
    return []


def undeclared(names: set[str], allowed: set[str]) -> set[str]:
    """Those that no allowed distribution provides."""
    providers = packages_distributions()
    found = {name: {distribution(one) for one in providers.get(name, [name])} for name in names}
    return {name for name, ones in found.items() if not {COME_WITH.get(one, one) for one in ones} & allowed}


BASE = {distribution(requirement) for requirement in PROJECT["dependencies"]}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_its_extras_install(room: str) -> None:
    allowed = BASE.union(*(declared(extra) for extra in ROOMS[room]))

    assert undeclared(imported(room), allowed) == set()


BEYOND_THE_WHEEL = (
    *("weights", "digests.py", "adapters.py", "denormals.py", "device.py", "precision.py", "probe.py", "tokenizer.py"),
    "web_server.py",
)


def test_the_wheel_alone_imports_only_what_it_installs_but_for_models_and_web_servers() -> None:
    assert undeclared(imported("tppo", leaving_out=BEYOND_THE_WHEEL), BASE) == set()


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "examples", "tools"])
def test_everything_else_imports_only_what_the_developers_extra_installs(folder: str) -> None:
    assert undeclared(imported(folder), BASE | set(declared("dev"))) == set()


@pytest.mark.parametrize("extra", ["weights", "web", "generation", "reward", "learner", "lora", "dashboard", "local"])
def test_an_extra_installs_only_what_its_rooms_import(extra: str) -> None:
    rooms = [room for room, extras in ROOMS.items() if extra in extras] + ["tppo"]
    if extra == "local":
        rooms = list(ROOMS)
    providers = packages_distributions()
    used = {distribution(one) for room in rooms for name in imported(room) for one in providers.get(name, [name])}

    assert set(declared(extra)) - used - USED_INDIRECTLY == set()


CLIENT = [
    "tppo.scoring.remote",
    "tppo.reward_client",
    "tppo.config",
    "tppo.streams",
    "tppo.codec",
    "tppo.prometheus.exporter",
]
LEAN: Mapping[str, tuple[list[str], set[str]]] = {
    "client": (CLIENT, {"torch", "numpy", "transformers", "fastapi", "pyarrow", "sympy", "rich"}),
    "dashboard": (["services.dashboard.__main__", "services.dashboard.api.app"], {"torch", "transformers"}),
    "reward": (["services.reward.__main__", "services.reward.build"], {"torch", "numpy", "transformers", "pyarrow"}),
}
BLOCKING = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is not installed here")

sys.meta_path.insert(0, Blocker())
for module in {modules!r}:
    importlib.import_module(module)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAN)
def test_a_process_without_models_needs_no_torch(name: str) -> None:
    modules, blocked = LEAN[name]
    if name != "client":
        modules = [*modules, *modules_below(f"services/{name}")]

    program = BLOCKING.format(blocked=blocked, modules=modules)
    outcome = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (outcome.returncode, outcome.stderr) == (0, "")


def modules_below(folder: str) -> list[str]:
    """All of a room, but for the programs that a module name would start."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths if path.name != "gym.py"]
