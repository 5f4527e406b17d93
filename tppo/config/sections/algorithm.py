"""`[algorithm]`: advantages and losses. What `run.algorithm` sets in it: `presets.py`."""

from typing import Annotated, Literal

from pydantic import Field

from tppo.config.recipes import RecipeName
from tppo.config.sections.section import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Section, TokensOrZero


class AlgorithmSection(Section):
    """Advantages and losses; docs/algorithm.md has the formulas."""

    recipe: RecipeName = "none"
    """A named set of defaults for this and other sections; keys that are given keep their values. `paper`: the setting
    of the T-PPO paper, of 8192 windows a step (docs/algorithm.md).

    `paper` to repeat the paper, or to begin there; `--dry-run` prints each key that it sets and its source.
    """
    gamma: Annotated[float, Field(strict=True, ge=0.001, le=1)] = 1.0
    """Discount of a reward for each token of distance. [factor]

    Rarely: below 1 a long response earns less. verl: `algorithm.gamma`.
    """
    lam: Fraction | Literal["length_adaptive"] = "length_adaptive"
    """lambda of the policy's advantages: a number, or max(1 - 1/(lam_alpha * length), lam_floor). [factor]

    A number near 0.98 for responses of a few hundred tokens; nearer to 1, the cut of a window biases the advantages
    more. verl: `algorithm.lam`.
    """
    lam_alpha: PositiveFloat = 0.05
    """alpha of the length-adaptive lambda. [factor]

    Rarely; VAPO's value.
    """
    lam_floor: Fraction = 0.95
    """Smallest length-adaptive lambda. [factor]

    Down to 0 for VAPO's own formula, which suits responses of thousands of tokens.
    """
    boundary: Literal["hold", "bootstrap"] = "hold"
    """Value after the last token of an unfinished window: that of the token before (the paper), or the value model's.

    `bootstrap` when `critic/border_value_jump/mean` is far from 0.
    """
    num_ignored_tail_tokens: TokensOrZero = 8
    """Last tokens of an unfinished window that are left out of the policy loss. [tokens]

    Up when `critic/bias_at_cut/mean_abs` is large; down when windows are short.
    """
    advantage_whitening: Literal["scale_only", "full", "none"] = "scale_only"
    """Divide the advantages by their deviation, also subtract their mean, or neither.

    `full` as PPO usually does, at the risk that unfinished responses are rewarded for their length.
    """
    loss_normalizer: Literal["tokens", "rows", "constant", "running"] = "tokens"
    """What the policy's loss is a mean over: the update's tokens; its rows, each by its own mean; as if each row had
    window_length tokens; or as many as the mean row of the steps so far.

    `rows` when long responses drown short ones. verl: `loss_agg_mode`.
    """
    clip_ratio_low: Fraction = 0.2
    """The ratio is clipped below at 1 - this. [ratio]

    Down for smaller policy steps. verl: `clip_ratio_low`.
    """
    clip_ratio_high: PositiveFloat = 0.28
    """The ratio is clipped above at 1 + this (clip-higher). [ratio]

    Up when the entropy collapses. verl: `clip_ratio_high`.
    """
    clip_ratio_c: Annotated[float, Field(strict=True, gt=1, le=1e12)] = 10.0
    """Dual clip: bound of the loss where the advantage is negative. [ratio]

    Down, to 3 say, when single tokens dominate the gradient. verl: `clip_ratio_c`.
    """
    old_logprobs: Literal["recomputed", "rollout"] = "recomputed"
    """What the ratio is to: the policy before the step's first update, as the learner computes it, or the policy that
    sampled, as the generator reported it. `rollout` spares the learner a forward pass over all mini-batches but the
    first, and needs no importance weights; tokens that older weights sampled begin nearer to the clip.

    `rollout` where the learner is the bottleneck and tokens are young; with a mean lag of 5 a seed of the quick start
    lost its way. verl: `rollout_correction.bypass_mode`.
    """
    importance_cap: PositiveFloat | Literal["none"] | None = None
    """Cap of the importance weights old/rollout of the decoupled loss; `none`: no such weights; unset: 2, but none in
    lockstep where learner and generators compute in float32, and with `old_logprobs = "rollout"`. [ratio]

    Down, to 1.5 say, when `training/engine_kl/max` is large; `none` for the plain ratio.
    """
    importance_mode: Literal["truncate", "mask"] = "truncate"
    """A token whose importance weight exceeds `importance_cap` gets the cap as its weight (truncated importance
    sampling), or the weight 0 while it still counts in the loss's mean.

    `mask` when engine and learner disagree much on few tokens.
    """
    max_engine_kl: PositiveFloat | Literal["none"] = 0.05
    """A generator whose mean KL to the learner under the same weights is above this trains nothing from the next step
    on, until it is found within; `none`: every generator does. [nats]

    Rarely: rounding in bfloat16 makes less than a hundredth of it. Up for quantized weights of the engine.
    """
    overlong_buffer_length: TokensOrZero = 0
    """Overlong shaping (DAPO): the penalty begins this many tokens before max_response_length; 0: off. [tokens]

    When responses run into the limit. verl: `overlong_buffer.len`.
    """
    overlong_penalty_factor: PositiveFloat = 1.0
    """What a response of max_response_length loses of its score. [score]

    In proportion to your scores. verl: `overlong_buffer.penalty_factor`.
    """
    lm_loss_weight: NonNegativeFloat = 0.0
    """Weight of the likelihood loss on correct responses. [factor]

    To 0.1, as in VAPO, when correct responses are rare.
    """
    lm_score_threshold: Annotated[float, Field(strict=True, ge=-1e12, le=1e12)] = 0.5
    """A response with a score above this is correct for the likelihood loss. [score]

    In proportion to your scores: above what a wrong response can reach, such as 0.1 for its format.
    """
    lm_tokens: Literal["all_windows", "current_window"] = "all_windows"
    """Which tokens of a correct response the likelihood loss takes.

    `current_window` when no token may be trained twice.
    """
    ewma_center_of_mass: PositiveFloat = 8.0
    """ppo-ewma: mean age of the weights whose average bounds the policy; decay = this / (1 + this). [updates]

    In proportion to 1 / batch size.
    """
    num_reused_batches: PositiveInt = 4
    """geppo: a step trains on its own windows and on those of the steps before it, this many batches in all. [steps]

    Up when generation is expensive, with a lower learning rate; max_token_lag bounds it.
    """
    lr_adaptation_factor: PositiveFloat = 0.03
    """geppo: the policy's rate is divided by 1 + this after a step that moved the policy too far. [factor]

    Rarely.
    """
