"""OpenAI's own Python client at the endpoint, used as its documentation says."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from services.generation.endpoint.completions import Limits
from tests.generation.endpoint.serving import CAPACITY, LIMITS, RUN, TOKEN, Endpoint, an_endpoint

if find_spec("openai") is None and os.environ.get("CI") != "true":
    pytest.skip("openai is not installed; expected pip install -e '.[dev]'", allow_module_level=True)

import openai

MESSAGES: Any = [{"role": "user", "content": "Janet has 3 apples."}]
Clients = Callable[..., AbstractAsyncContextManager[tuple[openai.AsyncOpenAI, Endpoint]]]


@pytest.fixture
def clients(folder: Path) -> Clients:
    @asynccontextmanager
    async def connected(
        *, token: str = TOKEN, limits: Limits = LIMITS, **options: Any
    ) -> AsyncIterator[tuple[openai.AsyncOpenAI, Endpoint]]:
        async with (
            an_endpoint(folder, limits=limits, **options) as endpoint,
            openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{endpoint.port}/v1", api_key=token, max_retries=0) as client,
        ):
            yield client, endpoint

    return connected


async def test_models_lists_the_run_with_its_policys_version(clients: Clients) -> None:
    async with clients() as (client, _):
        found = [model async for model in client.models.list()]
        named = await client.models.retrieve(RUN)

    assert [(model.id, model.policy_version) for model in (*found, named)] == [(RUN, 7)] * 2


async def test_a_chat_and_its_stream_have_the_same_text_and_log_probabilities(clients: Clients) -> None:
    options: dict[str, Any] = {"model": RUN, "messages": MESSAGES, "max_tokens": 8, "seed": 3, "logprobs": True}
    async with clients() as (client, _):
        whole = await client.chat.completions.create(**options)
        stream = await client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]

    (choice,) = whole.choices
    *pieces, last = chunks
    parts = [piece.choices[0] for piece in pieces]
    assert "".join(part.delta.content or "" for part in parts) == choice.message.content
    assert [part.finish_reason for part in parts][-1] == choice.finish_reason == "length"
    streamed = [one.logprob for part in parts if part.logprobs for one in part.logprobs.content]
    assert streamed == [one.logprob for one in choice.logprobs.content]
    assert len(streamed) == last.usage.completion_tokens == whole.usage.completion_tokens == 8
    assert whole.system_fingerprint == "policy-version-7"


async def test_token_ids_come_by_extra_body_and_continue_the_completion(clients: Clients) -> None:
    options: dict[str, Any] = {"model": RUN, "temperature": 0, "extra_body": {"return_token_ids": True}}
    async with clients() as (client, _):
        whole = (await client.completions.create(prompt="Janet has", max_tokens=6, **options)).choices[0]
        begun = (await client.completions.create(prompt="Janet has", max_tokens=3, logprobs=0, **options)).choices[0]
        rest = (
            await client.completions.create(prompt=[*begun.prompt_token_ids, *begun.token_ids], max_tokens=3, **options)
        ).choices[0]

    assert [*begun.token_ids, *rest.token_ids] == whole.token_ids
    assert len(begun.logprobs.token_logprobs) == 3
    assert rest.logprobs is None


@pytest.mark.parametrize(
    ("options", "token", "error", "code"),
    [
        ({}, "another", openai.AuthenticationError, "invalid_api_key"),
        ({"model": "gpt-4"}, TOKEN, openai.NotFoundError, "model_not_found"),
        ({"top_p": 0.5}, TOKEN, openai.BadRequestError, "unsupported_parameter"),
        ({"max_tokens": CAPACITY}, TOKEN, openai.BadRequestError, "context_length_exceeded"),
    ],
)
async def test_what_is_refused_raises_the_clients_own_error(
    clients: Clients, options: dict[str, Any], token: str, error: type[openai.APIStatusError], code: str
) -> None:
    async with clients(token=token) as (client, _):
        with pytest.raises(error) as raised:
            await client.chat.completions.create(**{"model": RUN, "messages": MESSAGES, "max_tokens": 4, **options})

    assert raised.value.code == code


async def test_while_windows_fill_all_slots_a_completion_waits_for_its_time_and_may_be_retried(
    clients: Clients,
) -> None:
    limits = Limits(CAPACITY, max_requests=1, timeout_seconds=0.2)
    async with clients(num_slots=1, limits=limits) as (client, endpoint):
        with ExitStack() as stack:
            stack.enter_context(endpoint.slots.window())
            with pytest.raises(openai.InternalServerError) as raised:
                await client.completions.create(model=RUN, prompt="a", max_tokens=2)
        answered = await client.completions.create(model=RUN, prompt="a", max_tokens=2)

    assert raised.value.status_code == 503
    assert raised.value.response.headers["retry-after"] == "1"
    assert answered.usage.completion_tokens == 2


async def test_more_completions_than_are_held_raise_the_clients_rate_limit_error(clients: Clients) -> None:
    async with clients(limits=Limits(CAPACITY, max_requests=2, timeout_seconds=60.0)) as (client, endpoint):
        with ExitStack() as stack:
            stack.enter_context(endpoint.slots.held())
            stream = await client.completions.create(model=RUN, prompt="a", max_tokens=2, n=2, stream=True)
            with pytest.raises(openai.RateLimitError, match="there is room for 2") as raised:
                await client.completions.create(model=RUN, prompt="a", max_tokens=2)
        pieces = [piece async for piece in stream]

    assert raised.value.response.headers["retry-after"] == "1"
    assert {piece.choices[0].index for piece in pieces} == {0, 1}
