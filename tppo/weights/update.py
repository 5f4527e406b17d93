"""The weights that an engine is to load."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from tppo.process.event_loop import free_in_thread, warn_on_event_loop
from tppo.weights.manifest import AdapterFacts
from tppo.weights.memory_file import MemoryFile


@dataclass(frozen=True)
class WeightUpdate:
    """A complete transfer whose digests were found right.

    `tensors` are views of memory that may be the learner's own: an engine reads them, converts or copies what it needs
    otherwise, and writes to none. The memory is freed when neither the update nor a tensor of it is referred to; nobody
    unlinks anything. A process that the engine has started maps the same memory through `shared_path`, and may keep its
    mapping for as long as it wants. What an engine has copied it may `free` at once.
    """

    policy_version: int
    incarnation: int  # of the learner that made the weights
    digest: str
    tensors: Mapping[str, Tensor]
    file: MemoryFile | None = field(default=None, repr=False)
    adapter: AdapterFacts | None = None  # None: the tensors are a whole model

    def __post_init__(self) -> None:
        free_in_thread(self, self.tensors)

    @classmethod
    def of_file(
        cls,
        policy_version: int,
        incarnation: int,
        digest: str,
        file: MemoryFile,
        *,
        adapter: AdapterFacts | None = None,
    ) -> "WeightUpdate":
        """With the tensors of the file."""
        return cls(policy_version, incarnation, digest, file.tensors(), file, adapter)

    def free(self, names: Collection[str]) -> None:
        """Give the memory of these tensors back, where nobody but the engine was to read them; it has copied them."""
        if self.file is not None:
            self.file.free(names)

    def shared_path(self) -> str:
        """A safetensors file with the tensors that other processes of this user can open while the update is there.

        It is an entry of /proc, so they need this process' PID namespace; what they have opened or mapped stays theirs
        afterwards. Tensors that lie elsewhere are copied into such memory by the first call. Empty where the system has
        none. Not on an event loop.
        """
        if self.file is None:
            warn_on_event_loop("copying of weights")
            object.__setattr__(self, "file", MemoryFile.holding(self.tensors))
        assert self.file is not None
        return self.file.path
