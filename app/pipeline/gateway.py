"""What a turn works with: every collaborator by name, and the turn itself.

``Gateway`` lives as long as the process; ``bootstrap`` fills it. ``Turn`` lives as long as one request: it
carries the caller's wishes in, and what is to be said about the answer (model, tier, reason ...) out.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from app.cache.coalesce import Flight, Flights
from app.cache.exact import ExactCache
from app.cache.sharing import Sharing
from app.classify.classifier import Classifier
from app.domain.agents import Agent
from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.decisions import CacheMode, CacheOutcome, Classification, Tier
from app.domain.events import Emit
from app.domain.model_call import CallTiming, ModelCall
from app.domain.models import Model
from app.domain.turn_record import ToolUse
from app.domain.usage import Usage
from app.lanes.rules import Lanes
from app.pipeline.escalation_policy import Escalation
from app.pipeline.speculation import Speculation
from app.pipeline.teaching import RouteTeacher
from app.ports import Codec, Provider
from app.prompts.caching import PromptCaching
from app.prompts.contracts import Contracts
from app.prompts.layout import Layouts
from app.routing.affinity import WarmPrefixes
from app.routing.budget import RetryBudget
from app.routing.hedge import Hedging
from app.routing.load import Load
from app.routing.router import Router
from app.telemetry.timeline import Timeline

if TYPE_CHECKING:
    from app.lanes.templates import Skeletons
    from app.pipeline.batching import Batching  # needs this module
    from app.pipeline.meaning import Meaning  # needs this module
    from app.pipeline.shadow import Shadow  # likewise
    from app.pipeline.shared_answers import SharedAnswers  # loads Redis' client
    from app.pipeline.tools_called import ToolsCalled  # needs this module
    from app.tools.registry import (
        Registry,  # loads validators and clients that few configurations need
    )


def nothing() -> None:
    """Cancel nothing: a turn that no task runs yet."""


def _uncounted(_label: str, _other: str) -> None:
    """Count nothing: a gateway without metrics."""


class Turn:
    """One request's life: what the caller wished, and what is said about the answer.

    What has not been said yet stands in the class: one is made for every request.
    """

    user: str = ""
    cache_mode: CacheMode = CacheMode.DEFAULT
    tier: Tier | None = None
    tags: tuple[str, ...] = ()
    contract: str = ""
    """The output contract that was asked for by name; "" = none."""
    traceparent: str = ""
    """The caller's W3C ``traceparent``, as it came; empty = none."""
    tools_allowed: frozenset[str] | None = None
    """The gateway's tools that may be called for this caller; None = all."""
    limit_head: bytes = b""
    """Header lines about the caller's limits."""
    leave: Callable[[Turn], None] | None = None
    """Settles what the turn used with the caller's limits, where it has any; told once, at its end."""

    # What the response headers, the trace and the metrics say.
    cache: CacheOutcome = CacheOutcome.MISS
    cache_reason: str = ""
    model: Model | None = None
    answered_tier: str = ""
    reason: str = ""
    band: str = ""
    score: float | None = None
    threshold: float | None = None
    dropped: tuple[str, ...] = ()
    usage: Usage | None = None
    cost_usd: float = 0.0
    saved_usd: float = 0.0
    saved_s: float = 0.0
    hedge: tuple[float, float] | None = None
    """A second call was made beside a slow first: the seconds that it is reckoned to have saved (0 where it
    did not win), and about what the loser cost in USD.
    """
    finish: str = ""
    upstream: CallTiming | None = None
    call: ModelCall | None = None
    """The upstream call under way or last made."""
    begun: object = None
    """An exchange that the first call goes on with, see ``ModelCall.begun``."""
    begun_ns: int = 0
    upstream_ns: int = 0
    attempts: int = 0
    entry_id: str = ""
    complete: bool = False
    """The upstream ended the answer in its dialect's own way."""
    tokens_streamed: int = 0
    routed: bool = False
    """The router's score decided, neither the caller nor a hard rule."""
    classification: Classification | None = None
    tools: Sequence[ToolUse] = ()
    """Calls of the gateway's own tools, as they ended."""
    once: bool = False
    """A second call would act twice at the vendor: none is made beside the first, or after it was heard."""
    flight: Flight | None = None
    """The flight that this turn leads: while others follow it, its client may leave without ending it."""
    cancel: Callable[[], object] = nothing
    """Ends this turn's task."""

    def __init__(
        self,
        request_id: str,
        tenant: str,
        timeline: Timeline,
        deadline: Deadline,
        started_unix_s: float,
    ) -> None:
        """A request has come in."""
        self.request_id = request_id
        self.tenant = tenant
        self.timeline = timeline
        self.deadline = deadline
        self.started_unix_s = started_unix_s

    def used(self, tool: ToolUse) -> None:
        """One of the gateway's own tools was called."""
        self.tools = (*self.tools, tool)


class Journalled(Protocol):
    """A job's journal, see ``app.jobs.journal``."""

    async def ask(
        self, calls: Sequence[ModelCall], gateway: Gateway, turn: Turn, emit: Emit
    ) -> None:
        """As ``app.pipeline.converse.ask``, but whole before the first event, and only once."""
        ...


@dataclass(slots=True)
class Gateway:
    """Every collaborator of the pipeline; filled in one place, ``bootstrap``."""

    models: Mapping[str, Model]
    tiers: Mapping[Tier, Sequence[Model]]
    providers: Mapping[str, Provider]
    codecs: Mapping[Dialect, Codec]
    lanes: Lanes | None
    """None: no request is answered without a model."""
    exact: ExactCache | None
    classifier: Classifier
    router: Router
    teacher: RouteTeacher
    load: Load
    flights: Flights
    skeletons: Skeletons | None = None
    """Answers of which a model fills a few words; None where none is configured."""
    agents: Mapping[str, Agent] = field(default_factory=dict)
    tools: Registry | None = None
    """None where nothing is configured that could be called."""
    speculation: Speculation = field(default_factory=Speculation)
    meaning: Meaning | None = None
    """The semantic cache; None where it is off."""
    shared: SharedAnswers | None = None
    """What all workers keep and do, in Redis; None where none is configured."""
    sharing: Sharing | None = None
    """What users may share; None where the defaults hold."""
    contracts: Contracts | None = None
    """What answers are to be; None where the operator says nothing."""
    layouts: Layouts | None = None
    """What may be moved behind what is stable; None where nobody asked."""
    batching: Batching | None = None
    """What sends small tasks together; None where no route asked for it."""
    prompts: PromptCaching | None = None
    """What makes the vendors' prompt caches work; None where it is off."""
    clock: Callable[[], float] = time.monotonic
    retry_budget: RetryBudget = field(default_factory=RetryBudget)
    on_failure: Callable[[str, str], None] = _uncounted
    """Told each failed upstream call: the provider's name and the failure's code."""
    retries: Mapping[str, int] = field(default_factory=dict)
    """By provider: how often one more call is tried before the failure is the client's to see."""
    escalate: bool = True
    """Whether a routed fast answer that is none is asked again of the powerful tier."""
    escalation: Escalation = field(default_factory=Escalation)
    """What that is looked for in, and how."""
    on_escalation: Callable[[str, str], None] = _uncounted
    """Told each escalation: what the fast answer lacked, and the outcome."""
    shadow: Shadow | None = None
    """None: no request is run on both tiers to learn from."""
    hedging: Hedging | None = None
    """None: no second call is ever made beside a first."""
    warm: WarmPrefixes = field(default_factory=WarmPrefixes)
    journal: Journalled | None = None
    """A job's: its models' answers are kept before they are acted upon."""
    tools_called: ToolsCalled | None = None
    """What learns which tools are called; None: nothing does."""
    tracing: bool = False
    """Spans are exported: calls upstream carry this gateway's own ``traceparent``."""
    coalesce: bool = True
    """Whether a request joins the stream of an identical one in flight."""


Ask = Callable[[ChatRequest, Gateway, Turn, Emit], Awaitable[None]]
"""Ask a model and tell its answer."""
