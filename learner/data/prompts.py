"""Data rows -> tokenised prompts: rendered by the chat template, cut before a stop token, and measured."""

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jinja2

from learner.data.rows import DataRow, rows_in
from learner.data.shape import DataError, Where
from learner.rollouts.prompts import Prompt
from tppo.config.schema import DataSection
from tppo.rollout import tokens

SYSTEM_ROLES = frozenset({"system", "developer"})
Message = Mapping[str, Any]


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    chat_template: Any

    def __call__(self, text: str, /, *, add_special_tokens: bool) -> Any:
        """A mapping with `input_ids`."""
        ...

    def apply_chat_template(self, conversation: Any, /, **options: Any) -> Any:
        """The chat messages as one text."""
        ...


class PromptLimits(NamedTuple):
    """What a prompt must keep to."""

    max_prompt_length: int  # tokens
    stop_token_ids: Set[int] = frozenset()  # end a response, so no prompt may end in one
    vocabulary_size: int | None = None  # tokens that the model knows; None: not compared


class ReadPrompts(NamedTuple):
    """The prompts of some files."""

    prompts: list[Prompt]
    num_skipped: int  # because they are too long


@dataclass(slots=True)
class Overlong:
    """Counts the prompts that are too long, while their files are read."""

    key: str  # that names the files
    max_prompt_length: int
    num_rows: int = 0
    num_too_long: int = 0
    longest: int = 0
    first: str = ""

    def has(self, where: Where, num_tokens: int) -> bool:
        """Count a prompt; whether it is too long."""
        self.num_rows += 1
        if num_tokens <= self.max_prompt_length:
            return False
        self.first = self.first or f"{where} ({num_tokens} tokens)"
        self.num_too_long += 1
        self.longest = max(self.longest, num_tokens)
        return True

    def require_allowed(self, section: DataSection) -> None:
        """Raise `DataError` unless they may be skipped and something is left. Called when all rows are read."""
        if self.num_too_long and section.overlong_prompts == "refuse":
            raise DataError(f'{self}; expected a larger run.max_prompt_length, or data.overlong_prompts = "skip"')
        if self.num_rows == self.num_too_long:
            raise DataError(f"{self}; expected a larger run.max_prompt_length, for nothing is left")

    def __str__(self) -> str:
        are_longer = "is longer" if self.num_too_long == 1 else "are longer"
        return (
            f"{self.key}: {self.num_too_long} of {self.num_rows} prompts {are_longer} than "
            f"run.max_prompt_length = {self.max_prompt_length}: the longest has {self.longest} tokens, "
            f"the first is {self.first}"
        )


@dataclass(frozen=True, slots=True)
class PromptReader:
    """Turns data rows into prompts."""

    section: DataSection
    tokenizer: Tokenizer
    limits: PromptLimits

    def read(self, files: Sequence[Path]) -> ReadPrompts:
        """All training prompts. Raises `DataError` at the first row that cannot be used, or when some are too long."""
        overlong = self.overlong("data.train_files")
        prompts = [prompt for _, prompt in self.stream(files, overlong)]
        return ReadPrompts(prompts, overlong.num_too_long)

    def overlong(self, key: str) -> Overlong:
        """A count for `stream`; `key` names the files."""
        return Overlong(key, self.limits.max_prompt_length)

    def stream(self, files: Sequence[Path], overlong: Overlong) -> Iterator[tuple[DataRow, Prompt]]:
        """Each row and its prompt, without those that are too long, which are counted, and refused at the end."""
        self._require_variables_of_the_template()
        for index, row in enumerate(rows_in(self.section, files)):
            prompt = self._prompt(index, row)
            if not overlong.has(row.where, len(prompt.token_ids)):
                yield row, prompt
        overlong.require_allowed(self.section)

    def _prompt(self, index: int, row: DataRow) -> Prompt:
        text = self._rendered(row)
        token_ids = self._token_ids(row, text)
        if not token_ids:
            raise DataError(f"{row.where}: the prompt has no tokens; expected at least one")
        if token_ids[-1] in self.limits.stop_token_ids:
            raise DataError(
                f"{row.where}: the prompt ends in the stop token {token_ids[-1]}, so no response would follow; "
                "expected a chat template with a generation prompt, or a text without the stop token"
            )
        self._require_known(row, token_ids)
        return Prompt(index, text, token_ids, row.data_source, row.ground_truth, row.extra_info)

    def _require_variables_of_the_template(self) -> None:
        """A template takes any variable, so that one with a slip in its name would change nothing."""
        template = str(self.tokenizer.chat_template or "")
        for name, value in self.section.chat_template_kwargs.items():
            if not re.search(rf"\b{re.escape(name)}\b", template):
                raise DataError(
                    f"data.chat_template_kwargs.{name} = {value!r}: the chat template of the tokenizer in model.path "
                    "has no such variable; expected one of its variables, or no such key"
                )

    def _rendered(self, row: DataRow) -> str:
        """A text as it is; chat messages through the tokenizer's template."""
        if isinstance(row.prompt, str):
            self._require_no_system_prompt(row)
            return row.prompt
        if not self.tokenizer.chat_template:
            raise DataError(
                f"{row.where}: the prompt is a list of messages, and the tokenizer in model.path has no chat template; "
                "expected a tokenizer with a chat template, or prompts as plain texts"
            )
        messages = self._conversation(row.prompt)
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, **self.section.chat_template_kwargs
                )
            )
        except (jinja2.TemplateError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise DataError(
                f"{row.where}: the tokenizer's chat template does not take the messages: {error}; "
                f"their roles are {', '.join(message['role'] for message in messages)}"
            ) from None

    def _conversation(self, messages: Sequence[Message]) -> list[Message]:
        """The row's messages, behind the system prompt where they have none."""
        text = self.section.system_prompt
        if text is None or any(message["role"] in SYSTEM_ROLES for message in messages):
            return [*messages]
        return [{"role": "system", "content": text}, *messages]

    def _require_no_system_prompt(self, row: DataRow) -> None:
        if self.section.system_prompt is not None:
            raise DataError(
                f"{row.where}: the prompt is a text, and data.system_prompt is put before chat messages; expected a "
                "list of messages, or no data.system_prompt"
            )

    def _token_ids(self, row: DataRow, text: str) -> "array[int]":
        """A chat template writes the special tokens itself; a tokenizer that appends the stop token is held back."""
        if not isinstance(row.prompt, str):
            return self._encoded(text, add_special_tokens=False)
        token_ids = self._encoded(text, add_special_tokens=True)
        if token_ids and token_ids[-1] in self.limits.stop_token_ids:
            plain = self._encoded(text, add_special_tokens=False)
            if token_ids[-len(plain) :] != plain:
                return token_ids[:-1]
        return token_ids

    def _encoded(self, text: str, *, add_special_tokens: bool) -> "array[int]":
        return tokens(self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def _require_known(self, row: DataRow, token_ids: "array[int]") -> None:
        size = self.limits.vocabulary_size
        if size is not None and max(token_ids) >= size:
            raise DataError(
                f"{row.where}: the prompt has the token {max(token_ids)}, and the model knows {size} tokens; "
                "expected the tokenizer of this model in model.path"
            )
