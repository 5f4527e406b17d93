"""Weights between processes: their layout in memory and files, their digests, and how they are sent."""

from tppo.weights.layout import DTYPES, HASHED_BYTES, TensorFacts, TensorLayout, byte_parts, dtype_name
from tppo.weights.memory_file import MemoryFile, NotSharedError
from tppo.weights.tensor_digests import TensorsDigest, digest
from tppo.weights.update import WeightUpdate

__all__ = [
    "DTYPES",
    "HASHED_BYTES",
    "MemoryFile",
    "NotSharedError",
    "TensorFacts",
    "TensorLayout",
    "TensorsDigest",
    "WeightUpdate",
    "byte_parts",
    "digest",
    "dtype_name",
]
