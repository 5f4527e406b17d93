"""Denormals, numbers below 1.2e-38 in float32, count as zero (docs/decisions/0047-denormals-count-as-zero.md).

Attention that is sure of itself has such probabilities by the thousand, and some processors compute with them a
hundred times slower than with others.
"""

import torch


def flush_denormals() -> None:
    """From now on, in this thread and those that it starts: called by the main thread before there are others."""
    torch.set_flush_denormal(True)


def are_flushed() -> bool:
    """Whether they are in this thread: not on a processor that cannot."""
    return float(torch.tensor(1e-30) * 1e-10) == 0.0
