"""Three ways to be called: in batches, asynchronously, and with components. python several.py ADDRESS..."""

import asyncio
import sys

from tppo.reward_client import reward_function, serve


@reward_function("shortness", batch_size=64, min_score=-1.0, max_score=0.0)
def shortness(
    data_sources: list[str], solution_strs: list[str], ground_truths: list[str], extra_infos: list[dict[str, object]]
) -> list[float]:
    """A batch at once, as a reward model on a GPU wants it."""
    return [-min(1.0, len(text) / 1000) for text in solution_strs]


@reward_function("judge", concurrency=32)
async def judge(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, object]
) -> dict[str, float] | None:
    """Many at once, each waiting for a server; None where there is no opinion."""
    await asyncio.sleep(0)  # here: call your judge
    if not solution_str:
        return None
    is_right, is_polite = float(ground_truth in solution_str), float("please" in solution_str)
    return {"score": is_right + 0.1 * is_polite, "is_right": is_right, "is_polite": is_polite}


if __name__ == "__main__":
    serve(*sys.argv[1:])
