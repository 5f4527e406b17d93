"""Asks an endpoint for responses and a reward service for their scores, many at a time.

`Asker._work` (as many as there are at once): consumes the places that are left / waits for an answer, and for the
back-off where there is no room / unblocked by the endpoint, the reward service, and both deadlines / produces lines.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from services.local.evaluate.benchmarks import BenchmarkProblem
from services.local.evaluate.responses import REFUSED, Place
from tppo.process.backoff import Backoff
from tppo.process.cancellation import cancel_all
from tppo.rollout import FinishReason, RewardRequest, ScoreStatus
from tppo.run_folder.json_lines import Fields
from tppo.scoring.remote import RemoteScorer

MAX_REFUSALS = 100  # of one response, one after the other, for want of room or of an answer
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class EndpointRefusedError(Exception):
    """An answer that no retry changes."""


class TooLongError(Exception):
    """The endpoint has no room for the prompt and a response."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How every response is sampled."""

    model: str
    temperature: float
    max_tokens: int
    seed: int
    template_kwargs: Mapping[str, Any]
    system_prompt: str | None
    has_chat_template: bool

    def body(self, problem: BenchmarkProblem, sample: int) -> tuple[str, dict[str, Any]]:
        """(address, body) of the request."""
        common = {
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed + 1_000_003 * sample + problem.number,
            "return_token_ids": True,
        }
        if isinstance(problem.prompt, str) or not self.has_chat_template:
            return "completions", {**common, "prompt": problem.text}
        messages = [dict(message) for message in problem.prompt]
        if self.system_prompt is not None and all(message.get("role") != "system" for message in messages):
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        return "chat/completions", {**common, "messages": messages, "chat_template_kwargs": dict(self.template_kwargs)}


class Asker:
    """Goes through the places that are left."""

    def __init__(
        self,
        clients: Sequence[httpx.AsyncClient],
        scorer: RemoteScorer,
        sampling: Sampling,
        problems: Sequence[BenchmarkProblem],
        *,
        take: Callable[[Fields], None],
    ) -> None:
        """`clients` have the endpoints' addresses and the token; `take` gets a line for each response."""
        self._clients = itertools.cycle(clients)
        self._scorer = scorer
        self._sampling = sampling
        self._problems = {problem.number: problem for problem in problems}
        self._take = take

    async def run(self, places: Iterator[Place], known: Mapping[Place, Fields], *, num_at_once: int) -> None:
        """Until none is left. Raises what the first that fails raises."""
        workers = [asyncio.create_task(self._work(places, known)) for _ in range(num_at_once)]
        try:
            await asyncio.gather(*workers)
        finally:
            await cancel_all(workers)

    async def _work(self, places: Iterator[Place], known: Mapping[Place, Fields]) -> None:
        for place in places:
            problem = self._problems[place[0]]
            before = known.get(place)
            is_sampled = before is not None and before["finish_reason"] != REFUSED
            try:
                sampled = (
                    self._sampled_before(before) if before and is_sampled else await self._sample(problem, place[1])
                )
            except TooLongError as error:
                self._take({**_facts(problem, place), **_not_sampled(error)})
            else:
                self._take({**sampled, **_facts(problem, place), **await self._scored(problem, place, sampled)})

    def _sampled_before(self, line: Fields) -> Fields:
        """What was sampled before a crash, or before its scoring failed, is not sampled again."""
        return {name: line.get(name) for name in ("response", "num_tokens", "finish_reason", "policy", "token_ids")}

    async def _sample(self, problem: BenchmarkProblem, sample: int) -> Fields:
        path, body = self._sampling.body(problem, sample)
        answer = await self._answer(path, body)
        (choice,) = answer["choices"]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return {
            "response": text,
            "num_tokens": answer["usage"]["completion_tokens"],
            "finish_reason": choice["finish_reason"],
            "policy": answer.get("system_fingerprint") or "",
            "token_ids": choice.get("token_ids"),
        }

    async def _answer(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Of the next endpoint that has room."""
        backoff = Backoff(first_seconds=0.2, longest_seconds=10.0, jitter=0.5)
        cause = ""
        for _ in range(MAX_REFUSALS):
            client = next(self._clients)
            try:
                response = await client.post(path, json=body)
            except httpx.TransportError as error:  # a generator of a live run may restart
                cause = f"{client.base_url}: {type(error).__name__}: {error}"
            else:
                if response.status_code == HTTPStatus.OK:
                    return dict(response.json())
                cause = f"{client.base_url}: {_message(response)}"
                if _error(response).get("code") == "context_length_exceeded":
                    raise TooLongError(_message(response))
                if response.status_code not in BUSY:
                    raise EndpointRefusedError(cause)
            await asyncio.sleep(backoff.next_delay())
        raise EndpointRefusedError(f"no answer after {MAX_REFUSALS} attempts; the last refusal: {cause}")

    async def _scored(self, problem: BenchmarkProblem, place: Place, sampled: Fields) -> Fields:
        request = RewardRequest(
            rollout_id=f"eval-{place[0]}-{place[1]}",
            attempt=0,
            data_source=problem.data_source,
            prompt=problem.text,
            response=sampled["response"],
            ground_truth=problem.ground_truth,
            extra_info=problem.extra_info,
            num_response_tokens=sampled["num_tokens"],
            is_evaluation=True,
            finish_reason=FinishReason.LENGTH if sampled["finish_reason"] == "length" else FinishReason.STOP,
        )
        (score,) = await self._scorer.scores([request])
        return {
            "status": score.status.name,
            "score": score.score,
            "answer": score.answer,
            "function": score.function,
            "error": score.error,
        }


def _facts(problem: BenchmarkProblem, place: Place) -> Fields:
    return {
        "problem": place[0],
        "sample": place[1],
        "data_source": problem.data_source,
        "prompt": problem.text,
        "ground_truth": problem.ground_truth,
    }


def _not_sampled(error: TooLongError) -> Fields:
    unknown = {"response": "", "num_tokens": 0, "finish_reason": REFUSED, "policy": "", "token_ids": None}
    return {
        **unknown,
        **{"status": ScoreStatus.FAILED.name, "score": None, "answer": "", "function": "", "error": str(error)},
    }


def _message(response: httpx.Response) -> str:
    return str(_error(response).get("message") or f"status {response.status_code}")


def _error(response: httpx.Response) -> Mapping[str, Any]:
    """In OpenAI's shape; empty where it has another."""
    try:
        found = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, Mapping) else {}
