"""What loading takes: the memory of the model once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES: dict[str, Any] = {"vocab_size": 1000, "num_attention_heads": 4, "num_key_value_heads": 4}
LARGE: dict[str, Any] = SIZES | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
SMALL: dict[str, Any] = SIZES | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
ALLOWED = 1.3
"""Of the model's size in float32: one tensor more than the model at a time, and what allocators round up to."""

# Anonymous memory alone: pages of the file are the kernel's to take back. Sampled, as Linux keeps no peak of it.
MEASURE = """
import re, sys, threading, time
from learner.models.loading import load_policy as load

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.001)

load(sys.argv[1])  # imports, and thread pools
done, peak, before = threading.Event(), 0, anonymous()
watching = threading.Thread(target=watch)
watching.start()
model = load(sys.argv[2])
peak = max(peak, anonymous())
done.set()
watching.join()
print(peak - before, sum(parameter.nbytes for parameter in model.network.parameters()))
"""


def saved(folder: Path, sizes: dict[str, Any]) -> str:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts anonymous memory there")
def test_loading_makes_no_second_copy_of_a_policy(tmp_path: Path) -> None:
    small, large = saved(tmp_path / "small", SMALL), saved(tmp_path / "large", LARGE)

    command = [sys.executable, "-c", MEASURE, small, large]
    taken, size = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())

    assert size > 100 * 2**20
    assert 0.9 * size < taken < ALLOWED * size
