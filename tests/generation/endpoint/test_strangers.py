"""What a caller can make the endpoint do: nothing without the token, and never more than it has room for."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from services.generation.endpoint.app import MAX_BODY_BYTES
from services.generation.endpoint.completions import Limits
from tests.generation.endpoint.serving import CAPACITY, RUN, Endpoint, an_endpoint
from tests.support.waiting import until
from tppo.process.cancellation import cancel_all

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "2 + 2"}]
LONG = {"prompt": [5, 6, 7], "max_tokens": CAPACITY - 3}

REFUSED: dict[str, tuple[str, dict[str, Any], str, str | None]] = {
    "another model": (COMPLETIONS, {"model": "gpt-4"}, "model = 'gpt-4': expected 'quickstart'", "model"),
    "top_p": (COMPLETIONS, {"top_p": 0.9}, "top_p cannot be had: the policy is sampled as in training", "top_p"),
    "top_k": (COMPLETIONS, {"top_k": 20}, "expected -1 or 0, or no top_k", "top_k"),
    "a penalty": (CHAT, {"frequency_penalty": 0.5}, "expected 0, or no frequency_penalty", "frequency_penalty"),
    "a bias": (COMPLETIONS, {"logit_bias": {"5": 10}}, "logit_bias cannot be had", "logit_bias"),
    "tools": (CHAT, {"tools": [{"type": "function"}]}, "tools cannot be had", "tools"),
    "a format": (CHAT, {"response_format": {"type": "json"}}, "response_format cannot be had", "response_format"),
    "logprobs of other tokens": (COMPLETIONS, {"logprobs": 5}, "logprobs: Input should be less than", "logprobs"),
    "top logprobs": (CHAT, {"logprobs": True, "top_logprobs": 5}, "top_logprobs cannot be had", "top_logprobs"),
    "an unknown parameter": (COMPLETIONS, {"mirostat": 2}, "mirostat: unknown parameter", "mirostat"),
    "a tiny temperature": (COMPLETIONS, {"temperature": 1e-30}, "expected 0, which is greedy, or 0.01", "temperature"),
    "a negative temperature": (COMPLETIONS, {"temperature": -1}, "greater than or equal to 0", "temperature"),
    "no tokens": (COMPLETIONS, {"max_tokens": 0}, "max_tokens: Input should be greater than", "max_tokens"),
    "too many tokens": (COMPLETIONS, {"max_tokens": 126}, "expected at most 128 together", "max_tokens"),
    "astronomically many": (COMPLETIONS, {"max_tokens": 10**30}, "max_tokens: ", "max_tokens"),
    "too long a prompt": (COMPLETIONS, {"prompt": [5] * 128}, "128 tokens of the prompt", "max_tokens"),
    "no prompt": (COMPLETIONS, {"prompt": ""}, "prompt", "prompt"),
    "an empty list": (COMPLETIONS, {"prompt": []}, "prompt", "prompt"),
    "a negative token": (COMPLETIONS, {"prompt": [-1]}, "prompt", "prompt"),
    "a token beyond the vocabulary": (COMPLETIONS, {"prompt": [10**6]}, "token ids 1000000..1000000", None),
    "true as a token": (COMPLETIONS, {"prompt": [True]}, "prompt", "prompt"),
    "mixed prompts": (COMPLETIONS, {"prompt": ["a", [5]]}, "prompt", "prompt"),
    "more than the room": (COMPLETIONS, {"n": 9}, "9 completions; expected at most 8", "n"),
    "prompts times samples": (COMPLETIONS, {"prompt": ["a", "b", "c"], "n": 3}, "9 completions", "n"),
    "an empty stop": (COMPLETIONS, {"stop": ""}, "stop", "stop"),
    "seventeen stops": (COMPLETIONS, {"stop": ["x"] * 17}, "stop", "stop"),
    "no message": (CHAT, {"messages": []}, "messages: List should have at least 1 item", "messages"),
    "an image": (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0", "messages"),
    "a message without role": (CHAT, {"messages": [{"content": "a"}]}, "messages.0.role: Field required", "messages"),
    "a template's own variable": (
        *(CHAT, {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}),
        *("chat_template_kwargs.chat_template is set by the endpoint", "chat_template_kwargs"),
    ),
    "nested variables": (CHAT, {"chat_template_kwargs": {"a": [1]}}, "chat_template_kwargs.a", "chat_template_kwargs"),
}  # fmt: skip
GARBLED = {
    "nothing": b"",
    "no JSON": b"prompt=a",
    "a list": b"[]",
    "not a number": b'{"model": "quickstart", "prompt": "a", "temperature": NaN}',
    "half a character": b'{"model": "quickstart", "prompt": "\\ud83d"}',
    "no UTF-8": b'{"model": "quickstart", "prompt": "\xff"}',
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a number of many digits": b'{"max_tokens": ' + b"9" * 100_000 + b"}",
}


async def test_what_cannot_be_had_is_refused_in_one_sentence_in_openai_s_shape(folder: Path) -> None:
    async with an_endpoint(folder) as endpoint:
        for name, (path, changes, sentence, param) in REFUSED.items():
            body = {"prompt": [5, 6, 7]} if path == COMPLETIONS else {"messages": MESSAGES}
            answer = await endpoint.client.post(path, json={"model": RUN, **body, **changes})
            assert answer.status_code in (400, 404), name
            error = answer.json()["error"]
            assert sentence in error["message"], name
            assert "\n" not in error["message"], name
            assert (error["type"], error["param"]) == ("invalid_request_error", param), name

        assert (await endpoint.post(COMPLETIONS, prompt="a", max_tokens=1)).status_code == 200


async def test_a_garbled_body_is_refused_and_the_next_request_is_served(folder: Path) -> None:
    async with an_endpoint(folder) as endpoint:
        for name, body in GARBLED.items():
            answer = await endpoint.client.post(COMPLETIONS, content=body)
            assert answer.status_code == 400, name
            assert answer.json()["error"]["type"] == "invalid_request_error", name
        too_long = await endpoint.client.post(COMPLETIONS, content=b" " * (MAX_BODY_BYTES + 1))

        assert too_long.status_code == 413
        assert (await endpoint.post(COMPLETIONS, prompt="a", max_tokens=1)).status_code == 200


async def test_parameters_that_change_nothing_are_taken(folder: Path) -> None:
    neutral = {
        "top_p": 1.0, "top_k": -1, "presence_penalty": 0, "logit_bias": {}, "user": "me", "echo": False,
        "best_of": 1, "suffix": None, "stop": None, "store": False, "metadata": {"a": "b"},
    }  # fmt: skip
    async with an_endpoint(folder) as endpoint:
        answer = await endpoint.post(COMPLETIONS, prompt="a", max_tokens=1, **neutral)

    assert answer.status_code == 200


async def test_without_the_token_nothing_but_the_health_is_answered(folder: Path) -> None:
    async with an_endpoint(folder) as endpoint:
        for authorization in ("", "Bearer", "Bearer another", "Basic YTpi", "a-token-of-clients"):
            headers = {"Authorization": authorization}
            answers = [
                await endpoint.client.get("/v1/models", headers=headers),
                await endpoint.client.get(f"/v1/models/{RUN}", headers=headers),
                await endpoint.client.post(COMPLETIONS, json={"model": RUN, "prompt": "a"}, headers=headers),
                await endpoint.client.post(CHAT, content=b"{", headers=headers),
            ]
            assert [answer.status_code for answer in answers] == [401] * 4, authorization
            assert {answer.json()["error"]["code"] for answer in answers} == {"invalid_api_key"}
            assert (await endpoint.client.get("/healthz", headers=headers)).status_code == 200


async def test_more_than_there_is_room_for_is_refused_until_others_have_ended(folder: Path) -> None:
    async with an_endpoint(folder) as endpoint:
        with all_slots_taken(endpoint):
            waiting = asyncio.create_task(endpoint.post(COMPLETIONS, n=8, **LONG))
            await until(lambda: endpoint.slots.num_waiting == 8, "eight guests that wait")
            refused = await endpoint.post(COMPLETIONS, prompt="a")
            await cancel_all([waiting])  # a client that hangs up leaves its places
            await until(lambda: endpoint.slots.num_waiting == 0, "their leaving")
            one_more = asyncio.create_task(endpoint.post(COMPLETIONS, prompt="a"))
            await until(lambda: endpoint.slots.num_waiting == 1, "a guest that waits")
            await cancel_all([one_more])

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


async def test_a_client_that_hangs_up_frees_its_slot_whole_and_streamed(folder: Path) -> None:
    async with an_endpoint(folder, num_slots=1) as endpoint:
        for streamed in (False, True):
            _, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
            writer.write(_request({"model": RUN, "stream": streamed, "temperature": 0, **LONG}))
            await until(lambda: endpoint.slots.num_guests == 1, "a guest in the slot")
            writer.close()
            await until(lambda: endpoint.slots.num_guests == 0, "its leaving")
            answer = await endpoint.post(COMPLETIONS, prompt="a", max_tokens=1)
            assert answer.status_code == 200


async def test_a_completion_that_finds_no_slot_in_time_is_refused_and_a_stream_says_so(folder: Path) -> None:
    limits = Limits(CAPACITY, max_requests=8, timeout_seconds=0.05)
    async with an_endpoint(folder, limits=limits) as endpoint:
        with all_slots_taken(endpoint):
            answer = await endpoint.post(COMPLETIONS, prompt="a")
            streamed = await endpoint.post(COMPLETIONS, prompt="a", stream=True)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert json.loads(events[0])["error"]["code"] == "timeout"
    assert events[1:] == ["[DONE]"]


def _request(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a-token-of-clients\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


@contextmanager
def all_slots_taken(endpoint: Endpoint) -> Iterator[None]:
    """Windows of the run are in all slots."""
    with ExitStack() as windows:
        for _ in range(endpoint.engine.num_slots):
            windows.enter_context(endpoint.slots.window())
        yield
