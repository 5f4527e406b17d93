"""The bodies of answers, whole and in chunks, in the shapes of OpenAI's API."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from services.generation.endpoint.sampling import SampledToken

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResponsePiece:
    """What is new of one choice: text that is certain, and the tokens that came with it."""

    index: int
    text: str
    sampled: Sequence[SampledToken]
    finish_reason: str | None = None  # of the last piece


@dataclass(slots=True)
class ResponseChoice:
    """One response so far."""

    index: int
    text: str = ""
    sampled: list[SampledToken] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, piece: ResponsePiece) -> None:
        """Take what is new."""
        self.text += piece.text
        self.sampled.extend(piece.sampled)
        self.finish_reason = piece.finish_reason


@dataclass(frozen=True, slots=True)
class Shape:
    """How the answers to one request look."""

    model: str
    is_chat: bool
    has_logprobs: bool
    has_token_ids: bool
    spelling_of: Callable[[int], str]
    prompt_tokens: Sequence[Sequence[int]]
    num_per_prompt: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[ResponseChoice]) -> Json:
        """The answer without streaming."""
        sampled = [token for choice in choices for token in choice.sampled]
        return {
            **self._head("chat.completion" if self.is_chat else "text_completion", sampled),
            "choices": [self._choice(choice) for choice in choices],
            "usage": self.usage(choices),
            **self._prompt_of_chat(),
        }

    def first_chunks(self) -> list[Json]:
        """What a stream of a chat begins with: who speaks."""
        if not self.is_chat:
            return []
        delta = {"role": "assistant", "content": ""}
        choices = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            for index in range(self.num_per_prompt)
        ]
        return [{**self._head("chat.completion.chunk", ()), "choices": choices, **self._prompt_of_chat()}]

    def chunk(self, piece: ResponsePiece, *, is_first: bool) -> Json:
        """One piece of a stream."""
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        found = self._choice(ResponseChoice(piece.index, piece.text, list(piece.sampled), piece.finish_reason))
        if self.is_chat:
            found["delta"] = {"content": found.pop("message")["content"]}
        elif not is_first:
            found.pop("prompt_token_ids", None)
        return {**self._head(kind, piece.sampled), "choices": [found]}

    def last_chunk(self, choices: Sequence[ResponseChoice]) -> Json:
        """The numbers of tokens."""
        sampled = [token for choice in choices for token in choice.sampled]
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return {**self._head(kind, sampled), "choices": [], "usage": self.usage(choices)}

    def usage(self, choices: Sequence[ResponseChoice]) -> Json:
        """The numbers of tokens."""
        num_prompt = sum(len(prompt) for prompt in self.prompt_tokens)
        num_sampled = sum(len(choice.sampled) for choice in choices)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_sampled,
            "total_tokens": num_prompt + num_sampled,
        }

    def _head(self, kind: str, sampled: Sequence[SampledToken]) -> Json:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint(sampled),
        }

    def _choice(self, choice: ResponseChoice) -> Json:
        body: Json = {"index": choice.index, "finish_reason": choice.finish_reason}
        body |= {"message": {"role": "assistant", "content": choice.text}} if self.is_chat else {"text": choice.text}
        logprobs = self._of_chat if self.is_chat else self._of_text
        body["logprobs"] = logprobs(choice.sampled) if self.has_logprobs else None
        if self.has_token_ids:
            body["token_ids"] = [one.token for one in choice.sampled]
            if not self.is_chat:
                body["prompt_token_ids"] = list(self.prompt_tokens[choice.index // self.num_per_prompt])
        return body

    def _prompt_of_chat(self) -> Json:
        is_due = self.is_chat and self.has_token_ids
        return {"prompt_token_ids": list(self.prompt_tokens[0])} if is_due else {}

    def _of_chat(self, sampled: Sequence[SampledToken]) -> Json:
        spelled = [(self.spelling_of(one.token), one.logprob) for one in sampled]
        return {
            "content": [
                {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
                for text, logprob in spelled
            ]
        }

    def _of_text(self, sampled: Sequence[SampledToken]) -> Mapping[str, Any]:
        spelled = [self.spelling_of(one.token) for one in sampled]
        ends = list(accumulate(map(len, spelled), initial=0))
        return {
            "tokens": spelled,
            "token_logprobs": [one.logprob for one in sampled],
            "top_logprobs": None,
            "text_offset": ends[:-1],
        }


def fingerprint(sampled: Sequence[SampledToken]) -> str | None:
    """Which weights sampled the tokens: `policy-version-12`, or `policy-version-11-12`; None without tokens."""
    versions = sorted({one.policy_version for one in sampled})
    return "-".join(["policy-version", *map(str, versions[:1] + versions[1:][-1:])]) if versions else None
