"""The lines of `completions.jsonl`: written by the learner, printed on the console by `tppo run`."""

from collections.abc import Mapping
from typing import Any

from tppo.run_folder.json_files import Kind, fits
from tppo.run_folder.json_lines import Fields

MAX_CHARACTERS = 300
"""Of a prompt, and of a completion: what a person reads in passing."""
CUT = " … "
FIELDS: Mapping[str, Kind] = {
    "step": int,
    "rollout": str,
    "prompt": str,
    "completion": str,
    "num_tokens": int,
    "score": float | None,
}


def completion_line(
    *, step: int, rollout: str, prompt: str, completion: str, num_tokens: int, score: float | None
) -> Fields:
    """One response of a training step; `score` is None while it has not ended."""
    texts = {"prompt": shortened(prompt), "completion": shortened(completion)}
    return {"step": step, "rollout": rollout, **texts, "num_tokens": num_tokens, "score": score}


def is_completion_line(fields: Mapping[str, Any]) -> bool:
    """Whether the object can be one of ours."""
    return fits(fields, FIELDS)


def shortened(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Both ends of a longer text: a prompt's question and a response's answer are at the end."""
    if len(text) <= max_characters:
        return text
    num_kept = max_characters - len(CUT)
    return text[: num_kept // 2] + CUT + text[len(text) - (num_kept - num_kept // 2) :]
