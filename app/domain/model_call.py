"""One upstream model call: the pipeline's request to a provider, and the provider's report."""

from __future__ import annotations

from typing import Protocol

from app.domain.chat import ChatRequest, Conversation, Dialect
from app.domain.deadline import Deadline
from app.domain.events import Emit
from app.domain.models import Model
from app.domain.usage import Usage

Headers = tuple[tuple[bytes, bytes], ...]


class CallTiming:
    """Timestamps in nanoseconds of the monotonic clock; 0 = did not happen (yet)."""

    started_ns = 0
    admitted_ns = 0
    """When a busy upstream admitted it; 0 where it did not wait."""
    headers_ns = 0
    first_event_ns = 0
    ended_ns = 0


class ModelCall(CallTiming):
    """One call of one model: filled in by the pipeline, reported on by the provider.

    ``native`` is the request to pass through unchanged where the provider speaks its dialect: it then emits
    ``Frames`` or ``WholeBody``. Otherwise the provider writes ``conversation`` in a dialect that it speaks,
    and emits neutral events. ``neutral`` asks for neutral events in any case (agents, escalation checks).

    Defaults are class attributes, because an instance is made for every request.
    """

    usage: Usage | None = None
    """Set by the provider where the upstream reports it, before ``stream`` returns."""
    tokens_streamed = 0
    """Content frames or deltas seen; set while streaming."""
    complete = False
    """The upstream ended the answer as its dialect requires."""
    finish = ""
    """The neutral finish reason; "" = unknown."""
    dropped: tuple[str, ...] = ()
    """The caller's hints that the target dialect cannot express."""
    upstream_status = 0
    single_attempt = False
    """Never resend it once the vendor may have received it."""
    tenant = ""
    """A busy upstream admits tenants in turn."""
    traceparent = ""
    """The W3C header to send; empty = none."""
    response_headers: Headers = ()
    """The vendor's rate-limit, request-id and similar headers."""
    prompts: PromptShaper | None = None
    """Prompt-cache handling of long prompts; None = none."""
    started_exchange: object = None
    """The provider's own exchange that is already in progress: continue it instead of starting one."""
    exchange_started_ns = 0
    """When that started; it is already admitted, and counted among the calls."""
    prefill = ""
    """The start of the answer, written by an output contract: the model continues it."""
    prompt_shape: object = None  # private state of ``prompts`` for this call

    def __init__(  # noqa: PLR0917 - called by position once a request; keywords would double the cost
        self,
        model: Model,
        stream: bool,  # noqa: FBT001
        deadline: Deadline,
        native: ChatRequest | None = None,
        conversation: Conversation | None = None,
        neutral: bool = False,  # noqa: FBT001, FBT002
        request_id: str = "",
    ) -> None:
        """Describe a call that has not been made yet."""
        self.model = model
        self.stream = stream
        self.deadline = deadline
        self.native = native
        self.conversation = conversation
        self.neutral = neutral
        self.request_id = request_id

    @property
    def timing(self) -> CallTiming:
        """The timestamps of this call."""
        return self

    def copy_for_retry(self) -> ModelCall:
        """A copy of the call that has not been made yet."""
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
    """Optimises calls for the vendor's prompt cache. Skip it for bodies below ``min_bytes``."""

    min_bytes: int

    def shape(self, call: ModelCall, dialect: Dialect, body: bytes) -> bytes:
        """``body`` with cache breakpoints added where they pay."""

    async def gate(self, call: ModelCall, emit: Emit) -> Emit:
        """Wait while another call writes the same prefix; returns the ``emit`` to use. Bounded in time."""

    def settle(self, call: ModelCall) -> None:
        """Account for the call, however it ended; never waits."""
