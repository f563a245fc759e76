"""The protocols between rooms, and what an implementation promises.

Ports about a single idea stand beside it in ``domain``: ``vectors`` (Embedder,
VectorStore), ``limits`` (Counters), ``seal``, ``answer_edit``, ``model_call`` (PromptShaper), ``chat``
(AnswerTerms). ``answer``, the Event union, the cache key, the routing score, metrics and settings are never
abstracted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from app.domain.answer_edit import AnswerEdit, AnswerEditor
from app.domain.chat import ChatRequest, Conversation, Dialect, Json, PlainRequest
from app.domain.decisions import PromptView
from app.domain.events import Answer, Emit, Event
from app.domain.model_call import ModelCall
from app.domain.models import Model
from app.domain.usage import Usage
from app.errors import GatewayError, UpstreamError, UpstreamStatus


class Provider(Protocol):
    """A way to the models of one provider.

    ``stream`` emits the answer's events in order and returns when the answer is whole. Before the first emit
    it raises a true error (``UpstreamStatus`` with the provider's status, ``UpstreamTimeout`` ...); after it,
    an ``UpstreamError`` means that the answer broke off. It never retries after the first emit. Cancelled at
    any await, it closes the upstream connection before the cancellation propagates: no tokens are generated
    for nobody.
    """

    name: str

    def dialects(self) -> frozenset[Dialect]:
        """The dialects that are forwarded to this provider unchanged."""
        ...

    async def stream(self, call: ModelCall, emit: Emit) -> None:
        """Run ``call`` and emit its events."""
        ...

    async def count_tokens(self, call: ModelCall) -> int:
        """Input tokens of ``call`` by the vendor's own count; raises ``Unsupported`` where it has none."""
        ...

    async def start(self) -> None:
        """Open and warm connections; failures are not fatal."""
        ...

    async def aclose(self) -> None:
        """Close every connection; idempotent."""
        ...


class StreamReader(Protocol):
    """Bytes of an upstream's SSE stream in, events out (sans-IO).

    ``feed`` takes bytes split anywhere. An in-stream error of the dialect is kept in ``failure`` (a
    pass-through reader forwards its frame as well); malformed data raises ``UpstreamProtocol``.
    ``complete`` turns true with the dialect's own ending; a stream that closes without it was cut.
    """

    complete: bool
    finish: str
    """The neutral finish reason, "" while unknown."""
    failure: UpstreamError | None

    @property
    def usage(self) -> Usage | None:
        """The usage reported by the upstream so far."""
        ...

    def feed(self, data: bytes) -> Sequence[Event]:
        """Take bytes; return the events that they complete."""
        ...

    def end(self) -> Sequence[Event]:
        """The upstream closed: return the remaining events."""
        ...


class StreamWriter(Protocol):
    """Events in, bytes of the client's SSE stream out (sans-IO)."""

    def write(self, event: Event) -> bytes:
        """The bytes of one event; empty where the dialect has no form for it."""
        ...

    def fail(self, error: GatewayError, request_id: str) -> bytes:
        """The dialect's own in-stream error; ends the stream."""
        ...

    def end(self) -> bytes:
        """The dialect's terminator after the last event."""
        ...


class Codec(Protocol):
    """One wire format, both ways. Stateless; readers and writers are made per answer."""

    dialect: Dialect
    path: str
    """The path below the provider's base URL: ``/chat/completions``, ``/responses``, ``/messages``."""

    def read_plain(self, raw: bytes) -> PlainRequest | None:
        """A fast reading of ``raw`` if it is surely plain and would pass ``check``; None: ask ``check``."""
        ...

    def check(self, body: Json) -> None:
        """Reject what no upstream could take: raises ``BadRequest`` with ``param``; cheap."""
        ...

    def view(self, body: Json) -> PromptView:
        """The classifier's view of the prompt; never raises on a body that passed ``check``."""
        ...

    def read(self, body: Json) -> Conversation:
        """The neutral reading; raises ``Unsupported`` for a field that no other dialect can carry."""
        ...

    def write(
        self, conversation: Conversation, model: Model, *, stream: bool
    ) -> tuple[dict[str, object], tuple[str, ...]]:
        """The body for an upstream of this dialect and the dropped hints; raises ``Unsupported``."""
        ...

    def read_outcome(self, body: bytes) -> tuple[Usage, str]:
        """Usage and neutral finish of a whole answer passed through; raises ``UpstreamProtocol``."""
        ...

    def read_answer(self, body: bytes) -> Answer:
        """A whole JSON answer; raises ``UpstreamProtocol``."""
        ...

    def write_answer(self, answer: Answer, request: ChatRequest) -> bytes:
        """A whole JSON answer for the client."""
        ...

    def reader(self) -> StreamReader:
        """A reader that returns neutral events."""
        ...

    def passthrough(self, *, hide_usage: bool) -> StreamReader:
        """A reader that returns unchanged ``Frames``; ``hide_usage`` removes the usage-only chunk."""
        ...

    def editor(self, edit: AnswerEdit) -> AnswerEditor:
        """An editor that applies ``edit`` to an answer of this dialect."""
        ...

    def writer(self, request: ChatRequest) -> StreamWriter:
        """A writer of the stream that the client of ``request`` reads."""
        ...

    def read_error(
        self, status: int, body: bytes, headers: Mapping[bytes, bytes]
    ) -> UpstreamStatus:
        """An upstream's error response of this dialect, with its neutral kind and message."""
        ...

    def write_error(self, error: GatewayError, request_id: str) -> bytes:
        """The error body in this dialect's shape."""
        ...


class KeyValue(Protocol):
    """A store of small values with a time to live. Failures raise ``StoreError``; callers do without."""

    async def get(self, key: bytes) -> bytes | None:
        """The value, or None when there is none or it has expired."""
        ...

    async def set(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Store ``value`` for ``ttl_s`` seconds."""
        ...

    async def delete(self, key: bytes) -> bool:
        """Remove the value; returns whether it existed."""
        ...

    async def aclose(self) -> None:
        """Release what it holds; idempotent."""
        ...


class Tool(Protocol):
    """The implementation of one tool.

    Cancelled at any await, it stops its work at once where that is possible.
    """

    async def call(self, arguments: Json) -> object:
        """Try once: the result as JSON values or text; raises ``ToolError``. The caller limits time."""
        ...
