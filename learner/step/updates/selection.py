"""The tokens of a step that train the policy, and what it says of them before its first update."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from learner.algorithm import token_filter
from learner.models.passes.outputs import Policy, row_logprobs
from learner.models.passes.packing import TokenRow, pad_rows
from learner.step.estimation.experience import Sampled, flat_places
from learner.step.updates.optimization import mini_batches

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.schema import ActorSection, AlgorithmSection


@dataclass(frozen=True, slots=True)
class Selection:
    """The tokens whose log-probabilities are needed, by row of the step; tensors are [batch, longest selection].

    A row's selected tokens are its current window; or its whole response where the likelihood loss takes all windows.
    """

    rows: list[TokenRow]
    advantages: Tensor
    rollout_logprobs: Tensor
    policy_mask: Tensor
    positive_mask: Tensor
    num_policy_tokens: list[int]  # of each row, in its mask
    num_positive_tokens: list[int]

    @classmethod
    def of(
        cls, sampled: Sampled, in_policy_loss: Tensor, advantages: Tensor, algorithm: "AlgorithmSection"
    ) -> "Selection":
        """What the configuration demands; mask and advantages are [batch, time]."""
        windows = cls(
            rows=sampled.window_rows(),
            advantages=advantages,
            rollout_logprobs=sampled.rollout_logprobs,
            policy_mask=in_policy_loss,
            positive_mask=torch.zeros_like(in_policy_loss),
            num_policy_tokens=in_policy_loss.sum(dim=1).tolist(),
            num_positive_tokens=[0] * sampled.num_rows,
        )
        return windows._with_positive_examples(sampled, algorithm) if algorithm.lm_loss_weight > 0 else windows

    def _with_positive_examples(self, sampled: Sampled, algorithm: "AlgorithmSection") -> "Selection":
        """The windows, and what the likelihood loss takes."""
        positive = token_filter.positive_example_mask(
            sampled.all_windows_mask(),
            sampled.is_finished,
            sampled.scores,
            score_threshold=algorithm.lm_score_threshold,
        )
        takes_all = (positive.any(dim=1) & (algorithm.lm_tokens == "all_windows")).tolist()
        first = [0 if takes_all[index] else start for index, start in enumerate(sampled.window_starts)]

        def with_earlier(of_window: Tensor) -> Tensor:
            """The window's entries of a [batch, time] tensor; before them zeros for the earlier tokens."""
            num_earlier = [start - begin for start, begin in zip(sampled.window_starts, first, strict=True)]
            parts = [sampled.window_part(index, of_window) for index in range(len(num_earlier))]
            return pad_rows([pad(part, (num, 0)) for part, num in zip(parts, num_earlier, strict=True)]).values

        ends = sampled.response_lengths.tolist()
        positive_mask = pad_rows(
            [positive[row, begin:end] for row, (begin, end) in enumerate(zip(first, ends, strict=True))]
        ).values
        return replace(
            self,
            rows=[sampled.row_from(index, begin) for index, begin in enumerate(first)],
            advantages=with_earlier(self.advantages),
            rollout_logprobs=with_earlier(self.rollout_logprobs),
            policy_mask=with_earlier(self.policy_mask),
            positive_mask=positive_mask,
            num_positive_tokens=positive_mask.sum(dim=1).tolist(),
        )

    def places(self, rows: Sequence[int]) -> Tensor:
        """Of these rows' tokens, row after row, in the tensors; for `Tensor.take` [n]."""
        lengths = [self.rows[row].num_selected for row in rows]
        return flat_places(rows, lengths, time=self.policy_mask.shape[1])

    def trained_rows(self) -> list[int]:
        """Rows with a token in one of the masks."""
        both = zip(self.num_policy_tokens, self.num_positive_tokens, strict=True)
        return [row for row, counts in enumerate(both) if any(counts)]


def scored_before(
    policy: Policy, sampled: Sampled, policy_mask: Tensor, *, actor: "ActorSection", algorithm: "AlgorithmSection"
) -> dict[int, Tensor]:
    """What the update does before its first update, where no advantages are known yet; by row."""
    selection = Selection.of(sampled, policy_mask, torch.zeros(policy_mask.shape), algorithm)
    return scored_of(policy, selection, actor=actor, algorithm=algorithm)


def scored_of(
    policy: Policy, selection: Selection, *, actor: "ActorSection", algorithm: "AlgorithmSection"
) -> dict[int, Tensor]:
    """All mini-batches but the first, which is scored by the same weights in its own training pass; by row.

    Nothing where the ratio is to the policy that sampled.
    """
    if algorithm.old_logprobs == "rollout":
        return {}
    in_order = mini_batches(selection.trained_rows(), count=actor.ppo_mini_batches, epochs=1, seed="")
    later = [row for mini_batch in list(in_order)[1:] for row in mini_batch]
    rows = [selection.rows[row] for row in later]
    return dict(zip(later, row_logprobs(policy, rows, max_tokens=actor.max_tokens_per_microbatch), strict=True))
