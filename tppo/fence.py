"""The former name of `tppo.streams.fence`, until the learner imports that."""

from tppo.streams.fence import Fence, FencedError, Holder, fence_key, is_held

__all__ = ["Fence", "FencedError", "Holder", "fence_key", "is_held"]
