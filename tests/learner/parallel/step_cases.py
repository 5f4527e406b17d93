"""Two steps of a trainer whose networks are sharded, beside those of one that is alone."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from learner.models.weights.activation_checkpointing import Mode, checkpoint_blocks
from learner.parallel.group import ALONE, Group
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
    rank: int = 0  # of adapters

    def trainer(self, group: Group) -> TinyTrainer:
        """Two mini-batches and two passes over them, in micro-batches of one or two of the rows."""
        whole = {} if self.algorithm in ("tppo", "vapo") else {"lam": 0.9}
        both = {"lr": 1e-3, "lr_decay": "constant", "max_tokens_per_microbatch": 14, "lora_rank": self.rank}
        config = a_step_config(
            run={"mode": "lockstep", "algorithm": self.algorithm, "window_length": 6 if self.is_cut else 18},
            algorithm={"num_ignored_tail_tokens": 0, "advantage_whitening": "none", **whole},
            actor={**both, "ppo_mini_batches": 2, "ppo_epochs": 2, "entropy_freq": 1, **self.actor},
            critic={**both, "warmup_steps": 0},
            learner={"compute_dtype": self.dtype},
        )
        trainer = TinyTrainer(config, group=group, network=self.network)
        for model in (trainer.policy, trainer.value_model):
            model.packs_rows = model.packs_rows and self.packs_rows
            checkpoint_blocks(model.network, self.mode)
        return trainer

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
    "ppo, head in chunks": Case("ppo", network=tied_network, logits_kept=0),
    "vapo, checkpointed": Case("vapo", mode="full", network=tied_network),
    "geppo, row by row": Case("geppo", packs_rows=False),
    "ppo-ewma, selectively checkpointed": Case("ppo-ewma", mode="selective", network=tied_network),
    "mixture of experts": Case(network=mixture_of_experts, actor={"router_aux_loss_coef": 0.5}),
    # What rounding changes in the first step decides over clips in the second.
    "tppo in bfloat16": Case(dtype="bfloat16", network=tied_network, num_steps=1),
    "ppo-ewma in bfloat16": Case("ppo-ewma", dtype="bfloat16", num_steps=1),
    "adapters, checkpointed": Case(mode="full", network=tied_network, rank=4),
    "ppo-ewma with adapters in bfloat16": Case("ppo-ewma", dtype="bfloat16", rank=4, num_steps=1),
}


def compared(case: Case, group: Group) -> dict[str, Any]:
    """The steps on all ranks; on the first one beside those of a trainer that is alone."""
    with patch.object(memory_estimate, "MAX_LOGITS_KEPT", case.logits_kept):
        sharded, results = stepped(case, group)
        gradients = [
            {name: whole(one) for name, one in update.items()}
            for optimization in (sharded.actor, sharded.critic)
            for update in optimization.gradients
        ]
        found = {"results": list(map(as_plain, results)), "is_same": is_same_everywhere(results, group)}
        if group.rank > 0:
            return {}
        alone, expected = stepped(case, ALONE)
    of_alone = [*alone.actor.gradients, *alone.critic.gradients]
    return found | {
        "expected": list(map(as_plain, expected)),
        "apart": [apart(mine, theirs) for mine, theirs in zip(gradients, of_alone, strict=True)],
    }


def stepped(case: Case, group: Group) -> tuple[TinyTrainer, list[StepResult]]:
    trainer = case.trainer(group)
    return trainer, [trainer.step(rows, policy_version=version) for version, rows in enumerate(case.rows())]


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


def is_same_everywhere(results: list[StepResult], group: Group) -> bool:
    """To the bit, on all ranks."""
    digest = sha256(json.dumps([as_plain(result) for result in results]).encode()).digest()
    digests = group.gathered(torch.tensor(list(digest)), [len(digest)] * group.size)
    return all(torch.equal(one, digests[0]) for one in digests)


CASES: Mapping[str, Callable[[Group], Any]] = {name: partial(compared, case) for name, case in STEPS.items()}
