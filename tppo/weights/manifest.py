"""What a transfer of weights brings, and where it may be had: made by the learner alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from tppo.digests import algorithm_of
from tppo.weights.layout import TensorLayout
from tppo.weights.tensor_digests import TensorsDigest


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """A memory file of a process, as another process of its machine finds it."""

    process_id: int
    descriptor: int
    nonce: str  # in the file's header

    @property
    def path(self) -> str:
        """For processes of the same user in the same PID namespace."""
        return f"/proc/{self.process_id}/fd/{self.descriptor}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The weights of one version. ValueError: their digest is not that of their tensors, or of an unknown algorithm."""

    run: str
    incarnation: int  # of the learner that made the weights
    policy_version: int
    digest: str
    layout: TensorLayout
    digests: Mapping[str, str]  # of each tensor's bytes, by name, in hexadecimal
    shared: SharedMemory | None = None

    def __post_init__(self) -> None:
        whole = TensorsDigest(algorithm_of(self.digest))
        for one in self.layout.tensors:
            whole.note(one, self.digests[one.name])
        if whole.text() != self.digest:
            raise ValueError(f"the manifest's digest is {self.digest}; expected {whole.text()}, that of its tensors")

    @property
    def algorithm(self) -> str:
        """Of all its digests."""
        return algorithm_of(self.digest)
