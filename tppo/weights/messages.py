"""Manifests and chunks <-> the messages of a transfer.

A chunk's message is written and read here byte by byte, since protobuf would copy each chunk twice at both ends; what
is on the wire is protobuf's own encoding of the message.
"""

import math

from tppo.codec import parsed_message
from tppo.process.event_loop import warn_on_event_loop
from tppo.rollout import logprobs, tokens
from tppo.v1 import generation_pb2 as pb
from tppo.weight_probe import ProbeRow, WeightProbe
from tppo.weights.byte_stream import StreamOffer
from tppo.weights.layout import TensorFacts, TensorLayout
from tppo.weights.manifest import AdapterFacts, Delta, Manifest, SharedMemory, WeightPeer

METHOD = "/tppo.v1.GenerationService/UpdateWeights"
READ_METHOD = "/tppo.v1.GenerationService/ReadWeights"
CHUNK_BYTES = 2 * 1024 * 1024  # gRPC streams fastest with 1-4 MiB a message
CHUNK_TAG = pb.UpdateWeightsRequest.CHUNK_FIELD_NUMBER << 3 | 2  # a field of bytes, whose length follows
MAX_LENGTH_BYTES = 5  # of a number below 2**35


def manifest_message(manifest: Manifest) -> bytes:
    """The first message of a transfer."""
    shared = manifest.shared
    message = pb.WeightManifest(
        policy_version=manifest.policy_version,
        incarnation=manifest.incarnation,
        digest=manifest.digest,
        tensors=[
            pb.TensorSpec(name=one.name, dtype=one.dtype, shape=one.shape, digest=manifest.digests[one.name])
            for one in manifest.layout.tensors
        ],
        run=manifest.run,
        shared=None
        if shared is None
        else pb.SharedWeights(process_id=shared.process_id, descriptor=shared.descriptor, nonce=shared.nonce),
        delta=None
        if manifest.delta is None
        else pb.WeightDelta(base_version=manifest.delta.base_version, num_changed=manifest.delta.num_changed),
        deltas_follow=manifest.deltas_follow,
        relayed=manifest.relayed,
        probe=None if manifest.probe is None else _probe_message(manifest.probe),
        adapter=None
        if manifest.adapter is None
        else pb.WeightAdapter(body_digest=manifest.adapter.body_digest, scaling=manifest.adapter.scaling),
    )
    return pb.UpdateWeightsRequest(manifest=message).SerializeToString()


class Streamed:
    """Says that all bytes come over the connection that the generator has offered."""


STREAMED_MESSAGE = pb.UpdateWeightsRequest(streamed=True).SerializeToString()


def peer_message(peer: WeightPeer) -> bytes:
    """In place of chunks."""
    return pb.UpdateWeightsRequest(peer=pb.WeightPeer(address=peer.address, seconds=peer.seconds)).SerializeToString()


def chunk_message(chunk: memoryview) -> bytes:
    """A copy of the bytes, as a message. Not on an event loop."""
    warn_on_event_loop("copying of weights")
    head, rest = bytearray([CHUNK_TAG]), len(chunk)
    while rest >= 0x80:
        head.append(rest & 0x7F | 0x80)
        rest >>= 7
    head.append(rest)
    return b"".join((head, chunk))


def parsed(message: bytes) -> Manifest | WeightPeer | Streamed | memoryview:
    """The manifest, a view of the message's chunk, or where the chunks come from. ValueError: it is none of them."""
    if is_chunk(message):
        return chunk_in(message)
    read = parsed_message(pb.UpdateWeightsRequest(), message)
    if read.HasField("peer"):
        return WeightPeer(read.peer.address, read.peer.seconds)
    if read.HasField("streamed"):
        return Streamed()
    if not read.HasField("manifest"):
        raise ValueError("a message of the weight transfer holds neither a manifest nor a chunk")
    return _manifest(read.manifest)


def stream_offer(message: pb.ByteStream) -> StreamOffer:
    """From the wire."""
    return StreamOffer(message.port, message.secret)


def stream_message(offer: StreamOffer) -> pb.ByteStream:
    """For the wire."""
    return pb.ByteStream(port=offer.port, secret=offer.secret)


def is_chunk(message: bytes) -> bool:
    """Whether the message is one of a chunk."""
    return message[:1] == bytes([CHUNK_TAG])


def chunk_in(message: bytes) -> memoryview:
    """A view of the chunk. ValueError: the message is not what it says."""
    length = begin = 0
    for place, byte in enumerate(message[1 : 1 + MAX_LENGTH_BYTES]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            begin = place + 2
            break
    if not begin or begin + length != len(message):
        raise ValueError(f"a chunk of the weight transfer says it has {length} bytes; its message has {len(message)}")
    return memoryview(message)[begin:]


def _manifest(message: pb.WeightManifest) -> Manifest:
    shared = message.shared
    return Manifest(
        run=message.run,
        incarnation=message.incarnation,
        policy_version=message.policy_version,
        digest=message.digest,
        layout=TensorLayout(TensorFacts(spec.name, spec.dtype, tuple(spec.shape)) for spec in message.tensors),
        digests={spec.name: spec.digest for spec in message.tensors},
        shared=SharedMemory(shared.process_id, shared.descriptor, shared.nonce) if shared.nonce else None,
        delta=_delta(message.delta) if message.HasField("delta") else None,
        deltas_follow=message.deltas_follow,
        relayed=message.relayed,
        probe=_probe(message.probe) if message.HasField("probe") else None,
        adapter=_adapter(message.adapter) if message.HasField("adapter") else None,
    )


def _adapter(message: pb.WeightAdapter) -> AdapterFacts:
    if not 0 < message.scaling < math.inf:
        raise ValueError(f"the manifest's adapters are multiplied by {message.scaling}; expected a number above 0")
    return AdapterFacts(message.body_digest, message.scaling)


def _delta(message: pb.WeightDelta) -> Delta:
    return Delta(message.base_version, dict(message.num_changed))


def _probe_message(probe: WeightProbe) -> pb.WeightProbe:
    rows = [
        pb.ProbeRow(
            prompt_tokens=tokens(row.prompt_tokens).tobytes(),
            response_tokens=tokens(row.response_tokens).tobytes(),
            logprobs=of_row.tobytes(),
        )
        for row, of_row in zip(probe.rows, probe.logprobs, strict=True)
    ]
    return pb.WeightProbe(rows=rows, temperature=probe.temperature)


def _probe(message: pb.WeightProbe) -> WeightProbe:
    rows = [ProbeRow(_token_ids(row.prompt_tokens), _token_ids(row.response_tokens)) for row in message.rows]
    found = [logprobs() for _ in message.rows]
    for numbers, row in zip(found, message.rows, strict=True):
        numbers.frombytes(row.logprobs)
    return WeightProbe(tuple(rows), tuple(found), message.temperature)


def _token_ids(data: bytes) -> tuple[int, ...]:
    numbers = tokens()
    numbers.frombytes(data)
    return tuple(numbers)
