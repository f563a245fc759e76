"""One call of one model: what the pipeline asks of a provider, and what that reports."""

from __future__ import annotations

from typing import Protocol

from app.domain.chat import ChatRequest, Conversation, Dialect
from app.domain.deadline import Deadline
from app.domain.events import Emit
from app.domain.models import Model
from app.domain.usage import Usage

Headers = tuple[tuple[bytes, bytes], ...]


class CallTiming:
    """What happened when, in nanoseconds of the monotonic clock; 0 = did not happen (yet)."""

    started_ns = 0
    admitted_ns = 0
    """When it got a place at a busy upstream; 0 where it had not to wait for one."""
    headers_ns = 0
    first_event_ns = 0
    ended_ns = 0


class ModelCall(CallTiming):
    """One call of one model: filled in by the pipeline, reported on by the provider.

    ``native`` is the request to pass through untouched when the provider speaks its dialect; otherwise the
    provider writes ``conversation`` in a dialect that it does speak. ``want`` names the dialect in which the
    caller reads the answer: a provider that answers in that dialect emits ``Frames``/``Whole``, one that does
    not emits neutral events. ``neutral`` asks for neutral events in any case (agents, escalation checks).

    What nobody has told yet stands in the class: one is made for every request.
    """

    usage: Usage | None = None
    """Set by the provider when the upstream told it, before its ``stream`` returns."""
    tokens_streamed = 0
    """Content frames or deltas seen; set while streaming."""
    complete = False
    """True once the upstream ended the answer in its dialect's own way."""
    finish = ""
    """The neutral finish reason where it is known ("" = not)."""
    dropped: tuple[str, ...] = ()
    """Hints of the caller that the target's dialect could not carry."""
    upstream_status = 0
    single_attempt = False
    """It must not be sent a second time where the vendor may have heard it."""
    tenant = ""
    """Whose it is: places at a busy upstream go to tenants in turn."""
    traceparent = ""
    """The W3C header that the call carries; empty = none."""
    response_headers: Headers = ()
    """The vendor's rate-limit, request-id and similar headers."""
    prompts: PromptShaper | None = None
    """What may be done to a long prompt on its way out; None = nothing."""
    started_exchange: object = None
    """An exchange of the provider's own, under way already: to be gone on with in place of a new one."""
    exchange_started_ns = 0
    """When that began; it has its place at the upstream, and is counted among the calls."""
    prefill = ""
    """How the answer was begun for the model by an output contract: it goes on from there."""
    prompt_shape: object = None  # what ``prompts`` found out about this call; its own affair

    def __init__(  # noqa: PLR0917 - made by position once a request; keywords cost as much again
        self,
        model: Model,
        stream: bool,  # noqa: FBT001
        deadline: Deadline,
        native: ChatRequest | None = None,
        conversation: Conversation | None = None,
        neutral: bool = False,  # noqa: FBT001, FBT002
        request_id: str = "",
    ) -> None:
        """Nothing is asked yet."""
        self.model = model
        self.stream = stream
        self.deadline = deadline
        self.native = native
        self.conversation = conversation
        self.neutral = neutral
        self.request_id = request_id

    @property
    def timing(self) -> CallTiming:
        """The marks of this call."""
        return self

    def copy_for_retry(self) -> ModelCall:
        """The same call, not made yet."""
        same = ModelCall(
            self.model,
            self.stream,
            self.deadline,
            self.native,
            self.conversation,
            self.neutral,
            self.request_id,
        )
        same.prefill = self.prefill
        return same


class PromptShaper(Protocol):
    """What makes the vendor's prompt cache work. Bodies below ``min_bytes`` are none of its business."""

    min_bytes: int

    def shape(self, call: ModelCall, dialect: Dialect, body: bytes) -> bytes:
        """The body to send instead of ``body``: the same prompt, with breakpoints where they pay."""

    async def gate(self, call: ModelCall, emit: Emit) -> Emit:
        """Wait for who writes the same prefix right now; gives the ``emit`` to use. Bounded in time."""

    def settle(self, call: ModelCall) -> None:
        """The call is over, however it ended; never waits."""
