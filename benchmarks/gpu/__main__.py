"""Whether T-PPO computes on this machine's GPU what it computes on a CPU, and how fast: `make test-gpu`.

    python -m benchmarks.gpu [--device cuda] [--blocks 24] [--compile] [--json gpu.json]

It needs torch, transformers and this checkout alone, and installs and downloads nothing. Prints a table; the exit code
is 1 where a tolerance was not met. What the parts do: docs/gpu.md.
"""

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a kernel that is here already may be used; none is fetched

import torch
import transformers

from benchmarks.gpu import attention, findings, one_step, probe, speed
from benchmarks.gpu.findings import Finding
from benchmarks.gpu.subject import Sizes
from tppo.models.device import chosen_device

QWEN2_05B = Sizes(
    hidden=896,
    intermediate=4864,
    blocks=24,
    heads=14,
    vocabulary=151_936,
    num_rows=16,
    row_length=1024,
    max_tokens=4096,
)
TINY = Sizes(hidden=64, intermediate=192, blocks=2, heads=4, vocabulary=512, num_rows=8, row_length=32, max_tokens=64)
COMPARED_ROWS = {"num_rows": 4, "row_length": 64, "max_tokens": 128}
"""Of the step that the CPU computes too."""


Parts = dict[str, Callable[[], Sequence[Finding]]]


def main(arguments: Sequence[str] | None = None, *, parts_of: Callable[[Any, str], Parts] | None = None) -> int:
    """Run all parts, and report; `parts_of` options and device."""
    options = _parser().parse_args(arguments)
    device = _device(options.device)
    if device == "cpu" and not options.tiny:
        print("no accelerator is here; expected one, or --device cpu --tiny", file=sys.stderr)
        return 2
    found: list[Finding] = []
    for name, run in (parts_of or _parts)(options, device).items():
        began = time.perf_counter()
        found += findings.attempted(name, run)
        gc.collect()  # models refer to themselves, and the next part needs their memory
        print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    print(f"{_machine(device)}\n\n{findings.table(found)}")
    if options.json is not None:
        report = {"machine": _machine(device), "findings": findings.as_json(found)}
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 1 if any(one.status == "failed" for one in found) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto", help="of torch, such as cuda:1; auto: CUDA where there is one")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU computes in a few seconds")
    parser.add_argument("--blocks", type=_count, help="of the model of 0.5B parameters, instead of 24")
    parser.add_argument("--tokens", type=_count, help="of a micro-batch of the speed and memory part, instead of 4096")
    parser.add_argument("--compile", action="store_true", help="also compile the blocks, which takes a minute or so")
    parser.add_argument("--peak-tflops", type=float, help="of the device in bfloat16, where the script knows none")
    parser.add_argument("--json", type=Path, help="file for the findings")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number of at least 1")
    return int(text)


def _device(name: str) -> str:
    is_here = torch.accelerator.is_available()
    kind = torch.accelerator.current_accelerator() if is_here else None
    numbers = range(torch.accelerator.device_count())
    return chosen_device(name, [f"{kind.type}:{number}" for number in numbers] if kind else [], key="--device")


def _parts(options: Any, device: str) -> Parts:
    sizes = TINY if options.tiny else QWEN2_05B
    sizes = replace(sizes, blocks=options.blocks or sizes.blocks, max_tokens=options.tokens or sizes.max_tokens)
    compared = sizes if options.tiny else replace(sizes, **COMPARED_ROWS)
    few_blocks = replace(sizes, blocks=min(sizes.blocks, attention.BLOCKS))
    return {
        "probe": lambda: list(probe.families(device, is_tiny=options.tiny)),
        "one step": lambda: list(one_step.against_the_cpu(compared, device)),
        "memory and speed": lambda: list(speed.of_a_step(sizes, device, peak_tflops=options.peak_tflops)),
        "attention": lambda: list(attention.implementations(few_blocks, device, compiles=options.compile)),
    }


def _machine(device: str) -> str:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    versions = f"PyTorch {torch.__version__}, transformers {transformers.__version__}"
    return f"{name}, {versions}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
