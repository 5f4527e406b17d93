"""Numbers too small to be normal count as zero in whatever computes for a run."""

import subprocess
import sys
import threading

import torch

from tppo.models.denormals import are_flushed, flush_denormals

GENERATOR = """
import threading
from services.generation.__main__ import _import_engine
from tests.learner.builders import a_config
from tppo.models.denormals import are_flushed

assert not are_flushed()
_import_engine(a_config())
found = []
thread = threading.Thread(target=lambda: found.append(are_flushed()))
thread.start()
thread.join()
print(found)
"""


def test_a_thread_that_starts_later_and_a_backward_pass_flush_them() -> None:
    flush_denormals()
    found = []
    thread = threading.Thread(target=lambda: found.append(are_flushed()))
    thread.start()
    thread.join()
    assert found == [True]
    weight = torch.tensor(1.0, requires_grad=True)
    (weight * 1e-10).backward(torch.tensor(1e-30))  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert float(weight.grad) == 0.0


def test_a_generator_flushes_them_before_it_has_threads() -> None:
    found = subprocess.run([sys.executable, "-c", GENERATOR], capture_output=True, text=True, check=True)
    assert found.stdout == "[True]\n"
