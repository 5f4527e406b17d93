"""Rows become tokenised prompts; those that are too long are counted, and refused or skipped."""

import json
from pathlib import Path
from typing import Any

import pytest

from learner.data.prompts import PromptLimits, PromptReader, ReadPrompts
from learner.data.shape import DataError
from learner.rollouts.prompts import Prompt
from tests.learner.builders import a_config
from tests.learner.data.letter_tokenizer import LIMIT, STOP, LetterTokenizer, a_data_row, jsonl

MESSAGES = [{"role": "user", "content": "2+2"}]
TOO_LONG = "x" * LIMIT  # with the first token one more than the limit


def a_reader(tokenizer: LetterTokenizer | None = None, **data: Any) -> PromptReader:
    section = a_config(data={"train_files": ["train.jsonl"], **data}).data
    return PromptReader(section, tokenizer or LetterTokenizer(), PromptLimits(LIMIT, frozenset({STOP}), 1000))


def only_prompt(folder: Path, prompt: Any, tokenizer: LetterTokenizer | None = None, **changes: Any) -> Prompt:
    (result,) = a_reader(tokenizer).read([jsonl(folder, a_data_row(prompt, **changes))]).prompts
    return result


def test_a_text_becomes_its_tokens_with_the_tokenizers_special_tokens(tmp_path: Path) -> None:
    prompt = only_prompt(tmp_path, "2+2", extra_info={"level": 3})

    assert (prompt.text, list(prompt.token_ids)) == ("2+2", [0, 50, 43, 50])
    assert (prompt.data_source, prompt.ground_truth) == ("sums", "4")
    assert json.loads(prompt.extra_info) == {"level": 3}


def test_chat_messages_go_through_the_template_which_writes_the_special_tokens_itself(tmp_path: Path) -> None:
    prompt = only_prompt(tmp_path, MESSAGES)

    assert prompt.text == "<user>2+2<assistant>"
    assert list(prompt.token_ids) == [ord(letter) for letter in "<user>2+2<assistant>"]


def rendered_prompt(folder: Path, prompt: Any, tokenizer: LetterTokenizer | None = None, **data: Any) -> str:
    (result,) = a_reader(tokenizer, **data).read([jsonl(folder, a_data_row(prompt))]).prompts
    return result.text


def test_the_system_prompt_is_put_before_messages_that_have_none(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "My own."}, *MESSAGES]

    assert rendered_prompt(tmp_path, MESSAGES, system_prompt="Be brief.") == "<system>Be brief.<user>2+2<assistant>"
    assert rendered_prompt(tmp_path, own, system_prompt="Be brief.") == "<system>My own.<user>2+2<assistant>"


def test_a_system_prompt_for_a_prompt_that_is_a_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: the prompt is a text, and data\.system_prompt is put before chat"):
        rendered_prompt(tmp_path, "2+2", system_prompt="Be brief.")


def test_the_chat_template_is_rendered_with_the_variables_of_the_configuration(tmp_path: Path) -> None:
    thinking = LetterTokenizer("{% if think is false %}")

    text = rendered_prompt(tmp_path, MESSAGES, thinking, chat_template_kwargs={"think": False})

    assert text == "<user>2+2[think=False]<assistant>"


def test_a_variable_that_the_chat_template_does_not_have_is_refused(tmp_path: Path) -> None:
    thinking = LetterTokenizer("{% if think is false %}")

    with pytest.raises(DataError) as caught:
        rendered_prompt(tmp_path, MESSAGES, thinking, chat_template_kwargs={"thinking": False})

    assert str(caught.value) == (
        "data.chat_template_kwargs.thinking = False: the chat template of the tokenizer in model.path has no such "
        "variable; expected one of its variables, or no such key"
    )


def test_a_stop_token_that_the_tokenizer_appends_is_no_part_of_the_prompt(tmp_path: Path) -> None:
    prompt = only_prompt(tmp_path, "2+2", LetterTokenizer(appends_stop=True))

    assert list(prompt.token_ids) == [0, 50, 43, 50]


@pytest.mark.parametrize("appends_stop", [False, True])
def test_a_text_that_ends_in_the_stop_token_itself_is_refused(tmp_path: Path, appends_stop: bool) -> None:
    with pytest.raises(DataError, match=r"line 1: the prompt ends in the stop token 1, so no response would follow"):
        only_prompt(tmp_path, "2+2$", LetterTokenizer(appends_stop=appends_stop))


def test_messages_without_a_chat_template_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: .* no chat template; expected a tokenizer with a chat template"):
        only_prompt(tmp_path, MESSAGES, LetterTokenizer(chat_template=None))


def test_messages_that_the_chat_template_refuses_are_named_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: .* does not take the messages: roles must alternate; .* are user$"):
        only_prompt(tmp_path, MESSAGES, LetterTokenizer(refuses=True))


def test_a_token_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: the prompt has the token 1044, and the model knows 1000 tokens"):
        only_prompt(tmp_path, "2+\u0414")


def test_prompts_that_are_too_long_are_counted_through_the_whole_file_and_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *map(a_data_row, ["2+2", TOO_LONG, "3+3", TOO_LONG + "yy"]))

    with pytest.raises(DataError) as caught:
        a_reader().read([path])

    assert str(caught.value) == (
        "data.train_files: 2 of 4 prompts are longer than run.max_prompt_length = 40: the longest has 43 tokens, the "
        f"first is {path}, line 2 (41 tokens); "
        'expected a larger run.max_prompt_length, or data.overlong_prompts = "skip"'
    )


def test_prompts_that_are_too_long_are_skipped_and_counted_where_they_may_be(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *map(a_data_row, [TOO_LONG, "2+2", TOO_LONG, "3+3"]))

    read = a_reader(overlong_prompts="skip").read([path, path])

    assert read.num_skipped == 4
    assert [(prompt.index, prompt.text) for prompt in read.prompts] == [(1, "2+2"), (3, "3+3"), (5, "2+2"), (7, "3+3")]


def test_nothing_but_prompts_that_are_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 1 prompts is longer .*, for nothing is left$"):
        a_reader(overlong_prompts="skip").read([jsonl(tmp_path, a_data_row(TOO_LONG))])


def test_a_prompt_as_long_as_the_limit_is_taken(tmp_path: Path) -> None:
    read = a_reader().read([jsonl(tmp_path, a_data_row(TOO_LONG[1:]))])

    assert isinstance(read, ReadPrompts)
    assert [len(prompt.token_ids) for prompt in read.prompts] == [LIMIT]
