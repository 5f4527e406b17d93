"""What loading takes: the model once, and of anything random no more than a head that is overwritten."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from learner.models.loading.loading import load_policy, value_model_from_policy

SIZES: dict[str, Any] = {"vocab_size": 1000, "num_attention_heads": 4, "num_key_value_heads": 4}
LARGE: dict[str, Any] = SIZES | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4}
SMALL: dict[str, Any] = SIZES | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
ALLOWED = 1.3
"""Of the model's size: one tensor more than the model at a time, and what allocators round up to."""
CASES = [
    ("load_policy", "float32", "float32"),
    ("load_policy", "bfloat16", "float32"),
    ("load_policy", "bfloat16", "bfloat16"),
    ("value_model_from_policy", "float32", "float32"),
    ("value_model_from_policy", "bfloat16", "bfloat16"),
]
"""Loader, type in the file, and type that is computed in."""

# Anonymous memory alone: pages of the file are the kernel's to take back. Sampled, as Linux keeps no peak of it.
MEASURE = """
import json, re, sys, threading, time
import torch
from learner.models.loading import loading

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.001)

def bytes_of(model):
    tensors = {id(one): one for one in (*model.network.parameters(), *model.weights.parameters())}
    return sum(tensor.nbytes for tensor in tensors.values())

folder, cases = sys.argv[1], json.loads(sys.argv[2])
for loader, stored, computed in cases:
    load, options = getattr(loading, loader), {"compute_dtype": getattr(torch, computed)}
    load(f"{folder}/small-{stored}", **options)  # imports, and thread pools
    done, peak, before = threading.Event(), 0, anonymous()
    watching = threading.Thread(target=watch)
    watching.start()
    model = load(f"{folder}/large-{stored}", **options)
    peak = max(peak, anonymous())
    done.set()
    watching.join()
    print(peak - before, bytes_of(model))
    del model
"""


def save(folder: Path, sizes: dict[str, Any], dtype: torch.dtype = torch.float32) -> str:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes)).to(dtype).save_pretrained(folder)  # type: ignore[arg-type]
    return str(folder)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts anonymous memory there")
def test_loading_makes_no_second_copy_of_a_model(tmp_path: Path) -> None:
    for stored in ("float32", "bfloat16"):
        for name, sizes in (("small", SMALL), ("large", LARGE)):
            save(tmp_path / f"{name}-{stored}", sizes, getattr(torch, stored))

    command = [sys.executable, "-c", MEASURE, str(tmp_path), json.dumps(CASES)]
    returned = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # a tensor's memory goes back when it is freed
    lines = subprocess.run(command, check=True, capture_output=True, text=True, env=returned).stdout.splitlines()

    for case, line in zip(CASES, lines, strict=True):
        taken, size = map(int, line.split())
        assert size > 60 * 2**20
        assert 0.9 * size < taken < ALLOWED * size, case


class RandomNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How many were drawn, but for the probe's tokens."""

    drawn = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_drawn = torch.Tag.nondeterministic_seeded in func.tags and isinstance(result, torch.Tensor)
        if is_drawn and result.is_floating_point() and result.device.type != "meta":
            self.drawn += result.numel()
        return result


def drawn_by(make: Any) -> int:
    numbers = RandomNumbers()  # type: ignore[no-untyped-call]
    with numbers:
        make()
    return numbers.drawn


@pytest.mark.parametrize("load", [load_policy, value_model_from_policy])
def test_no_weight_that_a_file_holds_is_initialised_at_random_first(load: Any, tmp_path: Path) -> None:
    folder = save(tmp_path, SMALL)

    assert drawn_by(lambda: load(folder)) <= SMALL["hidden_size"] + 1  # of a value head, which is then set to zero
    assert drawn_by(lambda: LlamaForCausalLM(LlamaConfig(**SMALL))) > SMALL["vocab_size"], "the count sees them"
