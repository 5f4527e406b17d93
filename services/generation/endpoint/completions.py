"""A request's responses: from its body to the pieces of each choice, within the room that others leave."""

import asyncio
import hashlib
import secrets
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus

from services.generation.endpoint.answers import ResponsePiece, Shape
from services.generation.endpoint.errors import EndpointError, bad_request
from services.generation.endpoint.prompts import PromptTokens
from services.generation.endpoint.requests import ChatBody, CompletionBody, SamplingBody
from services.generation.endpoint.sampling import Guest, TextStream
from services.generation.engine import Engine
from services.generation.fleet.free_slots import FreeSlots
from tppo.process.cancellation import cancel_all
from tppo.rollout import WindowRequest, tokens

TEMPERATURE = 1.0
"""Where a request names none, as in OpenAI's API."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a generator bears."""

    num_tokens: int  # of prompt and response together
    max_requests: int  # completions held at once
    timeout_seconds: float  # of one


class Room:
    """Completions that are held at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._num_held = 0

    @contextmanager
    def taken(self) -> Iterator[Callable[[int], None]]:
        """Room for one; what is given takes room for more. Raises `EndpointError` where there is none."""
        num_taken = 0

        def take(num: int) -> None:
            nonlocal num_taken
            if num + num_taken > self._size:
                raise bad_request(f"{num + num_taken} completions; expected at most {self._size}", param="n")
            if self._num_held + num > self._size:
                message = f"{self._num_held} completions are running or waiting, and there is room for {self._size}"
                raise EndpointError(HTTPStatus.TOO_MANY_REQUESTS, message, code="rate_limit_exceeded")
            self._num_held += num
            num_taken += num

        try:
            take(1)
            yield take
        finally:
            self._num_held -= num_taken


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that can be served."""

    shape: Shape
    requests: Sequence[WindowRequest]  # one for each choice
    stops: Sequence[str]


class Completions:
    """Serves requests by the engine's free slots."""

    def __init__(self, engine: Engine, slots: FreeSlots, prompts: PromptTokens, limits: Limits, *, model: str) -> None:
        """`model` is the name by which clients know the policy."""
        self.limits = limits
        self.model = model
        self.room = Room(limits.max_requests)
        self._engine = engine
        self._guest = Guest(engine, slots)
        self._prompts = prompts

    @property
    def policy_version(self) -> int:
        """Of the weights in use."""
        return self._engine.policy_version

    async def asked(self, body: SamplingBody, take: Callable[[int], None]) -> Asked:
        """What the request comes to; takes room for all of it. Raises `EndpointError`."""
        if body.model != self.model:
            message = f"model = {body.model!r}: expected {self.model!r}, the run that this generator works for"
            raise EndpointError(HTTPStatus.NOT_FOUND, message, param="model", code="model_not_found")
        if self._engine.policy_version < 0:
            raise EndpointError(HTTPStatus.SERVICE_UNAVAILABLE, "the learner has sent no weights yet")
        take(_num_prompts(body) * body.n - 1)
        prompts = await self._prompts_of(body)
        stop_token_ids = await self._prompts.stop_token_ids()
        shape = Shape(
            model=self.model,
            is_chat=isinstance(body, ChatBody),
            has_logprobs=body.wants_logprobs,
            has_token_ids=body.return_token_ids,
            spelling_of=self._prompts.spelling_of,
            prompt_tokens=prompts,
            num_per_prompt=body.n,
        )
        requests = [
            self._request(body, prompt, stop_token_ids, name=f"{shape.id}-{number}-{sample}")
            for number, prompt in enumerate(prompts)
            for sample in range(body.n)
        ]
        return Asked(shape, requests, body.stops)

    async def pieces(self, asked: Asked) -> AsyncGenerator[ResponsePiece, None]:
        """Of all choices as they come. Raises `EndpointError`, also for what has not ended in time."""
        queue: asyncio.Queue[ResponsePiece | None] = asyncio.Queue()  # bounded by the requests' limits
        sampling = [
            asyncio.create_task(self._sample(index, request, asked.stops, queue.put_nowait))
            for index, request in enumerate(asked.requests)
        ]
        whole = asyncio.create_task(self._all(sampling, queue))
        try:
            while (piece := await queue.get()) is not None:
                yield piece
            await whole
        finally:
            await cancel_all([*sampling, whole])

    async def _all(
        self, sampling: Sequence["asyncio.Task[None]"], queue: "asyncio.Queue[ResponsePiece | None]"
    ) -> None:
        try:
            async with asyncio.timeout(self.limits.timeout_seconds):
                await asyncio.gather(*sampling)
        except TimeoutError:
            message = f"no end within {self.limits.timeout_seconds:g} s: the windows of the run may take all slots"
            raise EndpointError(HTTPStatus.SERVICE_UNAVAILABLE, message, code="timeout") from None
        except ValueError as error:
            raise bad_request(str(error)) from None
        except RuntimeError as error:  # of an engine that has ended
            raise EndpointError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        finally:
            queue.put_nowait(None)

    async def _sample(
        self, index: int, request: WindowRequest, stops: Sequence[str], put: Callable[[ResponsePiece], None]
    ) -> None:
        text = TextStream(self._prompts.text_of, stops)
        last = -1
        async with aclosing(self._guest.tokens(request)) as sampled:
            async for one in sampled:
                put(ResponsePiece(index, text.feed(one.token), [one]))
                last = one.token
                if text.has_stopped:
                    break
        rest = text.rest()
        has_stopped = text.has_stopped or last in request.stop_token_ids
        put(ResponsePiece(index, rest, (), "stop" if has_stopped else "length"))

    async def _prompts_of(self, body: SamplingBody) -> list["array[int]"]:
        if isinstance(body, ChatBody):
            return [await self._prompts.of_chat(body)]
        assert isinstance(body, CompletionBody)
        return await self._prompts.of_completion(body)

    def _request(
        self, body: SamplingBody, prompt: "array[int]", stop_token_ids: tuple[int, ...], *, name: str
    ) -> WindowRequest:
        room = self.limits.num_tokens - len(prompt)
        num_tokens = body.limit if body.limit is not None else room
        if not prompt:
            raise bad_request("the prompt has no tokens; expected at least one", param="prompt")
        if room < 1 or num_tokens > room:
            message = (
                f"{len(prompt)} tokens of the prompt and {max(1, num_tokens)} of the response: expected at most "
                f"{self.limits.num_tokens} together (run.max_prompt_length + run.max_response_length)"
            )
            raise bad_request(message, param="max_tokens", code="context_length_exceeded")
        return WindowRequest(
            rollout_id=f"endpoint-{name}",
            window_index=0,
            prompt_tokens=prompt,
            response_tokens=tokens(),
            max_new_tokens=num_tokens,
            stop_token_ids=stop_token_ids,
            temperature=TEMPERATURE if body.temperature is None else body.temperature,
            seed=_seed(body.seed, name.partition("-")[2]),
            is_evaluation=True,  # none of training's decode steps
        )


def _num_prompts(body: SamplingBody) -> int:
    return len(body.prompts) if isinstance(body, CompletionBody) else 1


def _seed(seed: int | None, choice: str) -> int:
    """64 bits for each choice; the same for the same seed."""
    if seed is None:
        return secrets.randbits(64)
    return int.from_bytes(hashlib.blake2b(f"{seed}/{choice}".encode(), digest_size=8).digest(), "little")
