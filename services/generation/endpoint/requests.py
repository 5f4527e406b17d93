"""The bodies of requests: what is understood, what changes nothing, and what is refused because it cannot be had."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError
from pydantic_core import from_json

from services.generation.endpoint.errors import bad_request
from tppo.config.sections.section import MAX_TOKENS

IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
"""Of no meaning here, and harmless."""
NEUTRAL: Mapping[str, Sequence[Any]] = {
    "top_p": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
}
"""Parameters that cannot be had, with the values that ask nothing of us: the policy is sampled as in training."""

Temperature = Annotated[float, Field(ge=0, le=100)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
TokenIds = Annotated[list[Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]], Field(min_length=1)]
Text = Annotated[StrictStr, Field(min_length=1)]
TemplateValue = StrictBool | StrictInt | StrictFloat | StrictStr
Body = TypeVar("Body", bound="SamplingBody")
LOWEST_TEMPERATURE = 0.01
"""Of those above 0: a lower one takes logits beyond what float32 holds."""


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: StrictBool = False
    """Send a last chunk with the numbers of tokens."""


class SamplingBody(BaseModel):
    """What both kinds of completions share."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: StrictStr
    temperature: Temperature | None = None
    """1 when unset."""
    n: Annotated[StrictInt, Field(ge=1, le=1024)] = 1
    seed: Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    return_token_ids: StrictBool = False
    max_tokens: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] | None = None

    @property
    def stops(self) -> list[str]:
        """Texts that end a response."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        """In a streamed answer."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    @abstractmethod
    def wants_logprobs(self) -> bool:
        """Of the sampled tokens."""

    @property
    @abstractmethod
    def limit(self) -> int | None:
        """Most tokens of a response; None: as many as there is room for."""


class CompletionBody(SamplingBody):
    """Of /v1/completions."""

    prompt: Text | TokenIds | Annotated[list[Text] | list[TokenIds], Field(min_length=1)]
    logprobs: Annotated[StrictInt, Field(ge=0, le=0)] | None = None
    """0: those of the sampled tokens; of other tokens there are none."""

    @property
    def wants_logprobs(self) -> bool:
        """Of the sampled tokens."""
        return self.logprobs is not None

    @property
    def limit(self) -> int | None:
        """16, as in OpenAI's API."""
        return self.max_tokens or 16

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        is_one = all(isinstance(token, int) for token in self.prompt)
        return [[int(str(token)) for token in self.prompt]] if is_one else [*self.prompt]


class TextPart(BaseModel):
    """Of a message; no images, no audio."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: StrictStr


class ChatMessage(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Text
    content: StrictStr | list[TextPart]
    name: StrictStr | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": content} | ({"name": self.name} if self.name else {})


class ChatBody(SamplingBody):
    """Of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    logprobs: StrictBool | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] | None = None
    chat_template_kwargs: dict[Text, TemplateValue] = Field(default_factory=dict)
    """Over those of `data.chat_template_kwargs`."""

    @property
    def wants_logprobs(self) -> bool:
        """Of the sampled tokens."""
        return bool(self.logprobs)

    @property
    def limit(self) -> int | None:
        """The newer of its two names first."""
        return self.max_completion_tokens or self.max_tokens


def parsed(body: bytes, kind: type[Body]) -> Body:
    """The request. Raises `EndpointError`."""
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {error}; expected an object") from None
    if not isinstance(fields, dict):
        raise bad_request(f"the body is a {type(fields).__name__}; expected an object")
    for name, values in NEUTRAL.items():
        _require_neutral(name, fields.pop(name, None), values)
    for name in IGNORED:
        fields.pop(name, None)
    try:
        found = kind.model_validate(fields)
    except ValidationError as error:
        raise _first(error) from None
    if found.temperature is not None and 0 < found.temperature < LOWEST_TEMPERATURE:
        message = f"temperature = {found.temperature}: expected 0, which is greedy, or {LOWEST_TEMPERATURE} to 100"
        raise bad_request(message, param="temperature")
    return found


def _require_neutral(name: str, value: Any, values: Sequence[Any]) -> None:
    if value is None or value in values:
        return
    expected = " or ".join(map(repr, values))
    message = f"{name} cannot be had: the policy is sampled as in training; expected {expected}, or no {name}"
    raise bad_request(message, param=name, code="unsupported_parameter")


def _first(error: ValidationError) -> Exception:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return bad_request(f"{place}: unknown parameter", param=place, code="unknown_parameter")
    return bad_request(f"{place}: {first['msg']}", param=str(first["loc"][0]) if first["loc"] else None)
