"""Named tensors <-> the messages of a weight transfer, and the digest that both ends compare.

The bytes of all tensors, laid end to end in the order of the manifest, are cut into chunks without regard to where a
tensor ends; so no message is larger than a chunk and none is tiny. Tensors are little-endian, as torch keeps them.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from tppo.digests import ALGORITHM, Hasher, algorithm_of, named, new_hasher
from tppo.process.event_loop import free_in_thread, warn_on_event_loop
from tppo.v1 import generation_pb2 as pb

CHUNK_BYTES = 2 * 1024 * 1024  # gRPC streams fastest with 1-4 MiB a message
HASHED_BYTES = 16 * 1024 * 1024  # brought from a device, hashed or written at once
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


@dataclass(frozen=True)
class WeightUpdate:
    """A complete transfer whose digest was found right."""

    policy_version: int
    incarnation: int  # of the learner that made the weights
    digest: str
    tensors: dict[str, torch.Tensor]

    def __post_init__(self) -> None:
        free_in_thread(self, self.tensors)


class TensorsDigest:
    """The digest of named tensors: over name, dtype, shape and the bytes' digest of each, in sorted order of the names.

    Tensors may come in any order, so that who writes them somewhere hashes them on the way.
    """

    def __init__(self, algorithm: str = ALGORITHM) -> None:
        self._algorithm = algorithm
        self._lines: dict[str, str] = {}

    def new_hasher(self) -> Hasher:
        """For the bytes of one tensor."""
        return new_hasher(self._algorithm)

    def add(self, name: str, tensor: torch.Tensor, of_bytes: Hasher) -> None:
        """A tensor whose bytes were all given to the hasher."""
        # repr quotes the name, so that no name can be read as another one with its dtype.
        facts = f"{name!r} {dtype_name(tensor)} {list(tensor.shape)}"
        self._lines[name] = f"{facts} {of_bytes.hexdigest()}\n"

    def text(self) -> str:
        """With the algorithm's name before it."""
        hasher = self.new_hasher()
        for name in sorted(self._lines):
            hasher.update(self._lines[name].encode())
        return named(self._algorithm, hasher)


def digest(tensors: Mapping[str, torch.Tensor], algorithm: str = ALGORITHM) -> str:
    """The digest of tensors that lie in memory."""
    warn_on_event_loop("hashing of weights")
    whole = TensorsDigest(algorithm)
    for name, tensor in tensors.items():
        hasher = whole.new_hasher()
        for part in byte_parts(tensor):
            hasher.update(part)
        whole.add(name, tensor, hasher)
    return whole.text()


def byte_parts(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The tensor's bytes in order; from another device in parts, so that no copy of it is held here."""
    flat = tensor.detach().contiguous().reshape(-1)
    num_elements = max(1, HASHED_BYTES // flat.element_size())
    for begin in range(0, flat.numel(), num_elements):
        yield _bytes_of(flat[begin : begin + num_elements])


def to_messages(
    tensors: Mapping[str, torch.Tensor],
    *,
    run: str,
    policy_version: int,
    incarnation: int,
    chunk_bytes: int = CHUNK_BYTES,
    known_digest: str = "",
) -> Iterator[pb.UpdateWeightsRequest]:
    """The manifest, then the chunks; `known_digest` spares hashing when the same weights go to several generators."""
    names = sorted(tensors)
    manifest = pb.WeightManifest(
        policy_version=policy_version,
        incarnation=incarnation,
        digest=known_digest or digest(tensors),
        tensors=[
            pb.TensorSpec(name=name, dtype=dtype_name(tensors[name]), shape=tensors[name].shape) for name in names
        ],
        run=run,
    )
    yield pb.UpdateWeightsRequest(manifest=manifest)
    for chunk in _chunks((part for name in names for part in byte_parts(tensors[name])), chunk_bytes):
        yield pb.UpdateWeightsRequest(chunk=chunk)


class WeightAssembler:
    """Puts one transfer together: `feed` each message, then `finish`. Raises ValueError when they do not fit."""

    def __init__(self) -> None:
        self._manifest: pb.WeightManifest | None = None
        self._tensors: dict[str, torch.Tensor] = {}
        self._unfilled: list[memoryview] = []  # what is yet to be written, last tensor first
        self._num_missing = 0

    def feed(self, message: pb.UpdateWeightsRequest) -> None:
        """Take the next message of the stream, whose bytes are copied."""
        warn_on_event_loop("copying of received weights")
        part = message.WhichOneof("part")
        if part == "manifest":
            self._begin(message.manifest)
        elif part == "chunk":
            self._write(memoryview(message.chunk))
        else:
            raise ValueError("a message of the weight transfer holds neither a manifest nor a chunk")

    def finish(self) -> WeightUpdate:
        """What was sent, once every byte is there and the digest agrees."""
        if self._manifest is None:
            raise ValueError("the weight transfer ended before its manifest")
        if self._num_missing:
            raise ValueError(f"the weight transfer ended {self._num_missing} bytes short of its manifest")
        received = digest(self._tensors, algorithm_of(self._manifest.digest))
        if received != self._manifest.digest:
            raise ValueError(f"the received weights have digest {received}; the manifest says {self._manifest.digest}")
        return WeightUpdate(self._manifest.policy_version, self._manifest.incarnation, received, self._tensors)

    def _begin(self, manifest: pb.WeightManifest) -> None:
        if self._manifest is not None:
            raise ValueError("the weight transfer brought a second manifest")
        for spec in manifest.tensors:
            if spec.name in self._tensors:
                raise ValueError(f"the manifest names tensor {spec.name!r} twice")
            self._tensors[spec.name] = _empty(spec)
        algorithm_of(manifest.digest)  # refused before anything is sent
        free_in_thread(self, self._tensors)
        self._unfilled = [_bytes_of(tensor) for tensor in reversed(self._tensors.values())]
        self._num_missing = sum(len(part) for part in self._unfilled)
        self._manifest = manifest

    def _write(self, chunk: memoryview) -> None:
        if self._manifest is None:
            raise ValueError("the weight transfer brought a chunk before its manifest")
        if len(chunk) > self._num_missing:
            raise ValueError(f"the weight transfer brought {len(chunk) - self._num_missing} bytes too many")
        self._num_missing -= len(chunk)
        while chunk:
            target = self._unfilled.pop()
            num_bytes = min(len(target), len(chunk))
            target[:num_bytes] = chunk[:num_bytes]
            chunk = chunk[num_bytes:]
            if num_bytes < len(target):
                self._unfilled.append(target[num_bytes:])


def _empty(spec: pb.TensorSpec) -> torch.Tensor:
    """Memory for a tensor of the manifest, on the CPU."""
    if spec.dtype not in DTYPES:
        raise ValueError(f"tensor {spec.name!r} has dtype {spec.dtype!r}; expected one of {', '.join(DTYPES)}")
    if any(size < 0 for size in spec.shape):
        raise ValueError(f"tensor {spec.name!r} has shape {list(spec.shape)}; expected no negative size")
    return torch.empty(math.prod(spec.shape), dtype=DTYPES[spec.dtype]).reshape(list(spec.shape))


def dtype_name(tensor: torch.Tensor) -> str:
    """torch's name without the prefix. Raises ValueError for a dtype that is neither sent nor stored."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"weights of dtype {name} cannot be sent; expected one of {', '.join(DTYPES)}")
    return name


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The tensor's own memory as bytes, copied only from another device or when it is not contiguous."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _chunks(buffers: Iterable[memoryview], chunk_bytes: int) -> Iterator[bytes]:
    """All bytes in order, in pieces of `chunk_bytes`; the last may be shorter."""
    pending = bytearray()
    for buffer in buffers:
        while buffer:
            room = chunk_bytes - len(pending)
            if not pending and len(buffer) >= room:
                yield bytes(buffer[:room])
            else:
                pending += buffer[:room]
            buffer = buffer[room:]
            if len(pending) == chunk_bytes:
                yield bytes(pending)
                pending.clear()
    if pending:
        yield bytes(pending)
