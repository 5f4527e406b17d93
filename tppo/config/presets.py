"""`run.algorithm`: what each of the compared systems fixes in the configuration. docs/comparison.md gives the reasons.

The word brings its settings along to where it stands. In the file they fill in what the file leaves out; on the command
line they also take the place of the file's own keys, which were chosen for another system. A key that stands beside the
word, or is given later, and contradicts what defines the system is refused.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Algorithm = Literal["tppo", "ppo", "vapo", "ppo-ewma", "geppo"]
Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SameAs:
    """The value of another key."""

    key: str


@dataclass(frozen=True, slots=True)
class Fixed:
    """Defines the system: another value is refused."""

    value: Any

    def accepts(self, given: Any, expected: Any) -> bool:
        """Whether an explicit value may stand."""
        return bool(given == expected)

    def keeps(self, _given: Any) -> bool:
        """Whether a value chosen for another system stays."""
        return False


@dataclass(frozen=True, slots=True)
class Usual:
    """Comes with the system, and may be chosen otherwise."""

    value: Any

    def accepts(self, _given: Any, _expected: Any) -> bool:
        """Any."""
        return True

    def keeps(self, _given: Any) -> bool:
        """No: it was chosen for another system."""
        return False


@dataclass(frozen=True, slots=True)
class Number:
    """Any number, whoever chose it; this one where there is none."""

    value: float

    def accepts(self, given: Any, _expected: Any) -> bool:
        """Numbers only."""
        return isinstance(given, int | float)

    def keeps(self, given: Any) -> bool:
        """A number stays."""
        return isinstance(given, int | float)


Setting = Fixed | Usual | Number
NOTES = {Fixed: "", Usual: ", unless chosen otherwise", Number: ", unless another number is chosen"}

WHOLE_RESPONSES: dict[str, Setting] = {"run.window_length": Fixed(SameAs("run.max_response_length"))}
SYNCHRONOUS: dict[str, Setting] = {"run.mode": Usual("lockstep"), "run.max_policy_lag": Usual(None)}
PPO: dict[str, Setting] = {
    **WHOLE_RESPONSES,
    **SYNCHRONOUS,
    "algorithm.lam": Number(0.95),  # one lambda, for the advantages and for the value model's targets
    "algorithm.clip_ratio_high": Fixed(SameAs("algorithm.clip_ratio_low")),
    "algorithm.lm_loss_weight": Fixed(0.0),
}
PRESETS: dict[Algorithm, dict[str, Setting]] = {
    "tppo": {},
    "ppo": PPO,
    "vapo": {
        **WHOLE_RESPONSES,
        **SYNCHRONOUS,
        "algorithm.lam": Fixed("length_adaptive"),
        "algorithm.lam_floor": Usual(0.0),
        "algorithm.clip_ratio_low": Fixed(0.2),
        "algorithm.clip_ratio_high": Fixed(0.28),
        "algorithm.lm_loss_weight": Fixed(0.1),
    },
    "ppo-ewma": {**PPO, "algorithm.importance_cap": Usual(100.0)},
    "geppo": {**PPO, "algorithm.importance_cap": Usual(1.0)},
}


def settings_of(table: Mapping[str, Any]) -> dict[str, Setting]:
    """What the table's word brings along; nothing for a word that is none, which validation refuses."""
    settings: dict[str, Setting] = PRESETS.get(_get(table, "run.algorithm", "tppo"), {})
    return settings


def make_way(table: Table, overrides: Mapping[str, Any]) -> None:
    """Where the overrides choose another system, drop the file's keys that it does not keep."""
    word = _get(overrides, "run.algorithm", None)
    if word is None or word == _get(table, "run.algorithm", "tppo"):
        return
    for key, setting in settings_of(overrides).items():
        section, name = key.split(".")
        owner = table.get(section)
        if isinstance(owner, dict) and name in owner and not setting.keeps(owner[name]):
            del owner[name]


def completed(table: Mapping[str, Any], default_of: Callable[[str], Any]) -> Table:
    """The table with what its word brings along. Raises ValueError where an explicit key contradicts it."""
    result: Table = {name: dict(owner) if isinstance(owner, dict) else owner for name, owner in table.items()}
    for key, setting in settings_of(table).items():
        section, name = key.split(".")
        owner = result.setdefault(section, {})
        expected = _expected(setting, table, default_of)
        if isinstance(owner, dict) and not setting.accepts(owner.setdefault(name, expected), expected):
            word = _get(table, "run.algorithm", "tppo")
            raise ValueError(
                f"{key} = {owner[name]!r} contradicts run.algorithm = {word!r}; "
                f"expected {_expectation(setting, expected)}, or no such key"
            )
    return result


def description(algorithm: Algorithm) -> Iterator[str]:
    """One line per setting, for a person."""
    for key, setting in PRESETS[algorithm].items():
        value = setting.value.key if isinstance(setting.value, SameAs) else setting.value
        yield f"{key} = {'unset' if value is None else value}{NOTES[type(setting)]}"


def _expected(setting: Setting, table: Mapping[str, Any], default_of: Callable[[str], Any]) -> Any:
    value = setting.value
    return _get(table, value.key, default_of(value.key)) if isinstance(value, SameAs) else value


def _expectation(setting: Setting, expected: Any) -> str:
    if isinstance(setting.value, SameAs):
        return f"{setting.value.key} = {expected!r}"
    return f"a number such as {expected}" if isinstance(setting, Number) else f"{expected!r}"


def _get(table: Mapping[str, Any], key: str, default: Any) -> Any:
    section, name = key.split(".")
    owner = table.get(section)
    return owner.get(name, default) if isinstance(owner, Mapping) else default
