"""Digests of weights: one for each tensor, and one over all of them, which names the weights."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from tppo.digests import ALGORITHM, Hasher, named, new_hasher
from tppo.process.event_loop import warn_on_event_loop
from tppo.weights.layout import TensorFacts, byte_parts


class TensorsDigest:
    """The digest of named tensors: over name, dtype, shape and the bytes' digest of each, in sorted order of the names.

    Tensors may come in any order, so that who writes them somewhere hashes them on the way.
    """

    def __init__(self, algorithm: str = ALGORITHM) -> None:
        self.algorithm = algorithm
        self.of_tensors: dict[str, str] = {}  # by name, without the algorithm's
        self._facts: dict[str, TensorFacts] = {}

    def new_hasher(self) -> Hasher:
        """For the bytes of one tensor."""
        return new_hasher(self.algorithm)

    def hash(self, parts: Iterable[memoryview]) -> str:
        """Of the bytes of one tensor."""
        hasher = self.new_hasher()
        for part in parts:
            hasher.update(part)
        return hasher.hexdigest()

    def note(self, facts: TensorFacts, of_bytes: str) -> None:
        """A tensor whose bytes have this digest."""
        self._facts[facts.name], self.of_tensors[facts.name] = facts, of_bytes

    def text(self) -> str:
        """With the algorithm's name before it."""
        hasher = self.new_hasher()
        for name, facts in sorted(self._facts.items()):
            # repr quotes the name, so that no name can be read as another one with its dtype.
            line = f"{name!r} {facts.dtype} {list(facts.shape)} {self.of_tensors[name]}\n"
            hasher.update(line.encode())
        return named(self.algorithm, hasher)


def digests(tensors: Mapping[str, Tensor], algorithm: str = ALGORITHM) -> TensorsDigest:
    """Of tensors that lie in memory."""
    warn_on_event_loop("hashing of weights")
    whole = TensorsDigest(algorithm)
    for name, tensor in tensors.items():
        whole.note(TensorFacts.of(name, tensor), whole.hash(byte_parts(tensor)))
    return whole


def digest(tensors: Mapping[str, Tensor], algorithm: str = ALGORITHM) -> str:
    """The one over all of them."""
    return digests(tensors, algorithm).text()
