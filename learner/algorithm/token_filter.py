"""Which token trains which loss. Prompts train nothing; neither does what the policy did not sample in a response.

policy: tokens of the current window, without the last K before a cut, whose advantages are the least certain, and
without too-old tokens; value: all tokens of finished responses; positive examples: all tokens of finished responses
that scored above a threshold.
"""

import torch
from torch import Tensor

from learner.algorithm.arguments import require_masks, require_shape


def policy_mask(response_mask: Tensor, is_finished: Tensor, *, num_ignored_tail_tokens: int) -> Tensor:
    """Tokens for the policy loss [batch, time]: a cut row loses its last K = `num_ignored_tail_tokens` tokens.

    `response_mask` [batch, time] is True for the current window's sampled tokens, wherever they stand.
    """
    require_masks(response_mask=response_mask, is_finished=is_finished)
    require_shape(response_mask.shape[:1], is_finished=is_finished)
    num_up_to = response_mask.cumsum(1)
    num_following = num_up_to[:, -1:] - num_up_to
    is_before_tail = num_following >= num_ignored_tail_tokens
    return torch.where(is_finished.unsqueeze(1), response_mask, response_mask & is_before_tail)


def recent_mask(token_versions: Tensor, *, policy_version: int, max_token_lag: int) -> Tensor:
    """Tokens sampled by `policy_version` or at most `max_token_lag` versions before it [batch, time].

    `token_versions` [batch, time]: the policy version that sampled each token. One that is still to come is a broken
    generator's, or was rolled back: its log-probs are not those of weights that this policy comes from.
    """
    lag = policy_version - token_versions
    return (lag >= 0) & (lag <= max_token_lag)


def value_mask(response_mask: Tensor, is_finished: Tensor) -> Tensor:
    """Tokens for the value loss [batch, time]: those of finished rows, of all windows that `response_mask` spans.

    So finished responses train the value model, with all their tokens, and unfinished ones wait.
    """
    require_masks(response_mask=response_mask, is_finished=is_finished)
    require_shape(response_mask.shape[:1], is_finished=is_finished)
    return torch.where(is_finished.unsqueeze(1), response_mask, False)


def positive_example_mask(
    response_mask: Tensor, is_finished: Tensor, scores: Tensor, *, score_threshold: float = 0.0
) -> Tensor:
    """Tokens for the positive-example loss [batch, time]: finished rows with a score [batch] above the threshold."""
    return value_mask(response_mask, is_finished & (scores > score_threshold))
