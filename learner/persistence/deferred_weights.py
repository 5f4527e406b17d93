"""Policies whose evaluation is deferred to the end of training: `deferred/step_N.safetensors` in the run's folder."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

PREFIX = "step_"


class DeferredWeights:
    """Weights by the step that made them; a step that a resumed run takes again replaces its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the weights; the file has its name only when it is whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{PREFIX}{step}.writing"
        save_file(dict(tensors), temporary)
        temporary.replace(self._path(step))

    def steps(self) -> list[int]:
        """The steps whose evaluation is deferred, in order."""
        names = (path.stem.removeprefix(PREFIX) for path in self._folder.glob(f"{PREFIX}*.safetensors"))
        return sorted(int(name) for name in names)

    def weights(self, step: int) -> dict[str, Tensor]:
        """The weights of that step."""
        return load_file(self._path(step))

    def delete(self, step: int) -> None:
        """They have been evaluated."""
        self._path(step).unlink()

    def _path(self, step: int) -> Path:
        return self._folder / f"{PREFIX}{step}.safetensors"
