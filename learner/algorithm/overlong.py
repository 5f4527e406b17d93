"""The soft penalty for overlong responses (DAPO, arXiv 2503.14476): a slope in front of the length limit."""

from torch import Tensor


def overlong_penalty(
    response_lengths: Tensor, *, max_response_length: int, buffer_length: int, max_penalty: float = 1.0
) -> Tensor:
    """Reward [batch] to add once, when a response finishes: 0 before the buffer, then linear to -max_penalty.

    `response_lengths` counts the response's tokens of all windows. The buffer is the last `buffer_length` tokens
    before `max_response_length`, where the penalty is complete.
    """
    buffer_start = max_response_length - buffer_length
    share_of_buffer = (response_lengths - buffer_start) / buffer_length
    return -max_penalty * share_of_buffer.clamp(min=0.0, max=1.0)
