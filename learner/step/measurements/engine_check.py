"""How far each engine is from the learner under the very same weights: what rounding and kernels make of it.

Only windows that one version sampled whole are compared: after an update in mid-window an engine may keep a KV cache of
older weights by choice. Those that the present version sampled are scored in the step anyway. Where a step trains what
the version before has sampled there are none, so now and then, and at once after a start, a copy of those weights
scores a few of its windows, of each generator alike.

A generator that is too far off is held: the policy trains on none of its windows until one comparison finds it within
the bound again. Its windows are scored for that before the update, which passes them over.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from learner.algorithm.losses import k3_kl
from learner.models.passes.outputs import Policy, row_logprobs, with_weights
from learner.models.weights.master_weights import MasterWeights
from learner.rollouts.rollout import Rollout
from learner.step.estimation.experience import Sampled
from learner.step.measurements.metrics import Metrics

FREQUENCY = 10
"""Steps from one copy of the weights to the next."""
MAX_ROWS = 8
MEAN_OF_GENERATOR = "training/engine_kl/mean/"


@dataclass(slots=True)
class EngineCheck:
    """Of one incarnation of the learner; a resumed one begins without a copy, so it takes one before its first step."""

    max_tokens: int  # of a micro-batch
    keeps_weights: bool  # where a step trains what earlier versions have sampled
    _version: int = -1
    _kept: Callable[[], MasterWeights] | None = None  # of that version, on the host; None when used
    _has_begun: bool = False
    max_kl: float | None = None  # of a generator's tokens in the mean; None: no generator is held
    held: set[str] = field(default_factory=set)
    _held_logprobs: dict[int, Tensor] = field(default_factory=dict)  # of rows of the step

    def held_rows(self, rows: Sequence[Rollout]) -> list[int]:
        """Which of the step's rows the policy is not to train on."""
        held = set() if self.max_kl is None else self.held
        return [index for index, row in enumerate(rows) if row.generator in held]

    def score_held(self, policy: Policy, rows: Sequence[Rollout], sampled: Sampled, policy_version: int) -> None:
        """Before the step that changes the weights: what the policy says of windows of held generators."""
        held = set(self.held_rows(rows))
        present = [row for row in _sampled_whole_by(policy_version, sampled) if row in held] if held else []
        self._held_logprobs = self._rescored(policy, sampled, _spread(present, rows)[:MAX_ROWS]) if present else {}

    def keep_weights(self, policy: Policy, policy_version: int) -> None:
        """Before the step that changes them: its windows, and those of the next steps, are sampled by them."""
        if self.keeps_weights and (policy_version % FREQUENCY == 0 or not self._has_begun):
            self._has_begun = True
            self._version = policy_version
            self._kept = policy.weights.kept()

    def metrics(
        self,
        policy: Policy,
        rows: Sequence[Rollout],
        sampled: Sampled,
        before: Mapping[int, Tensor],
        policy_version: int,
    ) -> Metrics:
        """KL(engine || learner), k3 estimate: its mean and the largest of a token, for all and for each generator.

        `before`: of rows of the step under the present version [n], those of their window last.
        """
        present = _sampled_whole_by(policy_version, sampled)
        learners = {row: before[row].cpu() for row in present if row in before} | self._held_logprobs
        earlier = _sampled_whole_by(self._version, sampled) if self._version < policy_version else []
        if self._kept is not None and earlier:
            of_version = with_weights(policy, self._kept())
            learners |= self._rescored(of_version, sampled, _spread(earlier, rows)[:MAX_ROWS])
            self._kept = None
        found = _summary(rows, sampled, learners)
        self._hold(found)
        return found

    def _hold(self, found: Metrics) -> None:
        if self.max_kl is None:
            return
        for name, kl in found.items():
            generator = name.removeprefix(MEAN_OF_GENERATOR)
            if generator == name or kl is None:
                continue
            (self.held.add if not kl <= self.max_kl else self.held.discard)(generator)  # NaN holds, too

    def _rescored(self, policy: Policy, sampled: Sampled, rows: Sequence[int]) -> dict[int, Tensor]:
        windows = [sampled.row_from(row, sampled.window_starts[row]) for row in rows]
        return dict(zip(rows, row_logprobs(policy, windows, max_tokens=self.max_tokens), strict=True))


def _sampled_whole_by(version: int, sampled: Sampled) -> list[int]:
    """Rows whose window's tokens, at least one, are all of the version."""
    is_other = (sampled.token_versions != version) & sampled.response_mask
    rows: list[int] = torch.nonzero(sampled.response_mask.any(dim=1) & ~is_other.any(dim=1)).flatten().tolist()
    return rows


def _spread(candidates: Sequence[int], rows: Sequence[Rollout]) -> list[int]:
    """The first of each generator, then the second of each, and so on."""
    places: defaultdict[str, count[int]] = defaultdict(count)
    place_of = {row: next(places[rows[row].generator]) for row in candidates}
    return sorted(candidates, key=place_of.__getitem__)


def _summary(rows: Sequence[Rollout], sampled: Sampled, learners: Mapping[int, Tensor]) -> Metrics:
    of_each: defaultdict[str, list[Tensor]] = defaultdict(list)
    for row, scored in learners.items():
        is_sampled = sampled.is_sampled[row][sampled.window_starts[row] :]
        engine = sampled.window_part(row, sampled.rollout_logprobs)[is_sampled]
        learner = scored[len(scored) - len(is_sampled) :][is_sampled]
        of_each[rows[row].generator].append(k3_kl(engine, learner, torch.ones_like(engine, dtype=torch.bool)))
    everything = torch.cat([torch.empty(0), *(part for parts in of_each.values() for part in parts)])
    found = {"": everything, **{f"/{name}": torch.cat(parts) for name, parts in sorted(of_each.items()) if name}}
    return {
        f"training/engine_kl/{what}{generator}": float(of(kl)) if len(kl) else None
        for generator, kl in found.items()
        for what, of in (("mean", torch.mean), ("max", torch.max))
    }
