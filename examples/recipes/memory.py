"""What the recipes take of their machines: `python -m examples.recipes.memory` prints the tables of README.md.

A model's size is that of its configuration, in `shapes/`; no weights are read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from services.local.hardware.memory import memory_lines
from tppo.config import load
from tppo.config.sections.devices import Gpus

HERE = Path(__file__).parent


class Recipe(NamedTuple):
    """A configuration, the shape of its model, and its machine."""

    name: str
    shape: str
    gpus: str

    @property
    def path(self) -> Path:
        """Of the configuration."""
        return HERE / f"{self.name}.toml"

    @property
    def folder_of_shape(self) -> Path:
        """Holds the model's `config.json`."""
        return HERE / "shapes" / self.shape


RECIPES = (
    Recipe("gsm8k-0.5b-lora", "qwen2.5-0.5b", "1x24"),
    Recipe("gsm8k-0.5b-full", "qwen2.5-0.5b", "1x24"),
    Recipe("math-7b", "qwen2.5-7b", "8x80"),
    Recipe("paper-32b", "qwen2.5-32b", "64x80"),
)


def table(recipe: Recipe) -> Iterator[str]:
    """Lines of Markdown."""
    config = load(recipe.path, [f"model.path={recipe.folder_of_shape}"])
    yield f"`{recipe.name}.toml` with `--gpus {recipe.gpus}`:"
    yield ""
    yield "```"
    yield from memory_lines(config, Gpus.of(recipe.gpus))
    yield "```"
    yield ""


if __name__ == "__main__":
    for one in RECIPES:
        print("\n".join(table(one)))
