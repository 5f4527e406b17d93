"""The policy's part of a step: the clipped loss over the tokens that count, and the optional likelihood term."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learner.algorithm import losses
from learner.algorithm.importance import effective_sample_size
from learner.models.passes.division import Division
from learner.models.passes.logits import TokenScores
from learner.models.passes.outputs import Imbalance, Policy, token_scores
from learner.models.passes.packing import PackedBatch
from learner.step.estimation.experience import Estimates, Sampled
from learner.step.measurements.metrics import Metrics, PartialMeans, mismatch_metrics
from learner.step.system import PolicyTokens, System
from learner.step.updates.loss_normalizer import LossNormalizer
from learner.step.updates.optimization import Optimization, mini_batches
from learner.step.updates.selection import Selection, scored_of

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.schema import ActorSection, AlgorithmSection


class OfToken(IntEnum):
    """What the loss makes of a token: columns of an outcome [n, 7].

    As all that is kept of a step's tokens, outcomes are on the host: the device holds those of one micro-batch.
    """

    OLD_LOGPROB = 0
    RATIO = 1
    IS_CLIPPED = 2
    IMPORTANCE_WEIGHT = 3
    KL_TO_OLD = 4  # KL(pi_old || pi) by k3
    IS_TRAINED = 5  # in the policy's mask
    LOGPROB = 6  # of the policy in this pass


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What an update leaves behind besides the policy."""

    metrics: Metrics
    outcomes: dict[int, Tensor] = field(default_factory=dict)
    """By row: of its selected tokens in the last pass over them [n, 7]; the window's come last. Rows that trained
    nothing have none.
    """
    before: dict[int, Tensor] = field(default_factory=dict)
    """By row: log-probabilities of its selected tokens under the policy before the first update [n], where they were
    computed: of all trained rows, or with `algorithm.old_logprobs = "rollout"` of the first mini-batch's.
    """


def train(
    policy: Policy,
    optimization: Optimization,
    sampled: Sampled,
    estimates: Estimates,
    *,
    system: System,
    normalizer: LossNormalizer,
    actor: "ActorSection",
    algorithm: "AlgorithmSection",
    seed: str,
    scored: Mapping[int, Tensor] | None = None,
    with_entropy: bool = True,
) -> PolicyResult:
    """Update the policy; with no token in the masks it stays untouched. `seed` deals the rows to the mini-batches.

    `scored`: what `scored_before` has found already.
    """
    selection = Selection.of(sampled, estimates.policy_mask, estimates.advantages, algorithm)
    normalizer.observe([selection.num_policy_tokens[row] for row in selection.trained_rows()])
    update = _PolicyUpdate(policy, system, normalizer, actor, algorithm, seed, selection, with_entropy=with_entropy)
    update.before.update(scored or {})
    if estimates.old_logprobs is not None:
        for row in selection.trained_rows():
            update.before[row] = sampled.window_part(row, estimates.old_logprobs)
    update.train(optimization)
    skipped = {
        "actor/num_skipped_updates": optimization.num_skipped,
        "actor/num_skipped_kl": optimization.num_skipped_kl,
    }
    return PolicyResult({**update.metrics(), **skipped}, update.last_pass, update.before)


OF_TOKENS = ("actor/pg_clipfrac", "actor/pg_clipfrac_lower", "actor/ppo_kl", "actor/importance_weight_mean")
OF_PASSES = ("num_tokens", *OF_TOKENS, "actor/entropy", "num_rows", "actor/router_imbalance")


@dataclass(frozen=True, slots=True)
class _Pass:
    """What a micro-batch gives besides its gradients; on the host."""

    of_tokens: Tensor  # [n, 7]: `OfToken`
    numbers: Tensor  # `OF_PASSES`, float64


@dataclass(slots=True)
class _PolicyUpdate:
    """One step's passes over the rows."""

    policy: Policy
    system: System
    normalizer: LossNormalizer
    actor: "ActorSection"
    algorithm: "AlgorithmSection"
    seed: str
    selection: Selection
    with_entropy: bool = field(kw_only=True)
    before: dict[int, Tensor] = field(default_factory=dict)  # by row; see `PolicyResult`
    has_updated: bool = False
    last_pass: dict[int, Tensor] = field(default_factory=dict)  # by row
    means: PartialMeans = field(default_factory=PartialMeans)
    largest_kl: float = 0.0  # of a mini-batch, before its update

    def train(self, optimization: Optimization) -> None:
        if not self.before:
            self.before.update(scored_of(self.policy, self.selection, actor=self.actor, algorithm=self.algorithm))
        for mini_batch in self._mini_batches():
            self._update(mini_batch, optimization)

    def _update(self, mini_batch: Sequence[int], optimization: Optimization) -> None:
        """One optimizer update, unless the policy is too far from where the step began."""
        lengths = [self.selection.num_policy_tokens[row] for row in mini_batch]
        factors = dict(zip(mini_batch, self.normalizer.factors(lengths), strict=True))
        division = self._divided(mini_batch)
        passes = [self._backward(mini_batch, batch, factors) for batch in division.batches]
        kl_to_old = self._log_whole(mini_batch, division.of_rows([one.of_tokens for one in passes]))
        for of_pass in division.numbers_of_passes([one.numbers for one in passes]).tolist():
            self._log(dict(zip(OF_PASSES, of_pass, strict=True)))
        if self.actor.max_kl is not None and kl_to_old > self.actor.max_kl:
            optimization.skip()
            return
        update = optimization.update()
        self.has_updated = True
        if not update.was_skipped:
            self.system.after_update()
        self.means.add({"actor/grad_norm": update.grad_norm, "actor/lr": update.lr}, weight=1)

    def metrics(self) -> Metrics:
        if not self.before:
            return {}
        places = self.selection.places(list(self.before))
        mask = self.selection.policy_mask.take(places)
        before = torch.cat(list(self.before.values()))[mask]
        rollout = self.selection.rollout_logprobs.take(places)[mask]
        mismatch = mismatch_metrics(before, rollout) if len(before) else {}
        return {**self.means.values(), "actor/kl_to_old/max": self.largest_kl, **mismatch}

    def _mini_batches(self) -> Iterator[Sequence[int]]:
        actor, rows = self.actor, self.selection.trained_rows()
        return mini_batches(rows, count=actor.ppo_mini_batches, epochs=actor.ppo_epochs, seed=self.seed)

    def _divided(self, mini_batch: Sequence[int]) -> Division:
        rows = [self.selection.rows[index] for index in mini_batch]
        return self.policy.divided(rows, max_tokens=self.actor.max_tokens_per_microbatch)

    def _backward(self, mini_batch: Sequence[int], batch: PackedBatch, factors: Mapping[int, float]) -> _Pass:
        """Backward pass of one micro-batch, its loss as part of the mini-batch's token mean."""
        selection = self.selection
        rows = [mini_batch[place] for place in batch.row_indices]
        imbalance = self._imbalance()
        scores = token_scores(self.policy, batch, with_entropy=self.with_entropy, imbalance=imbalance)
        logprobs = scores.logprobs
        places = selection.places(rows)

        def flat(padded: Tensor) -> Tensor:
            return padded.take(places).to(logprobs.device)

        rollout_logprobs = flat(selection.rollout_logprobs)
        advantages = flat(selection.advantages)
        if self.normalizer.normalizer != "tokens":  # whose factors are 1
            advantages = advantages * batch.spread([factors[row] for row in rows]).to(logprobs.device)
        tokens = PolicyTokens(
            batch=batch,
            logprobs=logprobs,
            old_logprobs=self._old_logprobs(rows, logprobs, rollout_logprobs),
            rollout_logprobs=rollout_logprobs,
            advantages=advantages,
            policy_mask=flat(selection.policy_mask),
            normalizer=_num_tokens(selection.num_policy_tokens, mini_batch),
        )
        result = self.system.policy_loss(tokens)
        loss = result.loss
        if self.algorithm.lm_loss_weight > 0:
            loss = loss + self.algorithm.lm_loss_weight * losses.positive_example_loss(
                logprobs,
                flat(selection.positive_mask),
                normalizer=_num_tokens(selection.num_positive_tokens, mini_batch),
            )
        of_routers = scores.imbalances[: len(rows)]
        if imbalance == "trained":
            loss = loss + self.actor.router_aux_loss_coef * of_routers.sum() / len(mini_batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return _Pass(_of_tokens(tokens, result), _of_pass(scores, tokens, result, of_routers.detach()))

    def _old_logprobs(self, rows: Sequence[int], logprobs: Tensor, rollout_logprobs: Tensor) -> Tensor:
        """The ratio's denominator [n], of the tokens of these rows; a rank's empty pass has none."""
        if self.algorithm.old_logprobs == "rollout":
            return rollout_logprobs
        known = [self.before[row] for row in rows if row in self.before]
        # Of the first mini-batch none: its pass is by the weights before the first update.
        return torch.cat(known).to(logprobs.device) if known else logprobs.detach()

    def _imbalance(self) -> Imbalance:
        if self.policy.experts_per_token is None:
            return "off"
        return "trained" if self.actor.router_aux_loss_coef > 0 else "measured"

    def _log_whole(self, mini_batch: Sequence[int], of_rows: Sequence[Tensor]) -> float:
        """Keep what the losses made of the mini-batch's rows; return KL(pi_old || pi) over all of its tokens.

        Neither that nor the effective sample size is a mean of those of its parts.
        """
        for row, of_tokens in zip(mini_batch, of_rows, strict=True):
            if not self.has_updated:
                self.before.setdefault(row, of_tokens[:, OfToken.LOGPROB])
            self.last_pass[row] = of_tokens
        columns = torch.cat(list(of_rows)).T.contiguous()
        is_trained = columns[OfToken.IS_TRAINED].bool()
        weights = columns[OfToken.IMPORTANCE_WEIGHT][is_trained]
        mean = float(columns[OfToken.KL_TO_OLD][is_trained].sum() / max(1, len(weights)))
        self.largest_kl = max(self.largest_kl, mean)
        in_effect = effective_sample_size(weights, torch.ones_like(weights, dtype=torch.bool))
        self.means.add({"actor/effective_sample_size": float(in_effect)}, weight=len(weights))
        return mean

    def _log(self, of_pass: Mapping[str, float]) -> None:
        num_tokens, num_rows = of_pass["num_tokens"], of_pass["num_rows"]
        if self.with_entropy:
            self.means.add({"actor/entropy": of_pass["actor/entropy"]}, weight=num_tokens)
        if self.policy.experts_per_token is not None:
            self.means.add({"actor/router_imbalance": of_pass["actor/router_imbalance"]}, weight=num_rows)
        self.means.add({name: of_pass[name] for name in OF_TOKENS}, weight=num_tokens)


@torch.no_grad()
def _of_tokens(tokens: PolicyTokens, result: losses.PolicyLoss) -> Tensor:
    kl_to_old = losses.k3_kl(tokens.old_logprobs, tokens.logprobs, tokens.policy_mask)
    of_loss = (result.ratio, result.is_clipped, result.importance_weights)
    columns = (tokens.old_logprobs, *of_loss, kl_to_old, tokens.policy_mask, tokens.logprobs)
    return torch.stack([column.detach().float() for column in columns], dim=1).cpu()


def _of_pass(scores: TokenScores, tokens: PolicyTokens, result: losses.PolicyLoss, imbalances: Tensor) -> Tensor:
    entropies = scores.entropies[tokens.policy_mask] if len(scores.entropies) else scores.entropies
    numbers = (
        int(result.num_tokens),
        float(result.clip_fraction),
        float(result.dual_clip_fraction),
        float(result.approx_kl),
        float(result.importance_weight_mean),
        float(entropies.mean()) if len(entropies) else 0.0,
        len(imbalances),
        float(imbalances.mean()) if len(imbalances) else 0.0,
    )
    return torch.tensor(numbers, dtype=torch.float64)


def _num_tokens(of_rows: Sequence[int], rows: Sequence[int]) -> int:
    """Tokens that count in the mini-batch's mean, at least 1."""
    return max(1, sum(of_rows[row] for row in rows))
