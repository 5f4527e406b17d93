"""AdamW with a schedule that counts its own updates; updates that are refused leave everything as it was.

How a step's rows are dealt out to the updates: `mini_batches`.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.adam import adam

from learner.parallel.gathering import placed_like

if TYPE_CHECKING:  # what computes runs where no configuration library is installed
    from tppo.config.schema import OptimizerSection

NORM_EPSILON = 1e-6
"""What torch adds to a norm before it divides by it."""


def mini_batches(rows: Sequence[int], *, count: int, epochs: int, seed: str) -> Iterator[Sequence[int]]:
    """`epochs` passes over the rows in `count` mini-batches, dealt like cards; empty ones are left out.

    Before each pass but the first the rows are shuffled, by `seed` and the number of the pass alone.
    """
    for epoch in range(epochs):
        places = list(range(len(rows)))
        if epoch > 0:
            random.Random(f"{seed}/{epoch}").shuffle(places)
        for first in range(min(count, len(rows))):
            yield [rows[place] for place in sorted(places[first::count])]


@dataclass(frozen=True, slots=True)
class Decay:
    """Where the learning rate's decay begins: after how many updates, and from which share of the peak."""

    num_updates: int
    factor: float = 1.0


def learning_rate_factor(
    num_updates: int, section: "OptimizerSection", *, total_updates: int, decay: Decay | None = None
) -> float:
    """Share of the peak rate for the next update after `num_updates`: linear warm-up, then the configured decay.

    The last of `total_updates`, and each after it, has `section.min_lr_ratio`. By default the decay begins at the peak,
    after the warm-up.
    """
    if num_updates < section.lr_warmup_steps:
        return (num_updates + 1) / section.lr_warmup_steps
    begin = decay or Decay(section.lr_warmup_steps)
    progress = (num_updates - begin.num_updates) / max(1, total_updates - 1 - begin.num_updates)
    remaining = {
        "constant": 1.0,
        "linear": 1.0 - min(1.0, progress),
        "cosine": 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))),
    }[section.lr_decay]
    return section.min_lr_ratio + (begin.factor - section.min_lr_ratio) * remaining


@dataclass(frozen=True, slots=True)
class Update:
    """What became of one optimizer update."""

    grad_norm: float  # before clipping
    lr: float
    was_skipped: bool  # the gradients were not finite


class Optimization:
    """One network's optimizer. A skipped update leaves weights, moments and schedule as they were."""

    def __init__(
        self,
        parameters: Iterable[Parameter],
        section: "OptimizerSection",
        *,
        num_steps: int,
        before_update: Callable[[], None] = lambda: None,
        after_update: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_update` completes the gradients; `after_update` is called when the parameters have moved."""
        self._parameters = list(parameters)
        self._before_update, self._after_update = before_update, after_update
        self._section = section
        self._total_updates = section.lr_decay_steps or num_steps * section.ppo_epochs * section.ppo_mini_batches
        self._decay: Decay | None = None
        self.num_updates = 0
        self.num_skipped = 0  # the gradients were not finite
        self.num_skipped_kl = 0
        self.lr_scale = 1.0  # for a system that adapts the rate on top of the schedule
        self.adamw = torch.optim.AdamW(
            self._parameters, lr=section.lr, betas=section.betas, weight_decay=section.weight_decay, fused=True
        )

    def set_peak(self, lr: float) -> None:
        """Another peak rate for the same schedule."""
        self._section = self._section.model_copy(update={"lr": lr})

    def update(self) -> Update:
        """Apply the gradients that backward passes have gathered, and clear them."""
        self._before_update()
        norm = self._clip()
        rate = self._section.lr * self._factor(self._total_updates) * self.lr_scale
        is_finite = math.isfinite(norm)
        if is_finite:
            self.adamw.param_groups[0]["lr"] = rate
            self._move()
            self._after_update()
            self.num_updates += 1
        else:
            self.num_skipped += 1
        self._clear()
        return Update(norm, rate, was_skipped=not is_finite)

    def _clip(self) -> float:
        """The norm of all gradients, those of other ranks' shards too; they are shortened to at most `grad_clip`."""
        norm = get_total_norm([one.grad for one in self._parameters if one.grad is not None])
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        size = float(norm)
        if size + NORM_EPSILON > 0.999 * self._section.grad_clip:  # below it, however torch rounds, the factor is 1
            clip_grads_with_norm_(self._parameters, self._section.grad_clip, norm)
        return size

    @torch.no_grad()
    def _move(self) -> None:
        """What `AdamW.step` does, without its hooks for profilers and compilers: a small network waits longer for them.

        Where a parameter has no moments yet, `AdamW.step` itself makes them.
        """
        moved: list[Tensor] = [one for one in self._parameters if one.grad is not None]
        states = [self.adamw.state[one] for one in moved]
        if not all(states):
            self.adamw.step()
            return
        group = self.adamw.param_groups[0]
        adam(
            moved,
            [one.grad for one in moved if one.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            decoupled_weight_decay=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _clear(self) -> None:
        for one in self._parameters:
            one.grad = None

    def skip(self) -> None:
        """Drop the gradients that backward passes have gathered: the policy has moved too far to be trained on them."""
        self._clear()
        self.num_skipped_kl += 1

    def state_dict(self) -> dict[str, Any]:
        """Moments, counts and the schedule."""
        return {
            "adamw": self.adamw.state_dict(),
            "num_updates": self.num_updates,
            "num_skipped": self.num_skipped,
            "num_skipped_kl": self.num_skipped_kl,
            "lr_scale": self.lr_scale,
            "total_updates": self._total_updates,
            "decay": None if self._decay is None else asdict(self._decay),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; of whole moments a process takes those of the parameters' rows that it has.

        Where the run has another length now, the rate decays from where it stands.
        """
        self.adamw.load_state_dict({**state["adamw"], "state": dict(self._own_moments(state["adamw"]["state"]))})
        self.adamw.param_groups[0] |= {"betas": self._section.betas, "weight_decay": self._section.weight_decay}
        self.num_updates, self.num_skipped = state["num_updates"], state["num_skipped"]
        self.num_skipped_kl = state.get("num_skipped_kl", 0)
        self.lr_scale = state["lr_scale"]
        decay = state.get("decay")  # a checkpoint without one keeps the configuration's
        self._decay = None if decay is None else Decay(**decay)
        is_decaying = self.num_updates >= self._section.lr_warmup_steps
        planned_updates = state.get("total_updates", self._total_updates)
        if is_decaying and planned_updates != self._total_updates:
            self._decay = Decay(self.num_updates, self._factor(planned_updates))

    def _own_moments(self, of_parameters: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, moments in of_parameters.items():
            parameter = self._parameters[number]
            yield (
                number,
                {
                    name: placed_like(parameter, value) if value.shape == parameter.shape else value
                    for name, value in moments.items()
                },
            )

    def _factor(self, total_updates: int) -> float:
        return learning_rate_factor(self.num_updates, self._section, total_updates=total_updates, decay=self._decay)
