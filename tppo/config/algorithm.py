"""`[algorithm]`: the keys of advantages and losses. What `run.algorithm` makes of them: `presets.py`."""

from typing import Annotated, Literal

from pydantic import Field

from tppo.config.section import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Section


class AlgorithmSection(Section):
    """`[algorithm]`: advantages and losses (docs/algorithm.md)."""

    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount."""
    lam: Fraction | Literal["length_adaptive"] = "length_adaptive"
    """lambda of the policy's advantages: a number, or max(1 - 1/(lam_alpha * length), lam_floor)."""
    lam_alpha: PositiveFloat = 0.05
    """alpha of the length-adaptive lambda."""
    lam_floor: Fraction = 0.95
    """Smallest length-adaptive lambda."""
    boundary: Literal["hold", "bootstrap"] = "hold"
    """Value after the last token of an unfinished window: that of the token before (the paper), or the critic's."""
    num_ignored_tail_tokens: NonNegativeInt = 8
    """Last tokens of an unfinished window that are left out of the policy loss."""
    advantage_whitening: Literal["scale_only", "full", "none"] = "scale_only"
    """Divide by the deviation, also subtract the mean, or neither."""
    clip_ratio_low: Fraction = 0.2
    """The ratio is clipped below at 1 - this."""
    clip_ratio_high: PositiveFloat = 0.28
    """The ratio is clipped above at 1 + this."""
    clip_ratio_c: Annotated[float, Field(gt=1)] = 10.0
    """Dual clip: bound of the loss where the advantage is negative."""
    importance_cap: PositiveFloat | None = None
    """Cap of old/rollout probability weights; unset: 2 in overlapped and streaming, none in lockstep."""
    overlong_buffer_length: NonNegativeInt = 0
    """Overlong shaping (DAPO): the penalty begins this many tokens before max_response_length; 0: off."""
    overlong_penalty_factor: PositiveFloat = 1.0
    """What a response of max_response_length loses of its score."""
    lm_loss_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the likelihood loss on correct responses (VAPO: 0.1)."""
    lm_tokens: Literal["all_windows", "current_window"] = "all_windows"
    """Which tokens of a correct response the likelihood loss takes."""
    ewma_center_of_mass: PositiveFloat = 8.0
    """ppo-ewma: mean age in updates of the weights whose average bounds the policy; decay = this / (1 + this)."""
    num_reused_batches: PositiveInt = 4
    """geppo: a step trains on its own rows and on those of the steps before it, this many batches in all."""
    lr_adaptation_factor: PositiveFloat = 0.03
    """geppo: the policy's rate is divided by 1 + this after a step that moved the policy too far."""
