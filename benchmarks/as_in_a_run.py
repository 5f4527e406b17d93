"""A benchmark's process computes as the processes of a run do."""

import torch

from tppo.models.denormals import flush_denormals


def compute_as_in_a_run(*, num_threads: int = 1) -> None:
    """From now on; to be called by the main thread before there are others."""
    torch.set_num_threads(num_threads)
    flush_denormals()
