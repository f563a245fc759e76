"""``Gateway``: every collaborator of the pipeline, one a process. ``Turn``: the state of one request.

``bootstrap`` fills the ``Gateway``. A ``Turn`` carries the caller's options in, and the facts about the
answer (model, tier, reason ...) out.
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
from app.pipeline.router_training import RouterTrainer
from app.pipeline.speculation import Speculation
from app.ports import Codec, Provider
from app.prompts.caching import PromptCaching
from app.prompts.contracts import Contracts
from app.prompts.layout import Layouts
from app.routing.affinity import WarmPrefixes
from app.routing.escalation import EscalationPolicy
from app.routing.hedge import Hedging
from app.routing.load import LoadBalancer
from app.routing.retry_budget import RetryBudget
from app.routing.router import Router
from app.telemetry.timeline import Timeline

if TYPE_CHECKING:
    from app.lanes.templates import Skeletons
    from app.pipeline.batching import Batching  # needs this module
    from app.pipeline.semantic_answers import SemanticAnswers  # needs this module
    from app.pipeline.shadow import ShadowRuns  # likewise
    from app.pipeline.shared_answers import SharedAnswers  # loads Redis' client
    from app.pipeline.tool_use_learning import ToolUseLearner  # needs this module
    from app.tools.registry import (
        Registry,  # loads validators and clients that few configurations need
    )


def cancel_nothing() -> None:
    """Do nothing: ``Turn.cancel`` before a task runs the turn."""


def _uncounted(_label: str, _other: str) -> None:
    """Do nothing: a gateway without metrics."""


class Turn:
    """The state of one request: the caller's options, and the facts about the answer.

    Defaults are class attributes, so that making a turn, once a request, sets few fields.
    """

    user: str = ""
    cache_mode: CacheMode = CacheMode.DEFAULT
    tier: Tier | None = None
    tags: tuple[str, ...] = ()
    contract: str = ""
    """The output contract that the caller named; "" = none."""
    traceparent: str = ""
    """The caller's W3C ``traceparent``, as it came; empty = none."""
    tools_allowed: frozenset[str] | None = None
    """The gateway's tools that may be called for this caller; None = all."""
    limit_head: bytes = b""
    """Response header lines about the caller's rate limits."""
    settle_limits: Callable[[Turn], None] | None = None
    """Settles the turn's usage with the caller's limits; called once, at its end. None = no limits."""

    # For the response headers, the trace and the metrics.
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
    """Of a hedged call: the estimated seconds saved (0 where it lost), and the loser's estimated USD."""
    finish: str = ""
    upstream: CallTiming | None = None
    call: ModelCall | None = None
    """The current or last upstream call."""
    started_exchange: object = None
    """An exchange already started for the first call, see ``ModelCall.started_exchange``."""
    exchange_started_ns: int = 0
    upstream_ns: int = 0
    attempts: int = 0
    entry_id: str = ""
    complete: bool = False
    """The upstream ended the answer as its dialect prescribes."""
    tokens_streamed: int = 0
    routed: bool = False
    """The router's score decided, not the caller or a hard rule."""
    classification: Classification | None = None
    tools: Sequence[ToolUse] = ()
    """Ended calls of the gateway's own tools."""
    single_attempt: bool = False
    """A second call would act twice at the vendor: no hedge, and no retry once the first may be received."""
    flight: Flight | None = None
    """The flight that this turn leads: while it has followers, the client's leaving does not end it."""
    cancel: Callable[[], object] = cancel_nothing
    """Ends this turn's task."""

    def __init__(
        self,
        request_id: str,
        tenant: str,
        timeline: Timeline,
        deadline: Deadline,
        started_unix_s: float,
    ) -> None:
        """Start a request's state."""
        self.request_id = request_id
        self.tenant = tenant
        self.timeline = timeline
        self.deadline = deadline
        self.started_unix_s = started_unix_s

    def record_tool(self, tool: ToolUse) -> None:
        """Add an ended call of one of the gateway's own tools."""
        self.tools = (*self.tools, tool)

    def take_answer(self, other: Turn) -> None:
        """Copy what describes the answer from ``other``, a copy of this turn; not time, calls and cost."""
        self.model, self.answered_tier, self.reason = other.model, other.answered_tier, other.reason
        self.upstream, self.call = other.upstream, other.call
        self.usage, self.tokens_streamed = other.usage, other.tokens_streamed
        self.finish, self.complete = other.finish, other.complete


class CallJournal(Protocol):
    """A job's journal, see ``app.jobs.journal``."""

    async def ask(
        self, calls: Sequence[ModelCall], gateway: Gateway, turn: Turn, emit: Emit
    ) -> None:
        """As ``app.pipeline.converse.ask``, but stored whole before the first event, and asked only once."""
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
    router_trainer: RouterTrainer
    load: LoadBalancer
    flights: Flights
    skeletons: Skeletons | None = None
    """Prepared answers with slots that a model fills; None where none is configured."""
    agents: Mapping[str, Agent] = field(default_factory=dict)
    tools: Registry | None = None
    """None where nothing is configured that could be called."""
    speculation: Speculation = field(default_factory=Speculation)
    semantic: SemanticAnswers | None = None
    """The semantic cache; None where it is off."""
    shared: SharedAnswers | None = None
    """Stored answers and flights of all workers, in Redis; None where none is configured."""
    sharing: Sharing | None = None
    """Which answers users of a tenant share; None where the defaults hold."""
    contracts: Contracts | None = None
    """Output contracts; None where none is configured."""
    layouts: Layouts | None = None
    """Reordering of prompts behind their stable part; None where none is configured."""
    batching: Batching | None = None
    """Groups small tasks into one call; None where no route is configured for it."""
    prompts: PromptCaching | None = None
    """Use of the vendors' prompt caches; None where it is off."""
    clock: Callable[[], float] = time.monotonic
    retry_budget: RetryBudget = field(default_factory=RetryBudget)
    on_failure: Callable[[str, str], None] = _uncounted
    """Called for each failed upstream call: the provider's name, the failure's code."""
    retries: Mapping[str, int] = field(default_factory=dict)
    """By provider: the number of retries before the failure goes to the client."""
    escalate: bool = True
    """Whether an inadequate fast answer of a routed request is asked again of the powerful tier."""
    escalation: EscalationPolicy = field(default_factory=EscalationPolicy)
    """What makes a fast answer inadequate, and how it is checked."""
    on_escalation: Callable[[str, str], None] = _uncounted
    """Called for each escalation: what the fast answer lacked, the outcome."""
    shadow: ShadowRuns | None = None
    """Runs a sample of requests on both tiers to train the router; None where it is off."""
    hedging: Hedging | None = None
    """None: no call is hedged."""
    warm_prefixes: WarmPrefixes = field(default_factory=WarmPrefixes)
    journal: CallJournal | None = None
    """A job's journal: answers are stored before they are acted upon. None outside jobs."""
    tool_use_learner: ToolUseLearner | None = None
    """Learns which tools answers call; None where it is off."""
    tracing: bool = False
    """Whether spans are exported: upstream calls then carry this gateway's own ``traceparent``."""
    coalesce: bool = True
    """Whether a request joins the stream of an identical one in flight."""


Ask = Callable[[ChatRequest, Gateway, Turn, Emit], Awaitable[None]]
"""Ask a model and emit its answer."""
