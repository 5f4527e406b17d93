"""Rewards of finished responses: sparse, one number at the last token, and a penalty in front of the length limit."""

import torch
from torch import Tensor

from learner.algorithm.arguments import require_masks, require_shape


def terminal_rewards(final_rewards: Tensor, response_mask: Tensor) -> Tensor:
    """r_t [batch, time]: `final_rewards` [batch] at each row's last True token, 0 elsewhere and for an empty row."""
    require_masks(response_mask=response_mask)
    require_shape(response_mask.shape[:1], final_rewards=final_rewards)
    num_up_to = response_mask.cumsum(1)
    is_last = response_mask & (num_up_to == num_up_to[:, -1:])
    return torch.where(is_last, final_rewards.unsqueeze(1), 0.0)


def overlong_penalty(
    response_lengths: Tensor, *, max_response_length: int, buffer_length: int, max_penalty: float = 1.0
) -> Tensor:
    """Reward [batch] to add once, when a response finishes: 0 before the buffer, then linear to -max_penalty.

    Soft overlong punishment (DAPO, arXiv 2503.14476). `response_lengths` counts the response's tokens of all windows.
    The buffer is the last `buffer_length` tokens before `max_response_length`, where the penalty is complete.
    """
    buffer_start = max_response_length - buffer_length
    share_of_buffer = (response_lengths - buffer_start) / buffer_length
    return -max_penalty * share_of_buffer.clamp(min=0.0, max=1.0)
