"""Prompts of requests -> tokens, by the policy's own tokenizer and chat template; in a thread of the endpoint's own."""

import asyncio
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from services.generation.endpoint.errors import EndpointError, bad_request
from services.generation.endpoint.requests import ChatBody, CompletionBody
from tppo.config import ConfigError
from tppo.config.sections.training import SET_BY_THE_LEARNER
from tppo.models.tokenizer import load_tokenizer, stop_token_ids
from tppo.rollout import tokens

T = TypeVar("T")


class PromptTokens:
    """Reads the tokenizer when the first request comes: most runs have none."""

    def __init__(self, model: Path, template_kwargs: Mapping[str, Any]) -> None:
        """`template_kwargs`: variables of the chat template, as in training."""
        self._model = model
        self._template_kwargs = template_kwargs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="endpoint")

    async def of_completion(self, body: CompletionBody) -> list["array[int]"]:
        """Of each prompt."""
        return await self._in_thread(lambda: [self._of(prompt) for prompt in body.prompts])

    async def of_chat(self, body: ChatBody) -> "array[int]":
        """Of the conversation, with the beginning of the answer."""
        return await self._in_thread(lambda: self._rendered(body))

    async def stop_token_ids(self) -> tuple[int, ...]:
        """What ends a response, as in training."""
        return await self._in_thread(lambda: self._stops)

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Of a response."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def spelling_of(self, token: int) -> str:
        """Of one token, special ones too."""
        return str(self._tokenizer.decode([token]))

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self._model)

    @cached_property
    def _stops(self) -> tuple[int, ...]:
        return stop_token_ids(self._model, self._tokenizer)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except ConfigError as error:
            raise EndpointError(HTTPStatus.SERVICE_UNAVAILABLE, f"no tokenizer for the policy: {error}") from None

    def _of(self, prompt: str | list[int]) -> "array[int]":
        if isinstance(prompt, str):
            found = tokens(self._tokenizer(prompt, add_special_tokens=True)["input_ids"])
            if len(found) > 1 and found[-1] in self._stops:  # some tokenizers append it, and no response would follow
                return found[:-1]
            return found
        return tokens(prompt)

    def _rendered(self, body: ChatBody) -> "array[int]":
        tokenizer = self._tokenizer
        if not tokenizer.chat_template:
            raise bad_request("the policy's tokenizer has no chat template; expected /v1/completions", param="messages")
        for name in SET_BY_THE_LEARNER & body.chat_template_kwargs.keys():
            raise bad_request(
                f"chat_template_kwargs.{name} is set by the endpoint; expected variables of the chat template",
                param="chat_template_kwargs",
            )
        messages = [message.plain() for message in body.messages]
        variables = {**self._template_kwargs, **body.chat_template_kwargs}
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
        except Exception as error:  # templates raise whatever they come upon: their own errors, TypeError, KeyError
            cause = f"the chat template does not take the messages: {error}"
            raise bad_request(cause, param="messages") from None
        return tokens(tokenizer(str(text), add_special_tokens=False)["input_ids"])
