"""What a client of OpenAI's API gets of the policy under training, whole and streamed."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.generation.endpoint.serving import RUN, Endpoint, an_endpoint
from tests.generation.tiny_models import a_request, expected_logprobs
from tppo.rollout import FinishReason, VersionSpan, Window, logprobs, tokens

PROMPT = "Janet has 3 apples."
MESSAGES = [{"role": "user", "content": PROMPT}]


async def chunks_of(endpoint: Endpoint, path: str, **body: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which ends as OpenAI's do."""
    async with endpoint.client.stream("POST", path, json={"model": RUN, "stream": True, **body}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_a_completion_has_its_text_its_reason_its_usage_and_the_policy_s_version(folder: Path) -> None:
    async with an_endpoint(folder) as endpoint:
        answer = (await endpoint.post("/v1/completions", prompt=PROMPT, max_tokens=6, seed=1)).json()

    (choice,) = answer["choices"]
    assert (answer["object"], answer["model"], answer["system_fingerprint"]) == (
        "text_completion",
        RUN,
        "policy-version-7",
    )
    assert choice["text"]
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "length", None)
    usage = answer["usage"]
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6


async def test_the_same_seed_draws_the_same_tokens_and_each_of_n_draws_its_own(folder: Path) -> None:
    async with an_endpoint(folder) as endpoint:
        first, second = [
            (await endpoint.post("/v1/completions", prompt=PROMPT, max_tokens=8, seed=3, n=2)).json() for _ in range(2)
        ]

    texts = [choice["text"] for choice in first["choices"]]
    assert texts == [choice["text"] for choice in second["choices"]]
    assert texts[0] != texts[1]


async def test_logprobs_are_those_of_the_policy_for_the_token_ids(folder: Path) -> None:
    body = {"prompt": [5, 6, 7], "max_tokens": 6, "temperature": 0.7, "logprobs": 0, "return_token_ids": True}
    async with an_endpoint(folder) as endpoint:
        (choice,) = (await endpoint.post("/v1/completions", **body)).json()["choices"]

    assert choice["prompt_token_ids"] == [5, 6, 7]
    found = choice["logprobs"]
    window = window_of(choice["token_ids"], found["token_logprobs"])
    request = a_request(prompt_tokens=tokens([5, 6, 7]), temperature=0.7)
    assert found["token_logprobs"] == pytest.approx(
        expected_logprobs(endpoint.model, request, window).tolist(), abs=1e-4
    )
    assert "".join(found["tokens"]) == choice["text"]
    assert found["text_offset"][:2] == [0, len(found["tokens"][0])]


def window_of(token_ids: list[int], found: list[float]) -> Window:
    spans = (VersionSpan(7, len(token_ids)),)
    return Window("r", 0, tokens(token_ids), logprobs(found), spans, FinishReason.LENGTH)


async def test_a_chat_is_rendered_by_the_policy_s_own_template(folder: Path) -> None:
    rendered = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    common: dict[str, Any] = {"max_tokens": 5, "temperature": 0, "return_token_ids": True}
    async with an_endpoint(folder) as endpoint:
        chat = (await endpoint.post("/v1/chat/completions", messages=MESSAGES, logprobs=True, **common)).json()
        parts = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
        in_parts = (await endpoint.post("/v1/chat/completions", messages=parts, **common)).json()
        plain = (await endpoint.post("/v1/completions", prompt=rendered, **common)).json()

    (choice,), (of_plain,) = chat["choices"], plain["choices"]
    assert chat["object"] == "chat.completion"
    assert choice["message"] == {"role": "assistant", "content": of_plain["text"]}
    assert chat["prompt_token_ids"] == of_plain["prompt_token_ids"] == in_parts["prompt_token_ids"]
    assert choice["token_ids"] == of_plain["token_ids"]
    content = choice["logprobs"]["content"]
    assert bytes(byte for one in content for byte in one["bytes"]).decode() == of_plain["text"]


async def test_a_stream_has_the_same_text_and_tokens_as_the_whole_answer(folder: Path) -> None:
    body: dict[str, Any] = {"prompt": [PROMPT, "2 + 2"], "max_tokens": 9, "seed": 5, "n": 2, "return_token_ids": True}
    async with an_endpoint(folder) as endpoint:
        whole = (await endpoint.post("/v1/completions", logprobs=0, **body)).json()
        chunks = await chunks_of(
            endpoint, "/v1/completions", logprobs=0, stream_options={"include_usage": True}, **body
        )

    *pieces, last = chunks
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    for choice in whole["choices"]:
        own = [chunk["choices"][0] for chunk in pieces if chunk["choices"][0]["index"] == choice["index"]]
        assert "".join(one["text"] for one in own) == choice["text"]
        assert [token for one in own for token in one["token_ids"]] == choice["token_ids"]
        assert [one["finish_reason"] for one in own] == [None] * (len(own) - 1) + ["length"]
        assert own[0]["prompt_token_ids"] == choice["prompt_token_ids"]
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}


async def test_a_streamed_chat_says_first_who_speaks(folder: Path) -> None:
    body: dict[str, Any] = {"messages": MESSAGES, "max_completion_tokens": 6, "temperature": 0, "logprobs": True}
    async with an_endpoint(folder) as endpoint:
        whole = (await endpoint.post("/v1/chat/completions", **body)).json()
        first, *pieces = await chunks_of(endpoint, "/v1/chat/completions", **body)

    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    (choice,) = whole["choices"]
    assert "".join(one["choices"][0]["delta"]["content"] for one in pieces) == choice["message"]["content"]
    streamed = [entry for one in pieces for entry in one["choices"][0]["logprobs"]["content"]]
    assert streamed == choice["logprobs"]["content"]
    assert {one["system_fingerprint"] for one in pieces} == {"policy-version-7", None}


async def test_a_text_of_stop_ends_a_response_before_it_whole_and_streamed(folder: Path) -> None:
    async with an_endpoint(folder) as endpoint:
        body: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 12, "seed": 2}
        whole = (await endpoint.post("/v1/completions", **body)).json()["choices"][0]["text"]
        stop = whole[len(whole) // 2 :][:3]
        cut = (await endpoint.post("/v1/completions", stop=[stop, "never there"], **body)).json()
        chunks = await chunks_of(endpoint, "/v1/completions", stop=stop, **body)

    (choice,) = cut["choices"]
    assert (choice["text"], choice["finish_reason"]) == (whole.partition(stop)[0], "stop")
    assert cut["usage"]["completion_tokens"] <= 12
    assert "".join(one["choices"][0]["text"] for one in chunks) == choice["text"]


async def test_the_model_is_the_run_with_the_version_of_its_policy(folder: Path) -> None:
    async with an_endpoint(folder) as endpoint:
        (model,) = (await endpoint.client.get("/v1/models")).json()["data"]
        by_name = await endpoint.client.get(f"/v1/models/{RUN}")
        other = await endpoint.client.get("/v1/models/gpt-4/turbo")

    assert (model["id"], model["policy_version"], model["max_model_len"]) == (RUN, 7, 128)
    assert by_name.json() == model
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")


async def test_before_the_first_weights_there_is_nothing_to_sample_from(folder: Path) -> None:
    async with an_endpoint(folder, has_weights=False) as endpoint:
        answer: httpx.Response = await endpoint.post("/v1/completions", prompt=PROMPT)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["message"] == "the learner has sent no weights yet"
