"""What a run has kept of its responses: listed, searched, and side by side."""

from pathlib import Path

import pytest

from services.dashboard.api.routes import responses
from services.dashboard.history.catalog import Catalog
from services.dashboard.history.responses import ResponseIndex, new_responses
from tests.dashboard.clients import answer_of
from tests.dashboard.run_folders import BEGAN, RunFolderBuilder, keep, kept, last_window, requested, step_line
from tests.support.waiting import DEADLINE_SECONDS


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search ends early because the machine is busy."""
    monkeypatch.setattr(responses, "SEARCH_SECONDS", DEADLINE_SECONDS)


async def names(root: Path, query: str) -> list[str]:
    return [one["rollout"] for one in (await answer_of(root, f"responses?{query}"))["items"]]


async def test_the_list_shows_how_a_kept_response_begins(run: RunFolderBuilder, root: Path) -> None:
    run.journal(requested("0-7-0"), last_window("0-7-0"), requested("0-8-0", time=1))
    keep(run, kept("0-7-0", "The sum is " + 300 * "x", time=5))

    items = (await answer_of(root, "rollouts?sort=prompt"))["items"]

    assert [(one["rollout"], one["preview"]) for one in items] == [
        ("0-7-0", "The sum is " + 189 * "x"),
        ("0-8-0", None),
    ]


async def test_a_response_without_a_trace_is_shown_as_it_was_kept(run: RunFolderBuilder, root: Path) -> None:
    run.journal(requested("eval-2-0", evaluation=True), last_window("eval-2-0", evaluation=True))
    keep(run, kept("eval-2-0", "one\nplus", time=5), kept("eval-4-0", "two", time=6))

    rollout = await answer_of(root, "rollouts/eval-2-0")

    assert (rollout["text"], rollout["num_kept_of_same_prompt"]) == ("one\nplus", 2)


async def test_responses_are_found_below_another_folder_where_reward_services_see_no_run(
    run: RunFolderBuilder, root: Path, tmp_path: Path
) -> None:
    keep(run, kept("0-1-0", "of before", time=1))
    keep(RunFolderBuilder(tmp_path / "elsewhere" / run.path.name), kept("0-7-0", "one", time=5))

    history = await Catalog(root, responses=tmp_path / "elsewhere").run(run.path.name)
    await history.responses.refresh()

    assert [one.rollout for one in history.responses.newest_first()] == ["0-7-0"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["0-9-0", "eval-2-7", "0-7-1", "0-7-0"]),
        ("text=SEVEN", ["eval-2-7", "0-7-0"]),
        ("text=seven&evaluation=false", ["0-7-0"]),
        ("text=1%2B1%3D", ["0-7-1"]),
        ("text=%C3%84pfel", ["0-9-0"]),
        ("text=%22%5CBoxed%0A", ["0-9-0"]),  # a quotation mark, a backslash, a new line
        ("text=plus", []),  # stands in the prompt alone
        ("min_score=0.5", ["eval-2-7", "0-7-0"]),
        ("max_score=0.5", ["0-7-1"]),
        ("limit=1&text=seven", ["eval-2-7"]),
    ],
)
async def test_kept_responses_are_searched_the_newest_first(
    run: RunFolderBuilder, root: Path, query: str, found: list[str]
) -> None:
    keep(run, kept("0-7-0", "It is seven.", time=1), kept("0-7-1", "1+1=2", time=3, score=0.0))
    keep(
        run,
        kept("eval-2-7", "Seven", time=5),
        kept("0-9-0", 'äpfel "\\boxed\n', time=7, score=None),
        service="reward-1",
    )

    assert await names(root, query) == found


async def test_a_hit_has_the_text_around_it(run: RunFolderBuilder, root: Path) -> None:
    keep(run, kept("0-7-0", 100 * "a" + " seven " + 300 * "b", time=1))

    (hit,) = (await answer_of(root, "responses?text=seven"))["items"]

    assert hit["excerpt"] == {"before": "… " + 59 * "a" + " ", "found": "seven", "after": " " + 199 * "b"}


async def test_a_search_is_continued_where_it_ended(run: RunFolderBuilder, root: Path) -> None:
    keep(run, *(kept(f"0-{number}-0", "seven", time=number) for number in range(5)))
    found: list[str] = []
    query = "text=seven&limit=2"
    while query:
        answer = await answer_of(root, f"responses?{query}")
        found += [one["rollout"] for one in answer["items"]]
        query = f"text=seven&limit=2&older_than={answer['older_than']}" if answer["older_than"] else ""

    assert found == ["0-4-0", "0-3-0", "0-2-0", "0-1-0", "0-0-0"]


async def test_a_search_that_ends_early_says_how_far_it_came(
    run: RunFolderBuilder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "SEARCH_SECONDS", -1.0)
    keep(run, *(kept(f"0-{number}-0", "seven", time=number) for number in range(3)))

    answer = await answer_of(root, "responses?text=seven")

    assert [one["rollout"] for one in answer["items"]] == ["0-2-0"]
    assert (answer["older_than"], answer["num_searched"], answer["total"]) == (BEGAN + 2, 1, 3)
    assert "it has read the newest 1 of 3 kept responses" in answer["note"]


async def test_where_nothing_is_kept_the_answer_names_the_key(run: RunFolderBuilder, root: Path) -> None:
    answer = await answer_of(root, "responses")

    assert answer["items"] == []
    assert "expected reward.kept_prompts above 0" in answer["note"]


async def test_the_responses_to_one_prompt_stand_side_by_side_in_the_order_of_the_steps(
    run: RunFolderBuilder, root: Path
) -> None:
    run.metrics(step_line(1), step_line(2))  # after 10 and 20 seconds
    run.journal(requested("1-7-0"), last_window("1-7-0"))
    keep(run, kept("1-7-0", "better", time=25), kept("0-8-0", "another prompt", time=3))
    keep(run, kept("0-7-0", "bad", time=5, score=0.0), kept("0-7-1", "good", time=15), service="reward-1")
    keep(run, kept("eval-2-7", "of evaluation", time=21))

    shown = await answer_of(root, "rollouts/0-7-0/same-prompt")

    assert (shown["prompt"], shown["ground_truth"], shown["total"], shown["note"]) == (
        *("what is one plus one?", "2"),
        *(3, ""),
    )
    assert [(one["rollout"], one["step"], one["score"], one["response"]) for one in shown["responses"]] == [
        ("0-7-0", 0, 0.0, "bad"),
        ("0-7-1", 1, 1.0, "good"),
        ("1-7-0", 2, 1.0, "better"),
    ]
    assert [one["is_listed"] for one in shown["responses"]] == [False, False, True]


async def test_an_evaluations_responses_have_the_step_of_its_weights(run: RunFolderBuilder, root: Path) -> None:
    keep(run, *(kept(f"eval-{step}-3", f"after {step}", time=step) for step in (0, 20, 40)))

    shown = await answer_of(root, "rollouts/eval-20-3/same-prompt?limit=2")

    assert [(one["step"], one["response"]) for one in shown["responses"]] == [(0, "after 0"), (40, "after 40")]
    assert shown["total"] == 3


async def test_a_prompt_that_is_not_in_the_sample_is_explained(run: RunFolderBuilder, root: Path) -> None:
    keep(run, kept("0-8-0", "another prompt", time=3))

    shown = await answer_of(root, "rollouts/0-7-0/same-prompt")

    assert shown["responses"] == []
    assert "it is not in the sample of reward.kept_prompts" in shown["note"]


async def test_the_newest_score_of_a_rollout_counts(run: RunFolderBuilder, root: Path) -> None:
    keep(run, kept("0-7-0", "later", time=9, attempt=1))
    keep(run, kept("0-7-0", "earlier", time=2, score=None), service="reward-1")

    (one,) = (await answer_of(root, "responses"))["items"]

    assert (one["score"], one["excerpt"]["after"]) == (1.0, "later")


async def test_torn_and_foreign_lines_and_links_are_left_out(run: RunFolderBuilder, root: Path) -> None:
    path = keep(run, kept("0-1-0", "one", time=1), {"rollout_id": "x"})
    with path.open("a") as file:
        file.write("no JSON\n" + '{"rollout_id": "0-2-0", "resp')
    (root / "elsewhere.jsonl").write_bytes(path.read_bytes())
    (path.parent / "reward-9.jsonl").symlink_to(root / "elsewhere.jsonl")

    assert await names(root, "") == ["0-1-0"]


async def test_new_lines_are_read_on_and_a_replaced_file_is_read_again(run: RunFolderBuilder) -> None:
    index = ResponseIndex(run.path / "responses")
    path = keep(run, kept("0-1-0", "one", time=1))
    await index.refresh()
    keep(run, kept("0-2-0", "two", time=2))
    await index.refresh()
    grown = [one.rollout for one in index.newest_first()]
    path.unlink()
    keep(run, kept("0-3-0", "three", time=3))
    await index.refresh()

    assert grown == ["0-2-0", "0-1-0"]
    assert [one.rollout for one in index.newest_first()] == ["0-3-0"]


def test_a_long_file_is_read_in_several_parts(run: RunFolderBuilder) -> None:
    path = keep(run, *(kept(f"{epoch}-7-0", "seven", time=epoch) for epoch in range(3)))
    num_bytes = path.stat().st_size

    first = new_responses(path.parent, {}, max_bytes=1)
    rest = new_responses(path.parent, first.places, max_bytes=num_bytes)

    assert [[one.rollout for one in part.kept] for part in (first, rest)] == [["0-7-0"], ["1-7-0", "2-7-0"]]
    assert (first.num_unread_bytes, rest.num_unread_bytes) == (2 * num_bytes // 3, 0)


async def test_the_oldest_are_forgotten_where_there_are_too_many(run: RunFolderBuilder) -> None:
    index = ResponseIndex(run.path / "responses", max_kept=2)
    keep(run, *(kept(f"{epoch}-7-0", "seven", time=epoch) for epoch in range(3)))
    await index.refresh()

    assert [one.rollout for one in index.of_same_prompt("0-7-0")] == ["1-7-0", "2-7-0"]
    assert (len(index), index.num_forgotten) == (2, 1)
