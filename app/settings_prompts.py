"""The schema of `prompts`; see `app.settings_schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app.domain.decisions import Tier
from app.settings_types import Count, Section

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]


class MannerSettings(Section):
    """Effort and verbosity of one tier under a contract."""

    effort: Effort | None = None
    """Reasoning effort; absent: the contract's."""
    verbosity: Verbosity | None = None
    """Verbosity; absent: the contract's."""


class ContractSettings(Section):
    """An output contract: defaults for what the client leaves open. Requests without a contract are not
    changed.
    """

    model: str
    """The model that clients ask for: `auto` or a configured name."""
    tenant: str | None = None
    """Only this tenant's requests; absent: all tenants'."""
    name: str | None = None
    """Only requests that name it in `x-slipstream-contract`; absent: all."""
    max_tokens: Count | None = None
    """Longest answer in tokens; a lower limit of the client takes precedence."""
    json_schema: dict[str, object] | None = None
    """JSON Schema of the answer, requested through the vendor's structured output."""
    effort: Effort | None = None
    """Reasoning effort, in the vendor's own fields; ignored for models without reasoning."""
    verbosity: Verbosity | None = None
    """Verbosity, for models that accept it (`models[].abilities.verbosity`)."""
    tiers: dict[Tier, MannerSettings] = Field(default_factory=dict)
    """Effort and verbosity by tier, `fast` or `powerful`."""
    prefill: Annotated[str, Field(min_length=1)] | None = None
    """Beginning of the answer: sent as a prefill to models that support it (`models[].abilities.prefill`),
    and included in what the client gets. Other models, and requests with tools or thinking, get `json_schema`
    instead, which is then required.
    """
    hide_reasoning: bool = False
    """Remove the model's reasoning from the answer, including leading `<think>` blocks. It still counts in
    the usage. With tools its encrypted form stays, because the client must send it back.
    """


class LayoutSettings(Section):
    """What may be moved in a prompt, so that changing parts follow constant ones."""

    model: str
    """The model that clients ask for: `auto` or a configured name."""
    tenant: str | None = None
    """Only this tenant's requests; absent: all tenants'."""
    variables: tuple[str, ...] = ()
    """Regular expressions; lines of the system prompt that match one completely (`Now: .*`) are moved to the
    end of the last message, as a separate part.
    """
    documents: bool = True
    """Move documents and images of a user message before its text."""


class BatchSettings(Section):
    """Micro-batching: small concurrent tasks for one model are sent as one call. Other models are not
    affected.
    """

    model: str
    """A configured model. Only requests that are not streamed, have no tools and no deadline, and consist of
    a system prompt and a short text are batched.
    """
    tenant: str | None = None
    """Only this tenant's requests; absent: all tenants', but never two tenants or two users in one call."""
    window_ms: Annotated[float, Field(gt=0, le=1000)] = 5.0
    """Milliseconds that the first task waits for others."""
    most: Annotated[int, Field(ge=2, le=128)] = 16
    """Tasks after which a batch is sent at once."""
    most_chars: Count = 2_000
    """Longest task in characters; a longer one is sent alone."""


class WarmSettings(Section):
    """A prompt that is kept in the vendor's cache regardless of traffic."""

    file: str
    """A file with the request as JSON; its `model` is a configured name."""
    every_s: Annotated[float, Field(ge=1)] = 240.0
    """Seconds between two warming requests; less than the vendor's lifetime of 300 keeps it warm all the
    time.
    """


class PromptSettings(Section):
    """The vendors' prompt caches, which charge a tenth for a prompt prefix that was sent before."""

    enabled: bool = True
    """Use and learn about them. Prompts shorter than the vendor's minimum are never changed.
    """
    breakpoints: bool = True
    """Add breakpoints where prices and traffic say that they pay, at most four including the client's own.
    Overridden by `models[].breakpoints`.
    """
    lead: bool = True
    """Of several concurrent requests that would write the same prefix, send the first, and start the others
    at its first byte, so that they read it.
    """
    affinity: bool = True
    """Keep a routed conversation on the model that has its prefix cached, unless another gains more than that
    is worth.
    """
    diagnose: bool = False
    """Ask Anthropic and OpenAI's Responses API how a long prompt differs from the last one of its
    conversation, to confirm or refute the cause found here. The vendors keep a fingerprint of the request for
    that, and their responses get an extra field. Diagnoses that a client requests itself are always used.
    """
    contracts: tuple[ContractSettings, ...] = ()
    """Output contracts; the first that matches a request's model and tenant applies."""
    layouts: tuple[LayoutSettings, ...] = ()
    """Layouts; the first that matches a request's model and tenant applies.
    """
    batches: tuple[BatchSettings, ...] = ()
    """Micro-batches; the first that matches a request's model and tenant applies."""
    schedules: tuple[WarmSettings, ...] = ()
    """Prompts that are warmed at start and periodically."""
    keep_alive_usd_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """Budget for keeping silent conversations' prefixes alive, where P(return) x what a miss would cost is more
    than a ping. 0: only what `POST /v1/prompts/warm` asks for, up to a dollar an hour.
    """  # noqa: E501
    value_usd_per_s: Annotated[float, Field(gt=0)] = 0.01
    """What a second of waiting is worth in USD, where a warm prompt's money is weighed against time.
    """
