"""Which responses a run keeps on its disk: the same prompts in every epoch, whole, within a bound."""

from pathlib import Path

import pytest

from services.reward.reporting.response_log import ResponseLog, Sample, logged_responses
from tppo.rollout import RewardRequest, Score, ScoreStatus

LARGE = 2**40


def kept(folder: Path, sample: Sample | None, *rollouts: str, response: str = "4") -> list[str]:
    log = ResponseLog(folder, "reward-0", sample=sample)
    for name in rollouts:
        is_evaluation = name.startswith("eval")
        request = RewardRequest(name, 0, "sums", "2+2?", response, "4", is_evaluation=is_evaluation)
        log.append(request, Score(name, 0, ScoreStatus.SCORED, 1.0))
    assert log.last_error == ""
    return [line["rollout_id"] for line in logged_responses(folder)]


def of_epoch(epoch: int, *, num_prompts: int = 1000) -> list[str]:
    return [f"{epoch}-{prompt}-{sample}" for prompt in range(num_prompts) for sample in range(2)]


def prompts_in(rollouts: list[str]) -> list[int]:
    return [int(name.split("-")[1]) for name in rollouts]


def test_the_same_prompts_are_kept_in_every_epoch_with_all_their_samples(tmp_path: Path) -> None:
    first = prompts_in(kept(tmp_path / "first", Sample(0.05, LARGE), *of_epoch(0)))
    second = prompts_in(kept(tmp_path / "second", Sample(0.05, LARGE), *of_epoch(7)))

    assert first == second
    assert all(first.count(prompt) == 2 for prompt in first)
    assert 30 <= len(set(first)) <= 70  # 50 of 1000 are expected, with a standard deviation of 7


def test_all_of_an_evaluation_is_kept(tmp_path: Path) -> None:
    evaluation = [f"eval-20-{number}" for number in range(50)]

    assert kept(tmp_path, Sample(1e-9, LARGE), *of_epoch(0), *evaluation) == evaluation


@pytest.mark.parametrize(("sample", "expected"), [(None, 4), (Sample(1.0, LARGE), 4), (Sample(0.0, LARGE), 0)])
def test_all_or_none_are_kept_where_the_configuration_says_so(
    tmp_path: Path, sample: Sample | None, expected: int
) -> None:
    assert len(kept(tmp_path, sample, "0-1-0", "0-2-0", "0-3-0", "eval-0-1")) == expected


def test_the_file_stays_within_its_bound_and_keeps_fewer_prompts_the_fuller_it_is(tmp_path: Path) -> None:
    sample, response = Sample(1.0, 200_000), "x" * 700  # a line is about 1,000 bytes

    early = prompts_in(kept(tmp_path, sample, *of_epoch(0, num_prompts=100), response=response))
    everything = kept(tmp_path, sample, *(name for epoch in range(1, 9) for name in of_epoch(epoch, num_prompts=100)))
    late = prompts_in([name for name in everything if name.startswith("8-")])

    assert (tmp_path / "responses" / "reward-0.jsonl").stat().st_size < 202_000
    assert 0 < len(set(late)) < len(set(early))
    assert set(late) < set(early)
