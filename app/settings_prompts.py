"""The shape of what the configuration says about prompts; see `app.settings_schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app.domain.decisions import Tier
from app.settings_types import Count, Section

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]


class MannerSettings(Section):
    """How a tier's models answer under a contract."""

    effort: Effort | None = None
    """How much is thought; absent: as the contract says."""
    verbosity: Verbosity | None = None
    """How much is said; absent: as the contract says."""


class ContractSettings(Section):
    """What answers are to be, where the client leaves it open; nothing is changed for other requests."""

    model: str
    """The model that clients ask for: `auto` or a configured name."""
    tenant: str | None = None
    """Only this tenant's requests; absent: everybody's."""
    name: str | None = None
    """Only requests that ask for it in `x-slipstream-contract`; absent: all."""
    max_tokens: Count | None = None
    """Longest answer in tokens; a client's own lower limit holds."""
    json_schema: dict[str, object] | None = None
    """JSON Schema of the answer, by the vendor's own structured output."""
    effort: Effort | None = None
    """How much is thought, in the fields of the vendor that answers; nothing for models that do not."""
    verbosity: Verbosity | None = None
    """How much is said, where the model takes it (`models[].abilities.verbosity`)."""
    tiers: dict[Tier, MannerSettings] = Field(default_factory=dict)
    """Effort and verbosity by the tier whose model answers, `fast` or `powerful`."""
    prefill: Annotated[str, Field(min_length=1)] | None = None
    """How the answer begins: written for models that go on from there (`models[].abilities.prefill`), and
    shown to the client with the rest. Others get `json_schema` instead, which must be given then; so do
    requests with tools or thinking.
    """
    hide_reasoning: bool = False
    """Whether the model's reasoning is taken out of the answer, `<think>` blocks at its beginning too. The
    usage tells it all the same. With tools its sealed form stays, for the client has to hand it back.
    """


class LayoutSettings(Section):
    """What may be moved in a prompt, so that what changes stands behind what does not."""

    model: str
    """The model that clients ask for: `auto` or a configured name."""
    tenant: str | None = None
    """Only this tenant's requests; absent: everybody's."""
    variables: tuple[str, ...] = ()
    """Regular expressions: lines of the system prompt that match one as a whole (`Now: .*`) go to the end of
    the last message, as a part of their own.
    """
    documents: bool = True
    """Whether documents and images of a user's message go before its text."""


class BatchSettings(Section):
    """Small tasks for one model that come at once and go as one call; other models' wait for nothing."""

    model: str
    """A configured name, as clients ask for it. Only requests that are not streamed, have no tools and no
    deadline, and are a short text behind a system prompt go together.
    """
    tenant: str | None = None
    """Only this tenant's requests; absent: everybody's, never two tenants' or two users' in one call."""
    window_ms: Annotated[float, Field(gt=0, le=1000)] = 5.0
    """How long the first task waits for others."""
    most: Annotated[int, Field(ge=2, le=128)] = 16
    """So many go at once, whatever is left of the window."""
    most_chars: Count = 2_000
    """Longest task, in characters; a longer one goes alone."""


class WarmSettings(Section):
    """A prompt that is kept warm whether traffic comes or not."""

    file: str
    """A file with the request as JSON, its `model` a configured name."""
    every_s: Annotated[float, Field(ge=1)] = 240.0
    """Seconds between two primings; less than the vendor's lifetime of 300 keeps it warm all the time."""


class PromptSettings(Section):
    """The vendors' prompt caches: a long prompt that was read before is read again for a tenth."""

    enabled: bool = True
    """Whether anything is done or learned about them. Prompts below the shortest prefix that a vendor caches
    are left alone in any case.
    """
    breakpoints: bool = True
    """Whether breakpoints are added where the price table and the traffic say that they pay, at most four
    with the client's own. A model's own `breakpoints` overrides it.
    """
    lead: bool = True
    """Whether of several requests that would write the same prefix the first goes ahead, and the others start
    at its first byte and read it.
    """
    affinity: bool = True
    """Whether a routed conversation stays where its prefix is warm, unless leaving gains more than that is
    worth.
    """
    diagnose: bool = False
    """Whether Anthropic and OpenAI's Responses are asked in what a long prompt differs from the last of its
    conversation, to prove or refute the cause found here. They keep a fingerprint of the request for that,
    and their answers get a field that tells. What a client asks for itself is heard in any case.
    """
    contracts: tuple[ContractSettings, ...] = ()
    """Output contracts; the first that names a request's model and tenant holds."""
    layouts: tuple[LayoutSettings, ...] = ()
    """Routes on which parts of prompts may be moved; the first that names a request's model and tenant
    holds.
    """
    batches: tuple[BatchSettings, ...] = ()
    """Routes whose small tasks go together; the first that names a request's model and tenant holds."""
    schedules: tuple[WarmSettings, ...] = ()
    """Prompts that are primed at start and again and again."""
    keep_alive_usd_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """Budget for keeping silent conversations' prefixes alive, where P(return) x what a miss would cost is more
    than a ping. 0: only what `POST /v1/prompts/warm` asks for, up to a dollar an hour.
    """  # noqa: E501
    value_usd_per_s: Annotated[float, Field(gt=0)] = 0.01
    """What a second of waiting is worth in USD, where a warm prompt's money is weighed against time.
    """
