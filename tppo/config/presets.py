"""`run.algorithm`: what each of the compared systems sets in the configuration. docs/comparison.md gives the reasons.

In the file, `run.algorithm` fills in what the file leaves out. On the command line it also replaces the file's own
keys, which were chosen for another system. A key that is given beside it, or later, and contradicts what defines the
system is refused.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

Algorithm = Literal["tppo", "ppo", "vapo", "ppo-ewma", "geppo"]
Rule = Literal["fixed", "usual", "number"]
Table = dict[str, Any]


class SameAs(str):
    """The value of another key, as `section.key`."""

    __slots__ = ()


class Setting(NamedTuple):
    """One row of a preset. What a rule allows: `_may_stand` and `_survives`."""

    key: str
    value: Any
    rule: Rule


# fixed: defines the system, another value is refused. usual: a default that the user may change.
# number: any number that the user gives, and the value where none is given.
_WHOLE_RESPONSES = Setting("run.window_length", SameAs("run.max_response_length"), "fixed")
_SYNCHRONOUS = (Setting("run.mode", "lockstep", "usual"), Setting("run.max_policy_lag", None, "usual"))
_PPO = (
    _WHOLE_RESPONSES,
    *_SYNCHRONOUS,
    Setting("algorithm.lam", 0.95, "number"),  # one lambda, for the advantages and for the value model's targets
    Setting("algorithm.clip_ratio_high", SameAs("algorithm.clip_ratio_low"), "fixed"),
    Setting("algorithm.lm_loss_weight", 0.0, "fixed"),
)
_BOTH_LOGPROBS = Setting("algorithm.old_logprobs", "recomputed", "fixed")  # the formula has the generator's beside them
PRESETS: dict[Algorithm, tuple[Setting, ...]] = {
    "tppo": (),
    "ppo": _PPO,
    "vapo": (
        _WHOLE_RESPONSES,
        *_SYNCHRONOUS,
        Setting("algorithm.lam", "length_adaptive", "fixed"),
        Setting("algorithm.lam_floor", 0.95, "usual"),  # the formula alone gives a response of 20 tokens a lambda of 0
        Setting("algorithm.clip_ratio_low", 0.2, "fixed"),
        Setting("algorithm.clip_ratio_high", 0.28, "fixed"),
        Setting("algorithm.lm_loss_weight", 0.1, "fixed"),
    ),
    "ppo-ewma": (*_PPO, _BOTH_LOGPROBS, Setting("algorithm.importance_cap", 100.0, "usual")),
    "geppo": (*_PPO, _BOTH_LOGPROBS, Setting("algorithm.importance_cap", 1.0, "usual")),
}
KEYS_OF_SYSTEMS: dict[str, Algorithm] = {
    "algorithm.ewma_center_of_mass": "ppo-ewma",
    "algorithm.num_reused_batches": "geppo",
    "algorithm.lr_adaptation_factor": "geppo",
}
"""Keys that mean nothing to the other systems."""
SYSTEMS_WITH_A_CAP = tuple(
    name for name, settings in PRESETS.items() if any(one.key == "algorithm.importance_cap" for one in settings)
)
"""Systems whose formulas have importance weights, whatever the mode."""
NOTES: dict[Rule, str] = {
    "fixed": "",
    "usual": ", unless chosen otherwise",
    "number": ", unless another number is chosen",
}


def drop_replaced_keys(table: Table, overrides: Mapping[str, Any]) -> None:
    """Where the overrides choose another system, drop the file's keys that were chosen for the file's system."""
    chosen = _get(overrides, "run.algorithm", None)
    if chosen is None or chosen == _system_of(table):
        return
    foreign = ((key, "fixed") for key, system in KEYS_OF_SYSTEMS.items() if system != chosen)
    for key, rule in (*((key, rule) for key, _, rule in _settings_of(overrides)), *foreign):
        section, name = key.split(".")
        owner = table.get(section)
        if isinstance(owner, dict) and name in owner and not _survives(rule, owner[name]):
            del owner[name]


def completed(table: Mapping[str, Any], default_of: Callable[[str], Any]) -> Table:
    """The table with the settings of its system. Raises ValueError where an explicit key contradicts one."""
    result: Table = {name: dict(owner) if isinstance(owner, dict) else owner for name, owner in table.items()}
    for setting in _settings_of(table):
        section, name = setting.key.split(".")
        owner = result.setdefault(section, {})
        expected = _expected(setting, table, default_of)
        if isinstance(owner, dict) and not _may_stand(setting.rule, owner.setdefault(name, expected), expected):
            raise ValueError(
                f"{setting.key} = {owner[name]!r} contradicts run.algorithm = {_system_of(table)!r}; "
                f"expected {_expectation(setting, expected)}, or no such key"
            )
    return result


def description(algorithm: Algorithm) -> Iterator[str]:
    """One line per setting, for `--dry-run`."""
    for key, value, rule in PRESETS[algorithm]:
        yield f"{key} = {'unset' if value is None else value}{NOTES[rule]}"


def _may_stand(rule: Rule, given: Any, expected: Any) -> bool:
    """Whether an explicit value agrees with the system."""
    return rule == "usual" or (given == expected if rule == "fixed" else _is_number(given))


def _survives(rule: str, given: Any) -> bool:
    """Whether the file's value stays when the command line chooses another system."""
    return rule == "number" and _is_number(given)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _system_of(table: Mapping[str, Any]) -> Any:
    return _get(table, "run.algorithm", "tppo")


def _settings_of(table: Mapping[str, Any]) -> tuple[Setting, ...]:
    """None for an unknown system, which validation refuses."""
    return next((settings for name, settings in PRESETS.items() if name == _system_of(table)), ())


def _expected(setting: Setting, table: Mapping[str, Any], default_of: Callable[[str], Any]) -> Any:
    value = setting.value
    return _get(table, value, default_of(value)) if isinstance(value, SameAs) else value


def _expectation(setting: Setting, expected: Any) -> str:
    if isinstance(setting.value, SameAs):
        return f"{setting.value} = {expected!r}"
    return f"a number such as {expected}" if setting.rule == "number" else f"{expected!r}"


def _get(table: Mapping[str, Any], key: str, default: Any) -> Any:
    section, name = key.split(".")
    owner = table.get(section)
    return owner.get(name, default) if isinstance(owner, Mapping) else default
