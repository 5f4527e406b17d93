"""Installed as users install: the wheel holds the client alone, and no other folder's modules are taken for ours."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "iterated_map" / "quickstart.toml"
pytestmark = [pytest.mark.process, pytest.mark.slow]

RAISING = "raise AssertionError(f'{__file__} was imported')\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, in which no earlier build has left anything."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("tppo", "services", "learner"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import setuptools.build_meta as backend; backend.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (found,) = (source / "dist").glob("tppo-*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel, beside the third-party packages of the current one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "-q", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True)
    others = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "others.pth").write_text("\n".join(others))
    (packages / "services").mkdir()
    (packages / "services" / "__init__.py").write_text(RAISING)  # another distribution's
    return folder


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A user's folder with modules of the names of ours."""
    for name in ("services", "learner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(RAISING)
    (tmp_path / "tppo.py").write_text(RAISING)
    return tmp_path


def ran(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)


def test_the_wheel_puts_nothing_but_tppo_on_the_path(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in ZipFile(wheel).namelist()}

    assert {name for name in tops if not name.endswith(".dist-info")} == {"tppo"}


def test_the_client_runs_where_other_modules_have_the_names_of_ours(environment: Path, hostile: Path) -> None:
    usage = ran(environment / "bin/tppo", "--help", cwd=hostile)
    client = ran(environment / "bin/tppo", "remote-score", "--help", cwd=hostile)

    assert usage.returncode == client.returncode == 0, usage.stderr + client.stderr
    assert "remote-score" in usage.stdout
    assert client.stdout.startswith("usage: tppo remote-score")


def test_a_verb_of_the_application_names_what_is_missing_in_one_sentence(environment: Path, hostile: Path) -> None:
    refusal = ran(environment / "bin/tppo", "reward", "run.toml", cwd=hostile)

    assert refusal.returncode == 2
    assert refusal.stderr == (
        "tppo reward: this verb is not in the wheel, which holds the client alone; "
        "expected a checkout (pip install -e .) or the image\n"
    )


def test_a_safe_path_starts_the_checkouts_own_service(hostile: Path) -> None:
    checked = ran(sys.executable, "-P", "-m", "tppo", "reward", QUICKSTART, "--check", cwd=hostile)

    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_folder_with_its_own_services_does_not_hide_ours(hostile: Path) -> None:
    (hostile / "tppo.py").unlink()

    checked = ran(sys.executable, "-m", "tppo", "reward", QUICKSTART, "--check", cwd=hostile)

    assert (checked.returncode, checked.stderr) == (0, "")
