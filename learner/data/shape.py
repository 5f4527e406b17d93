"""What a row's values must look like before anything is computed with them; each mistake is one sentence."""

import json
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

V = TypeVar("V")
KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
MESSAGE = '{"role": "user", "content": "..."}'
ENCODED_MESSAGES = re.compile(r'\s*\[\s*\{\s*"(role|content)"\s*:')


class DataError(ValueError):
    """One sentence: the file, the row, and what was expected there."""


class Where(NamedTuple):
    """A row's place, for error messages; counted from 1."""

    file: Path
    number: int
    unit: str  # line, or row of a table

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"


def kind_of(value: Any) -> str:
    """The value's type in JSON's words."""
    return "null" if value is None else KINDS.get(type(value), f"a {type(value).__name__}")


def shown(value: Any) -> str:
    """The value, shortened to fit a sentence."""
    return reprlib.repr(value)


def require_unicode(where: Where, name: str, value: V) -> V:
    r"""The value; no text in it may hold half of a character, which JSON's "\ud83d" can be and UTF-8 cannot."""
    for place, text in _texts(name, value):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ascii(text[error.start])
            raise DataError(
                f"{where}: {place} holds {half} at position {error.start}, half of a surrogate pair; "
                "expected text that UTF-8 can hold"
            ) from None
    return value


def require_prompt(where: Where, name: str, prompt: Any) -> Any:
    """The prompt, a text or chat messages; these may come as a text that holds them in JSON."""
    if isinstance(prompt, str) and ENCODED_MESSAGES.match(prompt):
        prompt = _decoded_messages(where, name, prompt)
    if isinstance(prompt, list):
        for number, message in enumerate(prompt, 1):
            _require_message(f"{where}: message {number} of {name}", message)
        if not any(message.get("content") for message in prompt):
            raise DataError(f"{where}: {name} has only empty messages; expected content")
    elif not isinstance(prompt, str):
        raise DataError(f"{where}: {name} is {kind_of(prompt)}; expected a text, or a list of messages {MESSAGE}")
    return require_unicode(where, name, prompt)


def _decoded_messages(where: Where, name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: {name} begins as chat messages in JSON, and is not JSON: {error}; expected a whole list of "
            f"messages {MESSAGE}, or another beginning of the text"
        ) from None


def _require_message(place: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise DataError(f"{place} is {kind_of(message)}, {shown(message)}; expected {MESSAGE}")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise DataError(f"{place} has no role (got {', '.join(map(str, message))}); expected {MESSAGE}")
    if isinstance(content, list):
        raise DataError(f"{place} has its content in {len(content)} parts; expected one text (no images, no audio)")
    calls_a_tool = content is None and message.get("tool_calls")
    if not isinstance(content, str) and not calls_a_tool:
        raise DataError(f"{place} has content {shown(content)}; expected a text")


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Each text in a value, with its place."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(f"a key of {name}", key)
            yield from _texts(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _texts(f"{name}[{number}]", item)
