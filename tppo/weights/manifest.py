"""What a transfer of weights brings, and where it may be had: made by the learner alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from tppo.digests import algorithm_of
from tppo.weight_probe import WeightProbe
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
class Delta:
    """What a delta has; its bytes are those of tppo/weights/deltas.py."""

    base_version: int  # of the same incarnation; it is right for this version and every later one
    num_changed: Mapping[str, int]  # of the tensors that have changed, by name


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What tensors of adapters are added to, and by which factor (tppo/models/adapters.py)."""

    body_digest: str
    scaling: float


@dataclass(frozen=True, slots=True)
class WeightPeer:
    """A generator that has the weights; its bytes are checked against the learner's manifest."""

    address: str  # empty: none is free yet
    seconds: float  # that reading may take


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
    delta: Delta | None = None
    deltas_follow: bool = False  # perhaps: whoever keeps these weights may need less for the next
    relayed: bool = False  # whoever gets these weights is to keep them for other generators
    probe: WeightProbe | None = None
    adapter: AdapterFacts | None = None  # None: the tensors are a whole model

    def __post_init__(self) -> None:
        self._require_delta()
        whole = TensorsDigest(algorithm_of(self.digest))
        for one in self.layout.tensors:
            whole.note(one, self.digests[one.name])
        if whole.text() != self.digest:
            raise ValueError(f"the manifest's digest is {self.digest}; expected {whole.text()}, that of its tensors")

    def _require_delta(self) -> None:
        sizes = {one.name: one.num_bytes // one.item_bytes for one in self.layout.tensors}
        for name, num_changed in (self.delta.num_changed if self.delta else {}).items():
            if not 0 < num_changed <= sizes.get(name, 0):
                raise ValueError(
                    f"the delta changes {num_changed} numbers of tensor {name!r}, which has {sizes.get(name)}"
                )

    @property
    def is_kept(self) -> bool:
        """Whether a generator is to keep the bytes once it has loaded them."""
        return self.deltas_follow or self.relayed

    @property
    def algorithm(self) -> str:
        """Of all its digests."""
        return algorithm_of(self.digest)
