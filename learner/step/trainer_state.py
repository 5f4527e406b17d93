"""What a checkpoint keeps of a trainer: two models, and all else as JSON and named tensors, and back.

{"actor": {"num_updates": 3, "adamw": {"exp_avg": T}}}
<-> {"items": [["actor", {"items": [["num_updates", 3], ["adamw", {"items": [["exp_avg", {"tensor": NAME}]]}]]}]]}
    and a tensor of the name actor.adamw.exp_avg
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from learner.models.loading.named_tensors import stored_by_ranks
from learner.models.weights.master_weights import MasterWeights
from learner.parallel.roles import Roles
from learner.parallel.shard_files import Stored, missing_file, stored, write_together
from learner.parallel.tensor_file import WrittenFile

Encoded = Any
"""What `json` writes."""
Describe = Callable[[Path, MasterWeights, Stored], None]
"""Writes what stands beside a model's tensors, in their folder."""


def without_description(_folder: Path, _weights: MasterWeights, _tensors: Stored) -> None:
    """Nothing stands beside them."""


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

    @classmethod
    def of(cls, folder: str, weights: MasterWeights) -> Self:
        """In this folder of the checkpoint."""
        return cls(
            f"{folder}/{weights.stem}",
            stored_by_ranks(weights.network, weights.tensors()),
            is_one_file=weights.adapter is not None,  # peft reads no other
        )


@dataclass(frozen=True, slots=True)
class WrittenState:
    """What all processes have written of a checkpoint."""

    files: Mapping[str, WrittenFile]  # by path in the folder
    digests: Mapping[str, str]  # of both models' tensors, by folder
    plain: Encoded  # of the rest
    error: str = ""  # why not all of it is written; no exception, which would end one rank alone


@dataclass(frozen=True, slots=True)
class TrainerState:
    """Between two steps: copies of what is small, and the very tensors that the next step changes."""

    models: Mapping[str, StoredModel]  # those of this process, by folder
    rest: StateParts
    bytes_elsewhere: int = 0  # of a model that other processes have

    @property
    def num_bytes(self) -> int:
        """Size of its tensors, those of all ranks together."""
        return self.bytes_elsewhere + sum(one.num_bytes for tensors in self._by_stem().values() for one in tensors)

    def write(self, folder: Path, roles: Roles, beside: Callable[[], None]) -> WrittenState:
        """Each process, of its own state, writes its share; `beside`: what the first one of each group writes."""
        by_stem, group = self._by_stem(), roles.own
        in_one_file = [one.stem for one in self.models.values() if one.is_one_file]
        written = write_together(folder, by_stem, group, in_one_file=in_one_file, beside=beside)
        own = {
            "files": {name: asdict(file) for name, file in written.files.items()},
            "digests": {name: written.digests[model.stem] for name, model in self.models.items()},
            "plain": self.rest.plain,
            "error": written.error,
        }
        return _joined(folder, roles.reports(own), first_ranks=(0, roles.first_of_value_model))

    def _by_stem(self) -> dict[str, Stored]:
        """The rest of a value model alone has a stem of its own: the policy's processes do not know how many files
        there are of it.
        """
        stem = "trainer" if "actor" in self.models else "trainer-critic"
        return {model.stem: model.tensors for model in self.models.values()} | {stem: stored(self.rest.tensors)}


def _joined(folder: Path, reports: Sequence[Mapping[str, Any]], *, first_ranks: Sequence[int]) -> WrittenState:
    """`first_ranks`: of the groups that report."""
    errors = [report["error"] for report in reports]
    if len(reports) > 1 and not any(errors):
        errors = [
            missing_file(
                folder,
                {name: facts["num_bytes"] for name, facts in report["files"].items()},
                writer=f"the group of rank {rank}",
            )
            for rank, report in zip(first_ranks, reports, strict=True)
        ]
    return WrittenState(
        {name: WrittenFile(**facts) for report in reports for name, facts in report["files"].items()},
        {name: digest for report in reports for name, digest in report["digests"].items()},
        {"items": [item for report in reports for item in report["plain"]["items"]]},
        "; ".join(filter(None, errors)),
    )


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
