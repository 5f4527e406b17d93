"""What defines a run: `run.json` of a checkpoint, against which a resume is checked.

* `fixed` keys and the data never change in a run: what was requested under others would not fit what follows.
* `settings` may change at a resume, from one step to the next; `initial` are those of the run's first step.
* All other keys (services, files, trackers) are none of the run's, and taken as they are.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from learner.data.rows import DataRow, rows_in
from tppo.config import Config, ConfigError
from tppo.config.schema import ActorSection, AlgorithmSection, CriticSection
from tppo.run_folder.json_files import read_object

FILE = "run.json"
ADAPTERS = ("lora_rank", "lora_alpha", "target_modules", "exclude_modules")
PLACING = ("compute_dtype", "device", "share_body", "num_processes")
FIXED = (
    "run.seed",
    "run.algorithm",
    "run.mode",
    "run.rollouts_per_step",
    "run.window_length",
    "run.max_prompt_length",
    "run.max_response_length",
    "learner.compute_dtype",
    "learner.compile",
    "critic.compute_dtype",
    "generation.compute_dtype",
    *(f"{section}.{name}" for section in ("actor", "critic") for name in ADAPTERS),
    "data.system_prompt",
    "data.chat_template_kwargs",
    "data.overlong_prompts",
    "data.shuffle",
    "data.samples_per_prompt",
    "evaluation.after_training",
    "evaluation.num_prompts",
    "evaluation.samples_per_prompt",
    "evaluation.solution_key",
    "evaluation.group_key",
    "evaluation.group_bounds",
)
CHANGEABLE = (
    "run.total_training_steps",
    "run.max_policy_lag",
    "run.max_token_lag",
    "generation.temperature",
    "reward.max_attempts",
    "evaluation.test_freq",
    "evaluation.val_before_train",
    "evaluation.temperature",
    *(f"algorithm.{name}" for name in AlgorithmSection.model_fields if name != "recipe"),
    *(f"actor.{name}" for name in ActorSection.model_fields if name not in ADAPTERS),
    *(f"critic.{name}" for name in CriticSection.model_fields if name not in (*ADAPTERS, *PLACING)),
)
RENAMED = {"model.dtype": "learner.compute_dtype"}
"""Keys of checkpoints of earlier releases -> ours."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja")
Values = Mapping[str, Any]
"""By key; as JSON has them."""


@dataclass(frozen=True, slots=True)
class Definition:
    """Of one run, at one of its steps."""

    fixed: Values
    data: Mapping[str, str]  # digests: of the rows of each key that names files, and of the tokenizer
    initial: Values
    settings: Values

    @classmethod
    def of(cls, config: Config, data: Mapping[str, str]) -> Self:
        """Of a run that begins with this configuration."""
        settings = values_of(config, CHANGEABLE)
        return cls(values_of(config, FIXED), data, settings, settings)

    def now(self, config: Config) -> Self:
        """The same run, with the settings that are in force now."""
        return replace(self, settings=values_of(config, CHANGEABLE))

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)

    def require_same(self, other: Self) -> None:
        """Raise `ConfigError` where `other`, which is to continue this run, is another one."""
        for key, value in other.fixed.items():
            if key in self.fixed and value != self.fixed[key]:
                raise ConfigError(
                    f"{key} = {value!r}: the run began with {self.fixed[key]!r}; expected that, or another run.name"
                )
        for key, digest in other.data.items():
            if key in self.data and digest != self.data[key]:
                what = "tokenizer" if key == "model.path" else "rows"
                raise ConfigError(
                    f"{key}: other {what} than those that the run began with; expected the same {what} in the same "
                    "order, or another run.name"
                )


def read(checkpoint: Path) -> Definition | None:
    """Of the run that the checkpoint is of; None where it has none. Raises `DamagedFileError`."""
    fields = read_object(checkpoint / FILE, {"fixed": dict, "data": dict, "initial": dict, "settings": dict})
    if fields is None:
        return None
    fixed = {RENAMED.get(key, key): value for key, value in fields["fixed"].items()}
    return Definition(fixed, fields["data"], fields["initial"], fields["settings"])


def require_resumable(definition: Definition | None, config: Config, *, data: Mapping[str, str], step: int) -> None:
    """Raise `ConfigError` where this configuration cannot continue the run whose checkpoint is of `step`."""
    if definition is not None:
        definition.require_same(Definition.of(config, data))
    if config.run.total_training_steps < step:
        raise ConfigError(
            f"run.total_training_steps = {config.run.total_training_steps}: the newest checkpoint is of step {step}; "
            f"expected {step} or more"
        )


def at_the_beginning(config: Config, checkpoint: Path | None, *, pinned: Collection[str] = ()) -> Config:
    """With the settings of the run's first step, but for `pinned` keys. Raises `ConfigError` for another run."""
    definition = read(checkpoint) if checkpoint is not None else None
    if definition is None:
        return config
    definition.require_same(Definition.of(config, fingerprints(config)))
    return with_values(config, {key: value for key, value in definition.initial.items() if key not in pinned})


def values_of(config: Config, keys: Iterable[str]) -> dict[str, Any]:
    """The values of these keys."""
    table = config.model_dump(mode="json")
    return {key: table[section][name] for key in keys for section, name in [key.split(".")]}


def with_values(config: Config, values: Values) -> Config:
    """The configuration with other values of these keys."""
    table = config.model_dump(mode="json")
    for key, value in values.items():
        section, name = key.split(".")
        table[section][name] = value
    kept = {section: {name: value for name, value in owner.items() if value is not None}
            for section, owner in table.items()}  # fmt: skip
    return Config.model_validate(kept)


def differing(before: Values, after: Values) -> dict[str, Any]:
    """The values of `after` that are others than before; keys that one of them lacks count as the same."""
    return {key: value for key, value in after.items() if key in before and before[key] != value}


def fingerprints(config: Config) -> dict[str, str]:
    """Digests of the data and of the tokenizer."""
    data = config.data
    return {
        "data.train_files": rows_digest(rows_in(data, data.train_files)),
        "data.val_files": rows_digest(rows_in(data, data.val_files) if data.val_files else ()),
        "evaluation.sets": _sets_digest(config),
        "model.path": _tokenizer_digest(config.model.path),
    }


def _sets_digest(config: Config) -> str:
    """Of the names and the rows."""
    digest = hashlib.blake2b(digest_size=16)
    for name, files in config.evaluation.sets.items():
        digest.update(f"{name} {rows_digest(rows_in(config.data, files))}\n".encode())
    return digest.hexdigest()


def rows_digest(rows: Iterable[DataRow]) -> str:
    """Of the rows in their order, wherever their files are."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        columns = [row.prompt, row.data_source, row.ground_truth, row.extra_info]
        digest.update(json.dumps(columns, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _tokenizer_digest(model: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in TOKENIZER_FILES:
        if (path := model / name).is_file():
            digest.update(name.encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()
