"""What each key allows by itself and two of them together do not: one sentence for each contradiction.

Checked where a user's file and overrides are loaded. A run's own `config.toml`, which holds every key, was checked when
the run began; only there may a warm-up be longer than the run, after a trial that was cut short by an override.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tppo.config import placements
from tppo.config.presets import KEYS_OF_SYSTEMS, SYSTEMS_WITH_A_CAP
from tppo.config.schema import Config

LENGTH_OF_RUN = "run.total_training_steps"


class ChosenKeys(NamedTuple):
    """The keys that the user has written down."""

    in_file: frozenset[str]
    in_overrides: frozenset[str]

    def stand_beside_the_length_of_the_run(self, key: str) -> bool:
        """Whether the key was chosen for this length of the run, which no later override has changed."""
        return key in self.in_overrides or (key in self.in_file and LENGTH_OF_RUN not in self.in_overrides)


def chosen_keys(file: Mapping[str, Any], overriding: Mapping[str, Any]) -> ChosenKeys:
    """Of two tables of tables."""
    return ChosenKeys(frozenset(_keys_in(file)), frozenset(_keys_in(overriding)))


def contradictions(config: Config, chosen: ChosenKeys) -> Iterator[str]:
    """One sentence each."""
    yield from _windows(config)
    yield from _mini_batches(config)
    yield from (text for key, text in config.warm_ups_beyond_the_run if chosen.stand_beside_the_length_of_the_run(key))
    yield from _foreign_keys(config)
    yield from _old_logprobs(config)
    yield from _importance_cap(config)
    yield from _lengths_of_decay(config)
    yield from _turns(config)
    yield from _adapters(config)
    yield from _ranks(config)
    yield from _divisions(config)
    yield from _apart(config)
    yield from placements.contradictions(config)
    yield from _compiled_blocks(config)
    yield from _engine(config)
    yield from _gathering(config)


def _ranks(config: Config) -> Iterator[str]:
    of_policy, of_value_model = config.learner.num_processes, config.critic.num_processes
    counts = {"learner.num_processes": of_policy, "critic.num_processes": of_value_model}
    alone = {"learner.num_processes": 1, "critic.num_processes": 0}
    for key, count in counts.items():
        if count > alone[key] and config.learner.offload_idle_model:
            yield (
                f"learner.offload_idle_model = true with {key} = {count}, whose processes share the memory of two "
                f"models; expected false, or {key} = {alone[key]}"
            )
    for key, device, of_network in (
        ("learner.device", config.learner.device, "learner.num_processes"),
        ("critic.device", config.critic.device, "critic.num_processes" if of_value_model else "learner.num_processes"),
    ):
        if counts[of_network] > 1 and device is not None and ":" in device:
            yield (
                f"{key} = {device!r} with {of_network} = {counts[of_network]}: each process has a device of its own; "
                f"expected {device.partition(':')[0]!r}, 'auto' or 'cpu'"
            )


def _divisions(config: Config) -> Iterator[str]:
    count, learner = config.learner.num_processes, config.learner
    for key, size in (("sequence_parallel_size", learner.sequence_parallel_size), ("fsdp_size", learner.fsdp_size)):
        if size is not None and count % size:
            yield (
                f"learner.{key} = {size} with learner.num_processes = {count}; expected a divisor of that number, or "
                "learner.num_processes = WORLD_SIZE under torchrun"
            )


def _apart(config: Config) -> Iterator[str]:
    count, learner = config.critic.num_processes, config.learner
    for key, size, alone in (
        ("sequence_parallel_size", learner.sequence_parallel_size, 1),
        ("fsdp_size", learner.fsdp_size, None),
    ):
        if count and size != alone:
            yield (
                f"critic.num_processes = {count} with learner.{key} = {size}: the processes of one model divide its "
                f"rows and its weights alone; expected 0, or no such key"
            )


def _windows(config: Config) -> Iterator[str]:
    run, algorithm = config.run, config.algorithm
    num_ignored = algorithm.num_ignored_tail_tokens
    if run.window_length < run.max_response_length and num_ignored >= run.window_length:
        yield (
            f"algorithm.num_ignored_tail_tokens = {num_ignored} with run.window_length = {run.window_length}: no token "
            f"of an unfinished window would train the policy; expected at most {run.window_length - 1}"
        )
    if algorithm.overlong_buffer_length > run.max_response_length:
        yield (
            f"algorithm.overlong_buffer_length = {algorithm.overlong_buffer_length} is longer than "
            f"run.max_response_length = {run.max_response_length}; expected at most that"
        )
    if run.policy_lag_bound > run.max_token_lag:
        yield (
            f"run.max_token_lag = {run.max_token_lag} is below run.max_policy_lag = {run.policy_lag_bound}: the oldest "
            f"windows would be masked out of the policy loss; expected at least {run.policy_lag_bound}"
        )


def _mini_batches(config: Config) -> Iterator[str]:
    num_batches = config.algorithm.num_reused_batches if config.run.algorithm == "geppo" else 1
    num_rows = num_batches * config.run.rollouts_per_step
    for name, section in (("actor", config.actor), ("critic", config.critic)):
        if section.ppo_mini_batches > num_rows:
            yield (
                f"{name}.ppo_mini_batches = {section.ppo_mini_batches}: a training step has {num_rows} windows "
                f"(run.rollouts_per_step = {config.run.rollouts_per_step}); expected at most {num_rows}"
            )


def _foreign_keys(config: Config) -> Iterator[str]:
    """The file of a run has every key, most of them at their defaults, which say nothing."""
    for key, system in KEYS_OF_SYSTEMS.items():
        section, name = key.split(".")
        owner = getattr(config, section)
        value, default = getattr(owner, name), type(owner).model_fields[name].default
        if config.run.algorithm != system and value != default:
            yield (
                f"{key} = {value} is a key of {system}, and run.algorithm = {config.run.algorithm!r}; "
                f"expected no such key, or run.algorithm = {system!r}"
            )


def _lengths_of_decay(config: Config) -> Iterator[str]:
    for name, section in (("actor", config.actor), ("critic", config.critic)):
        steps, warm_up = section.lr_decay_steps, section.lr_warmup_steps
        if steps is not None and section.lr_decay == "constant":
            yield (
                f"{name}.lr_decay_steps = {steps} with {name}.lr_decay = 'constant', which has no decay; "
                "expected one of them"
            )
        elif steps is not None and steps <= warm_up:
            yield (
                f"{name}.lr_decay_steps = {steps} with {name}.lr_warmup_steps = {warm_up}: the decay would end before "
                f"the learning rate has reached its peak; expected more than {warm_up}"
            )


def _old_logprobs(config: Config) -> Iterator[str]:
    if config.algorithm.old_logprobs != "rollout":
        return
    cap = config.algorithm.importance_cap
    if cap not in {None, "none"}:
        yield (
            f"algorithm.importance_cap = {cap!r} with algorithm.old_logprobs = 'rollout', where the ratio is to the "
            "policy that sampled already; expected 'none', or no such key"
        )
    elif config.algorithm.importance_mode == "mask":
        yield (
            "algorithm.importance_mode = 'mask' where there are no importance weights; expected 'truncate', or no such "
            "key with algorithm.old_logprobs = 'rollout'"
        )


def _importance_cap(config: Config) -> Iterator[str]:
    system = config.run.algorithm
    if system in SYSTEMS_WITH_A_CAP and config.importance_cap is None:
        yield (
            f"algorithm.importance_cap = 'none' with run.algorithm = {system!r}, which needs a cap; expected a number, "
            "or no such key"
        )
    mode = config.algorithm.importance_mode
    if mode == "mask" and system in SYSTEMS_WITH_A_CAP:
        yield (
            f"algorithm.importance_mode = 'mask' with run.algorithm = {system!r}, whose formula truncates; expected "
            "'truncate', or no such key"
        )
    elif mode == "mask" and config.importance_cap is None and config.algorithm.old_logprobs == "recomputed":
        yield (
            "algorithm.importance_mode = 'mask' where there are no importance weights; expected a number as "
            "algorithm.importance_cap, above which a weight is masked"
        )


def _turns(config: Config) -> Iterator[str]:
    of_value_model, of_policy = config.value_model_placement, config.policy_placement
    if config.learner.offload_idle_model and of_value_model.device != of_policy.device:
        keys = {"critic.device": of_value_model.device, "learner.device": of_policy.device}
        if config.placement.policy is not None:
            placed = config.placement
            keys = {"placement.value_model": placed.value_model or "", "placement.policy": placed.policy or ""}
        named = " and ".join(f"{key} = {value!r}" for key, value in keys.items())
        yield (
            f"learner.offload_idle_model = true with {named}: each model has its own device; expected the same device, "
            "or false"
        )


def _adapters(config: Config) -> Iterator[str]:
    """Keys of LoRA; of what is at its default nothing was chosen."""
    for name, section in (("actor", config.actor), ("critic", config.critic)):
        for key in ("lora_alpha", "target_modules", "exclude_modules"):
            value = getattr(section, key)
            if not section.lora_rank and value != type(section).model_fields[key].get_default(
                call_default_factory=True
            ):
                yield (
                    f"{name}.{key} = {value!r} with {name}.lora_rank = 0, which trains all weights; expected a rank of "
                    "at least 1, or no such key"
                )
    if config.critic.share_body:
        yield from _shared_body(config)


def _shared_body(config: Config) -> Iterator[str]:
    policy, value_model = config.policy_placement, config.value_model_placement
    for obstacle, is_in_the_way, expected in (
        (f"actor.lora_rank = {config.actor.lora_rank}", not config.actor.lora_rank, "a rank of at least 1"),
        (f"critic.lora_rank = {config.critic.lora_rank}", not config.critic.lora_rank, "a rank of at least 1"),
        ("a model.critic_path", config.model.critic_path is not None, "no such key"),
        (f"critic.device = {value_model.device!r}", value_model.device != policy.device, f"{policy.device!r}"),
        (
            f"critic.compute_dtype = {value_model.compute_dtype!r}",
            value_model.compute_dtype != policy.compute_dtype,
            f"{policy.compute_dtype!r}",
        ),
        (f"critic.num_processes = {config.critic.num_processes}", config.critic.num_processes > 0, "0"),
    ):
        if is_in_the_way:
            yield (
                f"critic.share_body = true with {obstacle}: both models stand on the policy's frozen body; expected "
                f"{expected}, or critic.share_body = false"
            )


def _compiled_blocks(config: Config) -> Iterator[str]:
    if config.learner.compile and config.learner.activation_checkpointing == "selective":
        yield (
            "learner.compile = true with learner.activation_checkpointing = 'selective', which keeps the results of "
            "operations that a compiled block no longer shows; expected 'full' or 'off', or no compilation"
        )
    for section, count in (("learner", config.learner.num_processes), ("critic", config.critic.num_processes)):
        if config.learner.compile and count > 1:
            yield (
                f"learner.compile = true with {section}.num_processes = {count}: compiled blocks have not been tried "
                "with divided weights; expected 1, or no compilation"
            )


def _gathering(config: Config) -> Iterator[str]:
    seconds, run, engine = config.generation.gather_seconds, config.run, config.generation.engine
    if seconds and engine != "transformers":
        yield (
            f"generation.gather_seconds = {seconds:g} with generation.engine = {engine!r}, in which no response stands "
            "still; expected 0"
        )
    if seconds and run.mode != "streaming":
        yield (
            f"generation.gather_seconds = {seconds:g} with run.mode = {run.mode!r}, in which the learner waits for the "
            "slowest response of a step; expected 0, or run.mode = 'streaming'"
        )


def _engine(config: Config) -> Iterator[str]:
    """Keys of vLLM where another engine serves; of what is at its default nothing was chosen."""
    generation = config.generation
    if generation.engine == "vllm":
        return
    for name in generation.vllm:
        yield (
            f"generation.vllm.{name} = {generation.vllm[name]!r} with generation.engine = {generation.engine!r}; "
            "expected no such key, or generation.engine = 'vllm'"
        )
    if not generation.seeds:
        yield (
            f"generation.seeds = false with generation.engine = {generation.engine!r}, which always draws by seed; "
            "expected true, or generation.engine = 'vllm'"
        )


def _keys_in(table: Mapping[str, Any]) -> Iterator[str]:
    for section, owner in table.items():
        if isinstance(owner, Mapping):
            yield from (f"{section}.{name}" for name in owner)
