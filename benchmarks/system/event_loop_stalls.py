"""How long the event loop of each process stands still while a model of 1 GB is trained, sent and checkpointed.

    OMP_NUM_THREADS=1 python -m benchmarks.system.event_loop_stalls --gigabytes 1 --steps 3

Learner, generator, reward service and Redis are the processes of `tppo run`; the model is made on the spot, of random
weights. Beside everything else a task on each loop sleeps for 5 ms at a time. A stall is how much later it wakes. The
machine's share is in it, so the table also says how long the loop's own thread computed, and what is left of the stalls
without the moments in which a bystander, a process that does nothing else than this, stood still too.
The value model is a small one, and alone is trained (warm-up), so that it all fits into 6 GB of memory; the policy is
copied, hashed, sent, loaded and checkpointed as ever. A folder with 4 GB is deleted in the end.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from services.local.redis_server import RedisServer, find_binary, free_port
from tppo.run_folder.checkpoints import CheckpointFolder, manifest_of
from tppo.run_folder.paths import RunPaths

T = TypeVar("T")
PERIOD_SECONDS = 0.005
WRITE_SECONDS = 0.5
BYSTANDER = "bystander"
CONFIG = """
[run]
name = "stalls"
mode = "lockstep"
total_training_steps = 1000
rollouts_per_step = 2
window_length = 8
max_prompt_length = 64
max_response_length = 16
watchdog_seconds = 3600

[model]
path = "model"
critic_path = "critic"

[data]
train_files = ["rows.jsonl"]
samples_per_prompt = 2

[algorithm]
num_ignored_tail_tokens = 0

[critic]
warmup_steps = 999

[generation]
num_slots = 2

[reward.functions]
"sums" = "exact"

[evaluation]
test_freq = 0

[checkpoint]
save_freq = 1
keep = 1
"""


@dataclass
class Stalls:
    """Of one loop."""

    num_wakes: int = 0
    longest_seconds: float = 0.0
    longest_computed_seconds: float = 0.0  # by the loop's thread, in any
    beyond: dict[str, int] = field(default_factory=lambda: {"10 ms": 0, "50 ms": 0})
    peak_bytes: int = 0  # of the process
    moments: list[tuple[float, float]] = field(default_factory=list)  # of those beyond 10 ms: from and to, monotonic


async def watch(path: Path) -> None:
    """Until cancelled; what was seen is in the file all along, as a process may end at any moment."""
    stalls, written = Stalls(), time.monotonic()
    while True:
        due, computed = time.perf_counter() + PERIOD_SECONDS, time.thread_time()
        await asyncio.sleep(PERIOD_SECONDS)
        late, computed = time.perf_counter() - due, time.thread_time() - computed
        _note(stalls, due, late, computed)
        if time.monotonic() - written > WRITE_SECONDS:
            stalls.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            # Opening a file takes as long as the disk is busy with a checkpoint.
            await asyncio.to_thread(path.write_text, json.dumps(asdict(stalls)))
            written = time.monotonic()


def _note(stalls: Stalls, due: float, late: float, computed: float) -> None:
    stalls.num_wakes += 1
    if late > 0.01:
        stalls.moments.append((due, due + late))
    stalls.longest_computed_seconds = max(stalls.longest_computed_seconds, computed)
    for name, limit in (("10 ms", 0.01), ("50 ms", 0.05)):
        stalls.beyond[name] += late > limit
    stalls.longest_seconds = max(stalls.longest_seconds, late)


def longest_of_its_own(stalls: Stalls, bystander: Stalls) -> float:
    """Seconds of the longest stall that is left without the moments in which the bystander stood still too."""

    def shared(begin: float, end: float) -> float:
        return sum(max(0.0, min(end, stop) - max(begin, start)) for start, stop in bystander.moments)

    return max((end - begin - shared(begin, end) for begin, end in stalls.moments), default=0.0)


def inside(path: Path, arguments: Sequence[str]) -> int:
    """This process is `tppo ARGUMENTS`, with a watch on its event loop; without arguments, a bystander."""
    if not arguments:
        asyncio.run(watch(path))
    from tppo.__main__ import main as tppo

    run = asyncio.run

    async def watched(work: Coroutine[Any, Any, T]) -> T:
        watching = asyncio.create_task(watch(path))
        try:
            return await work
        finally:
            watching.cancel()

    asyncio.run = lambda work, **options: run(watched(work), **options)
    return tppo(arguments)


def a_row(number: int) -> dict[str, Any]:
    """A short one: it is not the model's speed that is measured."""
    return {
        "data_source": "sums",
        "prompt": [{"role": "user", "content": f"2+{number}"}],
        "reward_model": {"ground_truth": str(2 + number)},
    }


def make_models(folder: Path, gigabytes: float) -> None:
    """A policy of float32 weights, in layers of 16.8 million until it is that large, and a small value model."""
    from transformers import Qwen2ForCausalLM, Qwen2ForTokenClassification

    from examples.gsm8k.make_random_model import made_model, made_tokenizer

    tokenizer = made_tokenizer()
    config = made_model(tokenizer).config
    config.num_labels = 1
    classifier: Any = Qwen2ForTokenClassification
    classifier(config).save_pretrained(folder / "critic")
    config.hidden_size, config.intermediate_size = 1024, 4096
    config.num_attention_heads, config.num_key_value_heads = 16, 16
    config.num_hidden_layers = max(1, round(gigabytes * 1e9 / 4 / 16.8e6))
    config.layer_types = ["full_attention"] * config.num_hidden_layers
    Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def measured(folder: Path, *, gigabytes: float, steps: int) -> dict[str, Stalls]:
    """By process, at the end of a run in the folder."""
    (folder / "run.toml").write_text(CONFIG)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in map(a_row, range(16))))
    make_models(folder, gigabytes)
    (folder / "redis").mkdir()
    server = RedisServer(binary=find_binary(), port=free_port(), folder=folder / "redis", memory_limit_mb=512)
    names = ("generation", "reward", "learner")
    with ExitStack() as stack:
        processes = {"redis": _started(stack, server.command())}
        watched = [sys.executable, "-m", "benchmarks.system.event_loop_stalls", "--inside"]
        _started(stack, [*watched, str(folder / f"{BYSTANDER}.json")])
        for name in names:
            command = [*watched, str(folder / f"{name}.json")]
            command += [name, str(folder / "run.toml"), "--redis", server.url, f"--set=run.directory={folder / 'runs'}"]
            processes[name] = _started(stack, command)
        while (_newest_step(folder) or 0) < steps and processes["learner"].poll() is None:
            time.sleep(1)
        processes["learner"].terminate()  # it commits a last checkpoint
        if code := processes["learner"].wait():
            raise SystemExit(f"the learner ended with code {code}")
    return {name: Stalls(**json.loads((folder / f"{name}.json").read_text())) for name in (*names, BYSTANDER)}


def _newest_step(folder: Path) -> int | None:
    return CheckpointFolder(RunPaths(folder / "runs" / "stalls").checkpoints).newest_step()


def _started(stack: ExitStack, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    stack.callback(process.terminate)
    return process


def report(found: dict[str, Stalls], folder: Path) -> None:
    """A table, and what a checkpoint took."""
    print("\n| event loop of | longest stall | without the machine's | most computing | > 10 ms | > 50 ms | wakes |")
    print("|---|---|---|---|---|---|---|")
    for name, stalls in found.items():
        own = longest_of_its_own(stalls, found[BYSTANDER])
        longest, alone, most = (
            f"{seconds * 1000:.0f} ms" for seconds in (stalls.longest_seconds, own, stalls.longest_computed_seconds)
        )
        counts = f"{stalls.beyond['10 ms']} | {stalls.beyond['50 ms']} | {stalls.num_wakes}"
        print(f"| {name} | {longest} | {alone if name != BYSTANDER else '-'} | {most} | {counts} |")
    newest = CheckpointFolder(RunPaths(folder / "runs" / "stalls").checkpoints).newest()
    assert newest is not None
    num_bytes = sum(size for size, _ in manifest_of(newest)["files"].values())
    peaks = ", ".join(f"{name} {stalls.peak_bytes / 1e9:.1f} GB" for name, stalls in found.items())
    print(f"\na checkpoint: {num_bytes / 1e9:.2f} GB; peak memory: {peaks}; load of the machine: {os.getloadavg()}")


def main(argv: Sequence[str]) -> int:
    if argv[:1] == ["--inside"]:
        return inside(Path(argv[1]), argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of the policy's weights")
    parser.add_argument("--steps", type=int, default=3, help="training steps, each with a checkpoint")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        report(measured(Path(name), gigabytes=arguments.gigabytes, steps=arguments.steps), Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
