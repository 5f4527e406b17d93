"""Where the bytes of named tensors lie, one after the other: in a safetensors file, in memory, and on the wire.

The widest types come first and then the names decide, so that each tensor begins at a multiple of its type's size, and
who knows the tensors' names, types and shapes knows where each byte belongs. Bytes are little-endian, as torch keeps
them.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

HASHED_BYTES = 16 * 1024 * 1024  # brought from a device, hashed or written at once
ALIGNMENT = 64  # of the first tensor's begin
MAX_DIMENSIONS = 16
DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
CODES: Mapping[str, str] = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"},
}
"""The names that safetensors has for the dtypes."""
METADATA = "__metadata__"  # the format's own entry


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """What is known of a tensor without its bytes. ValueError: there can be none like it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"tensor {self.name!r} has dtype {self.dtype!r}; expected one of {', '.join(DTYPES)}")
        if any(size < 0 for size in self.shape) or len(self.shape) > MAX_DIMENSIONS:
            raise ValueError(
                f"tensor {self.name!r} has shape {list(self.shape)}; expected no negative size and at most "
                f"{MAX_DIMENSIONS} dimensions"
            )
        if self.name == METADATA:
            raise ValueError(
                f"a tensor is named {METADATA!r}, which safetensors keeps for itself; expected another name"
            )

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Self:
        """Raises ValueError for a dtype that is neither sent nor stored."""
        return cls(name, dtype_name(tensor), tuple(tensor.shape))

    @property
    def item_bytes(self) -> int:
        """Of one number."""
        return DTYPES[self.dtype].itemsize

    @property
    def num_bytes(self) -> int:
        """Of all numbers."""
        return math.prod(self.shape) * self.item_bytes


class TensorLayout:
    """The order of tensors and where each begins. ValueError: two have one name."""

    def __init__(self, tensors: Iterable[TensorFacts], *, is_ordered: bool = False) -> None:
        """`is_ordered`: they stay in this order, in which no type is wider than the one before."""
        self.tensors = tuple(tensors if is_ordered else sorted(tensors, key=lambda one: (-one.item_bytes, one.name)))
        self.begins: dict[str, int] = {}
        self.num_bytes = 0
        for one in self.tensors:
            if one.name in self.begins:
                raise ValueError(f"tensor {one.name!r} is named twice")
            self.begins[one.name] = self.num_bytes
            self.num_bytes += one.num_bytes

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Of tensors that are there."""
        return cls(TensorFacts.of(name, tensor) for name, tensor in tensors.items())

    @cached_property
    def _entries(self) -> dict[str, object]:
        return {
            one.name: {
                "dtype": CODES[one.dtype],
                "shape": list(one.shape),
                "data_offsets": [self.begins[one.name], self.begins[one.name] + one.num_bytes],
            }
            for one in self.tensors
        }

    def header(self, metadata: Mapping[str, str]) -> bytes:
        """The beginning of a safetensors file, before the tensors' bytes."""
        text = json.dumps({METADATA: dict(metadata), **self._entries} if metadata else self._entries).encode()
        text += b" " * (-(8 + len(text)) % ALIGNMENT)
        return len(text).to_bytes(8, "little") + text


def dtype_name(of: Tensor | torch.dtype) -> str:
    """torch's name without the prefix. Raises ValueError for a dtype that is neither sent nor stored."""
    name = str(of.dtype if isinstance(of, Tensor) else of).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"weights of dtype {name} cannot be sent; expected one of {', '.join(DTYPES)}")
    return name


def byte_parts(tensor: Tensor) -> Iterator[memoryview]:
    """The tensor's bytes in order; from another device in parts, so that no copy of it is held here."""
    flat = tensor.detach().contiguous().reshape(-1)
    num_elements = max(1, HASHED_BYTES // flat.element_size())
    for begin in range(0, flat.numel(), num_elements):
        part = flat[begin : begin + num_elements].cpu().contiguous()
        yield part.view(torch.uint8).numpy().data
