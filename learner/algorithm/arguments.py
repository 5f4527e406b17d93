"""What callers can get wrong, refused by name: a shape that would be broadcast, a mask that is no mask."""

from collections.abc import Sequence

import torch
from torch import Tensor


def require_shape(shape: Sequence[int], **tensors: Tensor | None) -> None:
    """Refuse tensors of another shape: [batch, 1] beside [batch] would make [batch, batch] of them, and no error."""
    for name, tensor in tensors.items():
        if tensor is not None and list(tensor.shape) != list(shape):
            raise ValueError(f"{name} has shape {list(tensor.shape)}; expected {list(shape)}")


def require_masks(**masks: Tensor) -> None:
    """Refuse masks of numbers: `~` of an integer 1 is -2, which counts as True."""
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise ValueError(f"{name} is {mask.dtype}; expected torch.bool, a boolean mask where True counts")
