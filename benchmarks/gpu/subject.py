"""What is checked: a Qwen2 of random weights with its value model, their optimizers, and rows to train on.

Everything is built by hand, since the configuration needs a library that a borrowed machine may not have.
"""

import copy
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from learner.algorithm.losses import PolicyLoss
from learner.models.loading.loading import policy_from_network, value_model_from_network
from learner.models.loading.value_network import skeleton
from learner.models.passes.outputs import Policy, ValueModel
from learner.models.weights.master_weights import MasterWeights
from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Rollout
from learner.step.estimation.estimates import PolicyMask, estimate
from learner.step.estimation.estimators import Estimators
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.measurements.metrics import Metrics
from learner.step.system import PolicyTokens, Predictions
from learner.step.updates import policy_update
from learner.step.updates.loss_normalizer import LossNormalizer
from learner.step.updates.optimization import Optimization, Update
from learner.step.updates.value_update import ValueUpdate
from learner.systems.clipped import ClippedSystem

SEED = 5
SPREAD = 1.0  # of a projection's outputs
OPTIMIZER: Mapping[str, Any] = {
    "lr": 1e-4,
    "lr_warmup_steps": 0,
    "lr_decay": "constant",
    "lr_decay_steps": None,
    "min_lr_ratio": 0.05,
    "betas": (0.9, 0.95),
    "weight_decay": 0.0,
    "grad_clip": 1.0,
    "ppo_epochs": 1,
    "ppo_mini_batches": 1,
}
ACTOR: Mapping[str, Any] = {**OPTIMIZER, "max_kl": None}
CRITIC: Mapping[str, Any] = {
    **OPTIMIZER,
    "cliprange_value_low": 0.5,
    "cliprange_value_high": 0.6,
    "loss_aggregation": "row_mean",
}
ALGORITHM: Mapping[str, Any] = {
    "gamma": 1.0,
    "lam": "length_adaptive",
    "lam_alpha": 0.05,
    "lam_floor": 0.95,
    "boundary": "hold",
    "num_ignored_tail_tokens": 8,
    "advantage_whitening": "scale_only",
    "loss_normalizer": "tokens",
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.28,
    "clip_ratio_c": 10.0,
    "old_logprobs": "recomputed",
    "importance_cap": 2.0,
    "importance_mode": "truncate",
    "lm_loss_weight": 0.0,
    "lm_score_threshold": 0.5,
    "lm_tokens": "all_windows",
}
"""Keys of the configuration that the updates read; the values are its defaults but for the learning rate's."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a model and of what it is trained on."""

    hidden: int
    intermediate: int
    blocks: int
    heads: int
    vocabulary: int
    num_rows: int
    row_length: int
    max_tokens: int  # of a micro-batch

    def config(self) -> Any:
        """Of transformers; embedding and head are tied, as in Qwen2-0.5B."""
        make: Any = Qwen2Config
        return make(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            classifier_dropout=0.0,
            # Attention that prefers some tokens to others, and logits with a spread, as a trained model has.
            initializer_range=SPREAD * self.hidden**-0.5,
            num_labels=1,
        )


@dataclass(frozen=True, slots=True)
class Networks:
    """Float32 weights from which learners are made."""

    policy: Any
    value_model: Any

    @classmethod
    def random(cls, sizes: Sizes, device: str) -> "Networks":
        """The same for the same seed, sizes and kind of device."""
        config = sizes.config()
        value_network: Any = skeleton(config).value_network_class()
        torch.manual_seed(SEED)
        with torch.device(device):
            return cls(Qwen2ForCausalLM(config), value_network(copy.deepcopy(config)))

    def copied(self, device: str) -> "Networks":
        """The same weights there."""
        return Networks(*(copy.deepcopy(one).to(device) for one in (self.policy, self.value_model)))


class RecordingOptimization(Optimization):
    """Keeps the gradients of its last update on the host, as they were before clipping, where it is wanted."""

    def __init__(self, weights: MasterWeights, section: Any, *, records: bool) -> None:
        super().__init__(weights.parameters(), section, num_steps=1, after_update=weights.cast)
        self._masters, self._records = weights.masters, records
        self.gradients: dict[str, Tensor] = {}

    def update(self) -> Update:
        """As always."""
        if self._records:
            self.gradients = {
                name: master.grad.to("cpu", copy=True)
                for name, master in self._masters.items()
                if master.grad is not None
            }
        return super().update()


@dataclass(frozen=True)
class RecordingSystem(ClippedSystem):
    """T-PPO, with the losses of its micro-batches."""

    losses: list[float] = field(default_factory=list)

    def policy_loss(self, tokens: PolicyTokens) -> PolicyLoss:
        """As always."""
        found = super().policy_loss(tokens)
        self.losses.append(float(found.loss.detach()))
        return found


class Learner:
    """Two models on a device, and a training step's updates of each."""

    def __init__(self, networks: Networks, sizes: Sizes, dtype: torch.dtype, *, records: bool = False) -> None:
        self.sizes = sizes
        self.policy: Policy = policy_from_network(networks.policy, compute_dtype=dtype)
        self.value_model: ValueModel = value_model_from_network(networks.value_model, compute_dtype=dtype)
        self._actor_keys = _keys(ACTOR, max_tokens_per_microbatch=sizes.max_tokens)
        self._critic_keys = _keys(CRITIC, max_tokens_per_microbatch=sizes.max_tokens)
        self._algorithm = _keys(ALGORITHM)
        self.system = RecordingSystem(Estimators(self._algorithm, sizes.row_length))
        self.actor = RecordingOptimization(self.policy.weights, self._actor_keys, records=records)
        self.critic = RecordingOptimization(self.value_model.weights, self._critic_keys, records=records)

    def update_value_model(self, sampled: Sampled, estimates: Estimates) -> Metrics:
        """One pass over the finished rows, one update."""
        update = ValueUpdate(self.value_model, self.critic, sampled, self._critic_keys, seed="0")
        return update.train(estimates, self.system, None)

    def update_policy(self, sampled: Sampled, estimates: Estimates) -> Metrics:
        """One pass over the rows, one update."""
        normalizer = LossNormalizer(self._algorithm.loss_normalizer, self.sizes.row_length)
        result = policy_update.train(
            self.policy,
            self.actor,
            sampled,
            estimates,
            system=self.system,
            normalizer=normalizer,
            actor=self._actor_keys,
            algorithm=self._algorithm,
            seed="0",
        )
        return result.metrics

    def estimates(self, sampled: Sampled) -> Estimates:
        """As a training step makes them."""
        predicted = ValueUpdate(self.value_model, self.critic, sampled, self._critic_keys, seed="0").predicted()
        mask = PolicyMask.of(sampled, algorithm=self._algorithm, policy_version=0, max_token_lag=0)
        predictions = Predictions(predicted.values, predicted.boundary_values)
        return estimate(sampled, predictions, mask, system=self.system, algorithm=self._algorithm)


def random_rows(sizes: Sizes) -> list[Rollout]:
    """An eighth of each is its prompt; every second one is finished, right and wrong in turns."""
    generator = torch.Generator().manual_seed(SEED)
    rows = []
    for index in range(sizes.num_rows):
        length = sizes.row_length - index % 4 * (sizes.row_length // 16)  # ragged, as responses are
        ids = array("i", torch.randint(sizes.vocabulary, (length,), generator=generator).tolist())
        prompt, response = ids[: length // 8], ids[length // 8 :]
        row = Rollout(str(index), Prompt(index, "", prompt, "", "", "{}"), index, response_tokens=response)
        row.is_finished = index % 2 == 0
        row.score = float(index % 4 == 0) if row.is_finished else None
        row.rollout_logprobs = array("f", [0.0] * len(response))
        row.token_versions = array("i", [0] * len(response))
        rows.append(row)
    return rows


def with_logprobs(rows: Sequence[Rollout], logprobs: Sequence[Tensor]) -> list[Rollout]:
    """The same rows, sampled with these."""
    for row, found in zip(rows, logprobs, strict=True):
        row.rollout_logprobs = array("f", found.tolist())
    return list(rows)


def _keys(values: Mapping[str, Any], **others: Any) -> Any:
    return SimpleNamespace(**values, **others)
