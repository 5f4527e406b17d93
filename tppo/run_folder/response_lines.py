"""The lines of `responses/NAME.jsonl`: a scored response each, written by the reward service NAME.

A rollout's response is scored once for each attempt, and a line may have a duplicate: readers keep the latest.
"""

from collections.abc import Mapping
from typing import Any

from tppo.run_folder.json_files import Kind, fits

RESPONSE_FIELDS: Mapping[str, Kind] = {
    "rollout_id": str,
    "attempt": int,
    "data_source": str,
    "prompt": str,
    "response": str,
    "ground_truth": str,
    "extra_info": dict,
    "num_response_tokens": int,
    "is_evaluation": bool,
    "status": str,
    "score": float | None,
    "function": str,
    "time": float,
}
"""What readers need of a line."""


def is_response_line(fields: Mapping[str, Any]) -> bool:
    """Whether the object can be one of ours."""
    return fits(fields, RESPONSE_FIELDS)
