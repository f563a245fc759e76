"""What the three dialects share: a parsed call, an answer to write, frames of a stream.

A dialect is pure: it reads a JSON body into a `Call` and writes an `Answer` as bytes. Time, faults
and sockets are the business of `server` and `delivery`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import orjson

from app.providers.simulator.answer import Reply
from app.providers.simulator.errors import RefusedError
from app.providers.simulator.fields import JsonObject
from app.providers.simulator.profile import ModelChoice
from app.providers.simulator.prompt_cache import CacheRules, CacheUse, PromptBlock
from app.providers.simulator.question import Question

DialectName = Literal["chat", "responses", "messages"]


class Frame(NamedTuple):
    """One server-sent event: its bytes, and how many tokens of time pass before it.

    An early frame goes out with the headers, before the prompt has been read. Empty `data` only
    lets time pass: hidden reasoning.
    """

    data: bytes
    tokens: int = 0
    is_early: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed request: the question, and what the dialect needs to write the answer."""

    choice: ModelChoice
    question: Question
    body: JsonObject
    is_stream: bool
    blocks: Sequence[PromptBlock]
    rules: CacheRules
    cache_scope: str
    """What separates prompt-cache entries beside model and key: options, cache key."""
    answers: int = 1
    is_warm_up: bool = False
    """Read the prompt into the cache and generate nothing."""
    conversation: Sequence[JsonObject] = ()
    """All input items, for a dialect that keeps conversations."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer: one reply per requested choice, and how the prompt was billed."""

    call: Call
    replies: Sequence[Reply]
    use: CacheUse
    serial: str
    """Unique in a simulator's life; becomes the end of every id."""
    created_s: int
    """Unix time."""

    @property
    def reply(self) -> Reply:
        """The first reply, the only one but in chat."""
        return self.replies[0]

    @property
    def output_tokens(self) -> int:
        """The tokens of all replies."""
        return sum(reply.output_tokens for reply in self.replies)

    @property
    def reasoning_tokens(self) -> int:
        """Those of them that are reasoning."""
        return sum(len(reply.reasoning) for reply in self.replies)


class Dialect(Protocol):
    """One vendor's wire format, as its server."""

    name: DialectName

    def read(self, body: JsonObject, choice: ModelChoice) -> Call:
        """Check and understand a request body. Raises `RefusedError`."""
        ...

    def document(self, answer: Answer) -> bytes:
        """The answer as one JSON body."""
        ...

    def frames(self, answer: Answer) -> Iterator[Frame]:
        """The answer as events, the dialect's terminator last."""
        ...

    def error_body(self, error: RefusedError, request_id: str) -> bytes:
        """The JSON body of an error status."""
        ...

    def error_frame(self, message: str, request_id: str, number: int) -> bytes:
        """An error within a stream that has begun; `number` events came before it."""
        ...


def dumps(value: object) -> bytes:
    """Compact JSON bytes, keys in the order given."""
    return orjson.dumps(value)


def sse_data(value: object) -> bytes:
    """An unnamed server-sent event holding `value` as JSON."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def sse_event(value: JsonObject) -> bytes:
    """A server-sent event named by its own `type`."""
    return b"event: " + str(value["type"]).encode() + b"\ndata: " + orjson.dumps(value) + b"\n\n"


def openai_error(error: RefusedError) -> bytes:
    """An error body in OpenAI's form, used by chat and responses alike."""
    codes = {
        "model_not_found": ("invalid_request_error", "model_not_found"),
        "not_found": ("invalid_request_error", "not_found"),
        "invalid_key": ("invalid_request_error", "invalid_api_key"),
        "rate_limited": ("requests", "rate_limit_exceeded"),
        "server_error": ("server_error", None),
        "overloaded": ("server_error", "overloaded"),
        "context_length": ("invalid_request_error", "context_length_exceeded"),
    }
    kind, code = codes.get(error.kind, ("invalid_request_error", None))
    body = {"message": error.message, "type": kind, "param": error.param, "code": code}
    return orjson.dumps({"error": body})
