"""What a checkpoint keeps of a trainer: two models, and all else as JSON and named tensors, and back.

{"actor": {"num_updates": 3, "adamw": {"exp_avg": T}}}
<-> {"items": [["actor", {"items": [["num_updates", 3], ["adamw", {"items": [["exp_avg", {"tensor": NAME}]]}]]}]]}
    and a tensor of the name actor.adamw.exp_avg
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from learner.parallel.group import Group
from learner.parallel.shard_files import Stored, WrittenTogether, stored, write_together

Encoded = Any
"""What `json` writes."""


@dataclass(frozen=True, slots=True)
class StateParts:
    """A nested structure in two parts."""

    plain: Encoded
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "StateParts":
        """Of dictionaries, lists and tuples of tensors, numbers and texts; the tensors are not copied."""
        tensors: dict[str, Tensor] = {}
        return cls(_encoded(state, "", tensors), tensors)

    def whole(self) -> dict[str, Any]:
        """The structure again, of the very same types. Raises ValueError, KeyError or TypeError when it is damaged."""
        return dict(_decoded(self.plain, self.tensors))


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model's tensors, and the stem of their files in a checkpoint."""

    stem: str
    tensors: Stored
    is_one_file: bool = False  # however many ranks there are, and however large it is


@dataclass(frozen=True, slots=True)
class TrainerState:
    """Between two steps: copies of what is small, and the very tensors that the next step changes."""

    actor: StoredModel
    critic: StoredModel
    rest: StateParts

    @property
    def num_bytes(self) -> int:
        """Size of its tensors, those of all ranks together."""
        return sum(one.num_bytes for tensors in self._by_stem().values() for one in tensors)

    def write(self, folder: Path, group: Group) -> WrittenTogether:
        """Each rank of the group, of its own state, writes its share."""
        in_one_file = [one.stem for one in (self.actor, self.critic) if one.is_one_file]
        return write_together(folder, self._by_stem(), group, in_one_file=in_one_file)

    def _by_stem(self) -> dict[str, Stored]:
        return {
            self.actor.stem: self.actor.tensors,
            self.critic.stem: self.critic.tensors,
            "trainer": stored(self.rest.tensors),
        }


def _encoded(value: Any, name: str, tensors: dict[str, Tensor]) -> Encoded:
    def of(key: object, item: Any) -> Encoded:
        return _encoded(item, f"{name}.{key}" if name else str(key), tensors)

    match value:
        case Tensor():
            assert name not in tensors, f"two tensors are named {name}"
            tensors[name] = value.detach()
            return {"tensor": name}
        case Mapping():
            return {"items": [[_plain(key), of(key, item)] for key, item in value.items()]}
        case list() | tuple():
            return {type(value).__name__: [of(number, item) for number, item in enumerate(value)]}
        case _:
            return _plain(value)


def _plain(value: Any) -> Encoded:
    """Itself. TypeError: no JSON value would come back as what it was."""
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(f"a checkpoint cannot keep {value!r}; expected tensors, numbers, texts, lists and dictionaries")
    return value


def _decoded(value: Encoded, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return _plain(value)
    ((kind, content),) = value.items()
    makers: Mapping[str, Callable[[], Any]] = {
        "tensor": lambda: tensors[content],
        "items": lambda: {key: _decoded(item, tensors) for key, item in content},
        "list": lambda: [_decoded(item, tensors) for item in content],
        "tuple": lambda: tuple(_decoded(item, tensors) for item in content),
    }
    return makers[kind]()
