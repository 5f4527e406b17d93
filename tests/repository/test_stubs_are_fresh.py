import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def stubs_in(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*_pb2*")}


def test_the_checked_in_stubs_are_those_that_the_protos_generate(tmp_path: Path) -> None:
    command = [str(REPOSITORY / "proto/generate.sh"), str(tmp_path)]

    subprocess.run(command, check=True, env={**os.environ, "PYTHON": sys.executable})

    assert stubs_in(tmp_path / "tppo/v1") == stubs_in(REPOSITORY / "tppo/v1")
