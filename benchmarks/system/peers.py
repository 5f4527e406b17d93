"""Tokens trained per second, end to end: TRL's GRPO on this machine's CPU, and ours, on the quick start's task.

    OMP_NUM_THREADS=1 python -m benchmarks.system.peers

TRL lives in an environment of its own below the user's cache folder, which the first call makes (`pip install`, torch
and the rest of constraints.txt). Settings are written down in trl_grpo.py: the same base model, prompts, rows,
responses to a prompt, updates, rate and limits; it may use both cores by two threads, or one, whichever is faster. Ours
is `tppo run` with its services, T-PPO as in the quick start and synchronous PPO; both train a value model too. The
first step of each is left out.
"""

import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import results
from benchmarks.results import ROOT, Chapter, Lines, Section, chapter_folder, chapter_parser, table
from benchmarks.studies.timed_runs import watched_run
from benchmarks.system.trl_grpo import GROUP
from tppo.run_folder.metric_lines import STEP, read_metric_lines

PACKAGES = ("trl==1.16.0", "torch")
CONSTRAINTS = ROOT / "constraints.txt"
SECONDS_EACH = 120.0
OURS = {
    "T-PPO, streaming": ("run.algorithm=tppo", "run.mode=streaming"),
    "PPO, synchronous": ("run.algorithm=ppo", "run.mode=lockstep"),
}
THREADS = (1, 2)


def environment() -> Path:
    """The interpreter of TRL's environment, which is made where it is missing."""
    key = zlib.crc32("\n".join((*PACKAGES, CONSTRAINTS.read_text())).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "tppo" / f"peers-{key:08x}"
    if not (folder / ".installed").exists():
        print(f"Installing {', '.join(PACKAGES)} into {folder}: a few minutes.", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(folder / "bin" / "pip"), "install", "-q", "-c", str(CONSTRAINTS), *PACKAGES]
        subprocess.run(install, check=True)
        (folder / ".installed").touch()
    return folder / "bin" / "python"


def theirs(*, steps: int, num_threads: int) -> Section:
    with tempfile.TemporaryDirectory() as folder:
        command = [str(environment()), str(Path(__file__).with_name("trl_grpo.py")), str(steps), folder]
        variables = os.environ | {"OMP_NUM_THREADS": str(num_threads), "HF_HUB_OFFLINE": "1"}
        ran = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def ours(overrides: Sequence[str], *, steps: int) -> Section:
    settings = (
        *overrides,
        f"run.total_training_steps={steps}",
        f"data.samples_per_prompt={GROUP}",
        "evaluation.test_freq=0",
        "run.seed=101",
        "dashboard.port=0",
    )
    with tempfile.TemporaryDirectory() as folder:
        watch = watched_run((*settings, f"run.directory={folder}"))
        lines = read_metric_lines(Path(folder) / "quickstart" / "metrics.jsonl")
    taken = [line for line in lines if line["kind"] == STEP]
    began, ended = taken[0]["time"], taken[-1]["time"]
    return {
        "seconds": ended - began,
        "cpu_seconds": sum(watch.cpu_seconds(began, ended).values()),
        "tokens": sum(int(line["tokens/window"]) for line in taken[1:]),
    }


def measure(*, steps: int, folder: Path) -> Section:
    ways: dict[str, Callable[[], Section]] = {
        **{f"TRL's GRPO, {num} threads": partial(theirs, steps=steps, num_threads=num) for num in THREADS},
        **{name: partial(ours, overrides, steps=steps) for name, overrides in OURS.items()},
    }
    environment()  # made beforehand, so that the time of its making is nobody's
    parts = {f"{steps} steps: {name}": way for name, way in ways.items()}
    found = Lines(folder / "peers.jsonl").measure(parts, seconds_each=SECONDS_EACH * steps / 60)
    return {"steps": steps, "ways": {name: found[f"{steps} steps: {name}"] for name in ways}}


def tables(section: Section) -> dict[str, str]:
    rates = {name: one["tokens"] / one["seconds"] for name, one in section["ways"].items()}
    best = max(rate for name, rate in rates.items() if name not in OURS)
    rows = [
        [
            name,
            f"{rates[name]:,.0f}",
            f"{rates[name] / best:.2f}",
            f"{one['tokens'] / one['cpu_seconds']:,.0f}",
            f"{one['tokens'] / (section['steps'] - 1):,.0f}",
        ]
        for name, one in section["ways"].items()
    ]
    head = ["", "trained tokens per second", "to the faster TRL", "per CPU second", "tokens of a step"]
    return {"peers": table(head, rows)}


CHAPTER = Chapter(name="peers", module="benchmarks.system.peers", minutes=8, places=("peers",), tables=tables)


def main(argv: Sequence[str]) -> None:
    parser = chapter_parser(__doc__, quick="a few steps")
    parser.add_argument("--steps", type=int, default=60, help="of 32 rows")
    arguments = parser.parse_args(argv)
    section = measure(steps=6 if arguments.quick else arguments.steps, folder=chapter_folder(arguments))
    print(tables(section)["peers"])
    if not arguments.quick:
        seconds = sum(one["seconds_of_machine"] for one in section["ways"].values())
        results.keep(CHAPTER.name, section, seconds=seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
