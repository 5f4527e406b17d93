"""Two steps of a trainer whose networks several ranks have between them, beside those of one that is alone."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from learner.models.passes.outputs import Policy, row_logprobs
from learner.models.passes.packing import TokenRow
from learner.models.weights.activation_checkpointing import Mode, checkpoint_blocks
from learner.parallel.gathering import own_rows
from learner.parallel.group import Group
from learner.parallel.roles import TOGETHER, Roles
from learner.rollouts.rollout import Rollout
from learner.step.trainer import StepResult
from tests.learner.compared import first_rows, second_rows
from tests.learner.tiny_models import Gradients, TinyTrainer, a_network, a_step_config, some_rows
from tools.tiny_families import tiny_model
from tppo.models import memory_estimate


@dataclass(frozen=True)
class Case:
    """What is trained, and how."""

    algorithm: str = "tppo"
    dtype: str = "float32"
    mode: Mode = "off"
    network: Callable[[str], PreTrainedModel] = a_network
    packs_rows: bool = True
    logits_kept: int = memory_estimate.MAX_LOGITS_KEPT
    actor: Mapping[str, Any] = field(default_factory=dict)
    num_steps: int = 2
    num_mini_batches: int = 2  # and as many passes over them
    rank: int = 0  # of adapters
    shares_body: bool = False  # the value model stands on the policy's
    old_logprobs: str = "recomputed"

    def trainer(self, roles: Roles) -> TinyTrainer:
        """In micro-batches of one or two of the rows."""
        own = {"old_logprobs": self.old_logprobs, **({} if self.algorithm in ("tppo", "vapo") else {"lam": 0.9})}
        number = self.num_mini_batches
        both = {"lr": 1e-3, "lr_decay": "constant", "max_tokens_per_microbatch": 14, "lora_rank": self.rank}
        config = a_step_config(
            run={"mode": "lockstep", "algorithm": self.algorithm, "window_length": 6 if self.is_cut else 18},
            algorithm={"num_ignored_tail_tokens": 0, "advantage_whitening": "none", **own},
            actor={**both, "ppo_mini_batches": number, "ppo_epochs": number, "entropy_freq": 1, **self.actor},
            critic={**both, "warmup_steps": 0, "share_body": self.shares_body},
            learner={"compute_dtype": self.dtype},
        )
        trainer = TinyTrainer(config, roles=roles, network=self.network)
        for model in trainer.models:
            model.packs_rows = model.packs_rows and self.packs_rows
            checkpoint_blocks(model.network, self.mode)
            vars(model.network.base_model)["takes_fast_path"] = False  # ranks compute by the modules
        return trainer

    @property
    def num_updates(self) -> int:
        """Of the policy, and one a step of the value model."""
        return self.num_steps * (self.num_mini_batches**2 + 1)

    @property
    def is_cut(self) -> bool:
        """Whether rows may end in mid-response."""
        return self.algorithm == "tppo"

    def rows(self) -> list[list[Rollout]]:
        """Of the steps: four rows of 7 to 16 tokens, two of them finished; or two whole ones, and again two."""
        of_steps = [some_rows(), some_rows()] if self.is_cut else [first_rows(), second_rows(a_network("policy"))]
        return of_steps[: self.num_steps]


def tied_network(kind: str) -> Any:
    """A policy whose head is its embedding."""
    if kind == "value":
        return a_network(kind)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config = Qwen2Config(vocab_size=32, num_hidden_layers=3, tie_word_embeddings=True, initializer_range=0.3, **sizes)
    torch.manual_seed(2)
    return Qwen2ForCausalLM(config).eval()  # type: ignore[no-untyped-call]


def mixture_of_experts(kind: str) -> Any:
    """A policy with routers."""
    return tiny_model("qwen3_moe") if kind == "policy" else a_network(kind)


STEPS: Mapping[str, Case] = {
    "tppo": Case(),
    "ratio to the sampler": Case(old_logprobs="rollout"),
    "ppo, head in chunks": Case("ppo", network=tied_network, logits_kept=0),
    "vapo, checkpointed": Case("vapo", mode="full", network=tied_network),
    "geppo, row by row": Case("geppo", packs_rows=False),
    "ppo-ewma, selectively checkpointed": Case("ppo-ewma", mode="selective", network=tied_network),
    "mixture of experts": Case(network=mixture_of_experts, actor={"router_aux_loss_coef": 0.5}),
    # What rounding changes in the first step decides over clips in the second.
    "tppo in bfloat16": Case(dtype="bfloat16", network=tied_network, num_steps=1),
    "ppo-ewma in bfloat16": Case("ppo-ewma", dtype="bfloat16", num_steps=1),
    "one update in bfloat16": Case(dtype="bfloat16", network=tied_network, num_steps=1, num_mini_batches=1),
    "adapters, checkpointed": Case(mode="full", network=tied_network, rank=4),
    "ppo-ewma with adapters in bfloat16": Case("ppo-ewma", dtype="bfloat16", rank=4, num_steps=1),
    "adapters on one body": Case(network=tied_network, rank=4, shares_body=True),
}


@dataclass(frozen=True)
class Layout:
    """How ranks divide passes and weights."""

    size: int
    cases: Sequence[str] = tuple(STEPS)
    sequence_size: int = 1
    shard_size: int | None = None

    def joined(self) -> Group:
        """The group of these ranks."""
        cpu = torch.device("cpu")
        return Group.joined(cpu, sequence_size=self.sequence_size, shard_size=self.shard_size)


# Rows that are cut are rounded otherwise in bfloat16, and the first update makes more of it.
CUT = tuple(
    name for name, case in STEPS.items() if case.packs_rows and (case.dtype == "float32" or case.num_mini_batches == 1)
)
LAYOUTS: Mapping[str, Layout] = {
    "2": Layout(2),
    "2 that share tokens": Layout(2, CUT, sequence_size=2),
    "4": Layout(4, (*(name for name in CUT if not STEPS[name].shares_body), "geppo, row by row")),
    "4, of which 2 share tokens": Layout(4, ("tppo", "mixture of experts"), sequence_size=2),
    # The models have two key-value heads.
    "4 that share tokens": Layout(4, ("ppo, head in chunks", "adapters, checkpointed"), sequence_size=4),
    "2 replicas of 2": Layout(4, ("tppo", "mixture of experts", "adapters on one body"), shard_size=2),
    "2 replicas of 2 that share tokens": Layout(
        4, ("vapo, checkpointed", "ppo-ewma, selectively checkpointed"), sequence_size=2, shard_size=2
    ),
}


def compared(name: str, group: Group) -> dict[str, Any]:
    """The steps on all ranks; on the first one beside those of a trainer that is alone."""
    mine = stepped(name, Roles.together(group))
    digest = sha256(json.dumps([mine.results, mine.logprobs]).encode()).digest()
    digests = group.gathered(torch.tensor(list(digest)), [len(digest)] * group.size)
    if group.rank > 0:
        return {}
    alone = stepped_alone(name)
    return {
        "is_same": all(torch.equal(one, digests[0]) for one in digests),
        "results": mine.results,
        "expected": alone.results,
        "logprobs": mine.logprobs,
        "expected_logprobs": alone.logprobs,
        "body_in_common": mine.body_in_common,
        "apart": [apart(of_ranks, of_one) for of_ranks, of_one in zip(mine.gradients, alone.gradients, strict=True)],
    }


class Stepped(NamedTuple):
    """What becomes of the steps of a case."""

    results: list[dict[str, Any]]
    logprobs: list[list[float]]  # of the rows of the last step, by the policy that it leaves
    of_models: dict[str, list[Gradients]]  # by folder; of each update, by those that have the model
    body_in_common: float  # share of the value model's frozen weights that lie where the policy's do

    @property
    def gradients(self) -> list[Gradients]:
        """The policy's, then the value model's."""
        return [update for updates in self.of_models.values() for update in updates]


def stepped(name: str, roles: Roles) -> Stepped:
    case = STEPS[name]
    with patch.object(memory_estimate, "MAX_LOGITS_KEPT", case.logits_kept):
        trainer = case.trainer(roles)
        results = [trainer.step(rows, policy_version=version) for version, rows in enumerate(case.rows())]
        logprobs = [] if trainer.policy_side is None else logprobs_of(trainer.policy, case)
    return Stepped(
        [as_plain(result) for result in results],
        [of_row.tolist() for of_row in logprobs],
        {
            folder: [{name: whole(one) for name, one in update.items()} for update in optimization.gradients]
            for folder, optimization in trainer.recorded.items()
        },
        0.0 if roles.is_apart else body_in_common(trainer),
    )


def logprobs_of(policy: Policy, case: Case) -> list[Tensor]:
    rows = [TokenRow([*row.prompt.token_ids, *row.response_tokens], start=1) for row in case.rows()[-1]]
    return row_logprobs(policy, rows, max_tokens=14)


def body_in_common(trainer: TinyTrainer) -> float:
    places, frozen = (
        [own_rows(one).untyped_storage().data_ptr() for one in model.network.parameters() if not one.requires_grad]
        for model in (trainer.policy, trainer.value_model)
    )
    return sum(place in places for place in frozen) / max(1, len(frozen))


@cache
def stepped_alone(name: str) -> Stepped:
    return stepped(name, TOGETHER)


def whole(tensor: Tensor) -> Tensor:
    """Gathered from all ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def apart(gradients: Gradients, expected: Gradients) -> float:
    """The norm of their difference, in norms of the gradient; 0 where both are 0."""
    assert gradients.keys() == expected.keys()
    squares = [((gradients[name] - one).square().sum(), one.square().sum()) for name, one in expected.items()]
    difference, norm = (torch.stack(column).sum().sqrt() for column in zip(*squares, strict=True))
    return float(difference / norm.clamp(min=torch.finfo(norm.dtype).tiny))


def as_plain(result: StepResult) -> dict[str, Any]:
    """Without what a clock says."""
    metrics = {name: value for name, value in result.metrics.items() if not name.startswith("timing_s/")}
    return {"metrics": metrics, "values": [of_row.tolist() for of_row in result.values]}


def divided_steps(group: Group) -> dict[str, dict[str, Any]]:
    """Of each layout of so many ranks, what its cases have found."""
    return {
        name: {case: compared(case, group) for group in [layout.joined()] for case in layout.cases}
        for name, layout in LAYOUTS.items()
        if layout.size == group.size
    }
