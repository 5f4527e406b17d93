"""A tokenizer that can be read, and data rows in a file."""

import json
from pathlib import Path
from typing import Any

import jinja2

LIMIT = 40
STOP = 1


class LetterTokenizer:
    """One token per character, behind a first token of its own, and before the stop token, with special tokens."""

    def __init__(self, chat_template: str | None = "template", *, appends_stop: bool = False, refuses: bool = False):
        self.chat_template = chat_template
        self._appended = [STOP] * appends_stop
        self._refuses = refuses

    def __call__(self, text: str, /, *, add_special_tokens: bool) -> dict[str, list[int]]:
        letters = [STOP if letter == "$" else ord(letter) for letter in text]
        return {"input_ids": [0, *letters, *self._appended] if add_special_tokens else letters}

    def apply_chat_template(self, conversation: Any, /, **options: Any) -> str:
        assert (options.pop("tokenize"), options.pop("add_generation_prompt")) == (False, True)
        if self._refuses:
            raise jinja2.TemplateError("roles must alternate")
        variables = "".join(f"[{name}={value!r}]" for name, value in options.items())
        return (
            "".join(f"<{message['role']}>{message['content']}" for message in conversation) + variables + "<assistant>"
        )


def a_data_row(prompt: Any = "2+2", **changes: Any) -> dict[str, Any]:
    return {"prompt": prompt, "data_source": "sums", "reward_model": {"ground_truth": "4"}} | changes


def jsonl(folder: Path, *rows: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
