"""Policies whose evaluation is deferred to the end of training: `deferred/step_N.safetensors` in the run's folder."""

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from learner.models.loading.named_tensors import copied
from learner.parallel.tensor_file import write_tensors
from learner.persistence.manifest import DamagedError
from tppo.digests import UnknownAlgorithmError, algorithm_of
from tppo.run_folder.durable import put_in_place
from tppo.weights import digest

DIGEST = "digest"
NAME = re.compile(r"step_([0-9]{1,12})\.safetensors")


class DeferredWeights:
    """Weights by the step that made them; a step that a resumed run takes again replaces its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, step: int, tensors: Mapping[str, Tensor], *, known_digest: str = "") -> None:
        """Write the weights; the file has its name only when it is whole. `known_digest` spares hashing them again."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".step_{step}.writing"
        write_tensors(temporary, tensors, metadata={DIGEST: known_digest or digest(tensors)})
        put_in_place(temporary, self._path(step))

    def steps(self) -> list[int]:
        """The steps whose evaluation is deferred, in order."""
        return sorted(int(match[1]) for path in self._folder.glob("*") if (match := NAME.fullmatch(path.name)))

    def weights(self, step: int) -> dict[str, Tensor]:
        """The weights of that step. Raises `DamagedError` when they are not what was written."""
        path = self._path(step)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = copied({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  it is no mapping
                written = (file.metadata() or {}).get(DIGEST, "")
        except (SafetensorError, OSError) as error:
            raise DamagedError(f"{path}: {error}; expected the weights of step {step}") from None
        if not _has_digest(tensors, written):
            raise DamagedError(f"{path} has other weights than were written; expected those of step {step}")
        return tensors

    def delete(self, step: int) -> None:
        """They have been evaluated, or cannot be."""
        self._path(step).unlink()

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step}.safetensors"


def _has_digest(tensors: Mapping[str, Tensor], written: str) -> bool:
    """By the algorithm that it names."""
    try:
        return digest(tensors, algorithm_of(written)) == written
    except UnknownAlgorithmError:
        return False
