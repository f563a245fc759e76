"""``agent/<name>`` as a model: the same run, answered in the requested dialect, without its tool calls.

Only the final answer is text. What the model writes before it calls a tool ("Let me look that up") is
progress: the beginning of each message is held back until it is too long to be such a remark; statuses
and remarks are sent as comments of the stream. Nothing is sent before the first tool starts, so a
failure keeps its status.

Identical requests in flight share one run where nothing that it may call changes anything, and no
request brings a deadline of its own, which would shape the answer: a call that changes something
must happen as often as it was asked for.

An answer that was made from read-only tools may be kept as long as its shortest-lived ingredient:
the least ``cache_ttl_s`` of the tools that were called. One call of any other tool, and it is not
kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

from app.cache.coalesce import Flight
from app.cache.exact import CachedAnswer
from app.cache.key import CacheScope, exact_key
from app.domain.agents import AGENT_MODEL_PREFIX, Agent
from app.domain.chat import ChatRequest, Conversation, Message, Role, TextPart
from app.domain.deadline import Deadline
from app.domain.decisions import CacheMode, CacheOutcome
from app.domain.events import (
    Answer,
    AnswerStarted,
    Emit,
    Finished,
    FinishReason,
    Progress,
    TextBlock,
    TextDelta,
)
from app.domain.plan import NodeKind
from app.domain.run_events import (
    CallEnded,
    CallOpened,
    MessageEnded,
    MessageStarted,
    MessageText,
    RunEvent,
    Status,
)
from app.domain.usage import Usage
from app.errors import CacheOnlyMiss, GatewayError, NotFound, Unsupported
from app.pipeline.agent import AgentRun
from app.pipeline.flights import join_flight
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.replay import may_serve, serve_cached
from app.pipeline.synthesis import missing_note, partial_answer

_REMARK_CHARS = 96
"""About twenty tokens: as long as a remark before a tool call gets, and a tenth of a second of a
fast model.
"""
_UNCACHED_TTL_S = 0.0


async def answer_as_agent(request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit) -> None:
    """Answer ``request`` by a run of the agent that it names; raises as ``answer`` does."""
    agent = gateway.agents.get(request.model.removeprefix(AGENT_MODEL_PREFIX))
    if agent is None:
        known = (
            ", ".join(f"{AGENT_MODEL_PREFIX}{name}" for name in sorted(gateway.agents)[:12])
            or "none"
        )
        message = f"the agent {request.model[:80]!r} is not configured: there are {known}"
        raise NotFound(message, code="model_not_found", param="model")
    conversation = gateway.codecs[request.dialect].read(request.body)
    if conversation.tools:
        message = "an agent has its own tools: ask for a model to use yours"
        raise Unsupported(message, param="tools")
    with turn.timeline.stage("cache"):
        key = _key(agent, request, gateway, turn)
        kept = _look_up(key, request, gateway, turn)
    if kept is not None:
        await serve_cached(kept, request, gateway, turn, emit)
        return
    if turn.cache_mode is CacheMode.ONLY:
        raise CacheOnlyMiss("no answer of this agent is kept for this request")
    shared = key is not None and _may_share(agent, gateway, turn)
    flight = gateway.flights.running(key) if key is not None and shared else None
    if flight is not None:
        await join_flight(flight, request, gateway, turn, emit)
        return
    now_s = asyncio.get_running_loop().time()
    turn.deadline = Deadline.after(now_s, turn.deadline.sooner(now_s, agent.deadline_s))
    with _leading(key if shared else None, request, gateway, turn) as led:
        teller = _AnswerStream(request.model, turn, emit if led is None else led.recording(emit))
        run = _run(agent, conversation, gateway, turn, teller)
        answer = await teller.stream_answer(run)
    if key is not None:
        _store(key, answer, run, request)


def _run(
    agent: Agent, conversation: Conversation, gateway: Gateway, turn: Turn, teller: _AnswerStream
) -> AgentRun:
    return AgentRun(
        agent=agent,
        messages=with_system(agent, conversation.messages),
        gateway=gateway,
        turn=turn,
        emit=teller.enqueue,
        sampling=conversation.sampling,
    )


def _may_share(agent: Agent, gateway: Gateway, turn: Turn) -> bool:
    default = turn.cache_mode is CacheMode.DEFAULT and turn.deadline.at_s is None
    return gateway.coalesce and default and _is_read_only(agent, gateway, set())


def _is_read_only(agent: Agent, gateway: Gateway, seen: set[str]) -> bool:
    """Say whether all that a run of ``agent`` may call is declared read-only."""
    seen.add(agent.name)
    tools = gateway.tools
    planned = [node.name for node in agent.workflow if node.kind in {NodeKind.TOOL, NodeKind.MAP}]
    if tools is not None and not all(map(tools.is_read_only, (*agent.tools, *planned))):
        return False
    others = [gateway.agents[name] for name in agent.agents if name in gateway.agents]
    return all(each.name in seen or _is_read_only(each, gateway, seen) for each in others)


@contextmanager
def _leading(
    key: bytes | None, request: ChatRequest, gateway: Gateway, turn: Turn
) -> Iterator[Flight | None]:
    """Let identical requests join what is said inside; None where they may not."""
    if key is None:
        yield None
        return
    flight = turn.flight = Flight(
        request.dialect, request.stream, request.include_usage, turn.cancel, turn
    )
    gateway.flights.lead(key, flight)
    try:
        yield flight
    except BaseException as error:
        gateway.flights.land(key, flight, error)
        raise
    gateway.flights.land(key, flight, None)


def with_system(agent: Agent, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The agent's own instructions, before everything else."""
    if not agent.system:
        return messages
    return (Message(Role.SYSTEM, (TextPart(agent.system),)), *messages)


class _AnswerStream:
    """Turns a run's events into the events of its final answer, at the client's pace."""

    def __init__(self, model: str, turn: Turn, emit: Emit) -> None:
        self._model, self._turn, self._emit = model, turn, emit
        self._events: asyncio.Queue[RunEvent | None] = asyncio.Queue()
        self._held: list[str] = []
        self._held_chars = 0
        self._texts: list[str] = []
        self._ended_calls: list[CallEnded] = []
        self._message_shown = False

    @property
    def enqueue(self) -> Callable[[RunEvent], None]:
        """Receives the run's events."""
        return self._events.put_nowait

    async def stream_answer(self, run: AgentRun) -> Answer:
        """Run, stream, and give the whole answer; raises what the run raised."""
        failure: list[GatewayError] = []

        async def work() -> None:
            try:
                await run.run()
            except GatewayError as error:
                failure.append(error)
            finally:
                self._events.put_nowait(None)

        async with asyncio.TaskGroup() as group:
            group.create_task(work())
            while (event := await self._next()) is not None:
                await self._handle(event)
        if failure:
            raise failure[0]
        return await self._finish(run)

    async def _next(self) -> RunEvent | None:
        """The next event of the run. Yields to the run first: a write to the client costs more than the
        start of a tool or of a model call.
        """
        if not self._events.empty():
            return self._events.get_nowait()
        event = await self._events.get()
        await asyncio.sleep(0)
        return event

    async def _handle(self, event: RunEvent) -> None:
        match event:
            case Status(text):
                await self._emit(Progress(text))
            case CallEnded():
                self._ended_calls.append(event)
            case MessageStarted(reasoning=False):
                self._message_shown = False
            case MessageText(_, text, reasoning=False):
                self._held.append(text)
                self._held_chars += len(text)
                if self._message_shown or self._held_chars > _REMARK_CHARS:
                    await self._flush_held()
            case CallOpened() if self._held:
                await self._emit(Progress("".join(self._held).strip()))
                self._held, self._held_chars = [], 0
            case MessageEnded():
                pass
            case _:
                pass

    async def _flush_held(self) -> None:
        if self._held:
            text = "".join(self._held)
            self._held, self._held_chars = [], 0
            if self._texts and not self._message_shown:
                text = "\n\n" + text  # an earlier message turned out longer than a remark
            self._message_shown = True
            await self._emit_text(text)

    async def _emit_text(self, text: str) -> None:
        if not self._texts:
            turn = self._turn
            await self._emit(AnswerStarted(turn.request_id, self._model, int(turn.started_unix_s)))
        self._texts.append(text)
        await self._emit(TextDelta(text))

    async def _finish(self, run: AgentRun) -> Answer:
        await self._flush_held()
        if not self._texts:
            await self._emit_text(run.text or partial_answer(self._ended_calls))
        note = missing_note(run.left_out)
        if note:
            await self._emit_text(note)
        turn = self._turn
        finish = FinishReason(run.finish) if run.finish else FinishReason.STOP
        if finish is FinishReason.TOOL_CALLS:
            finish = FinishReason.STOP  # the tools are ours: to the client this is simply the end
        usage = turn.usage or Usage()
        turn.finish, turn.complete = finish.value, True
        await self._emit(Finished(finish, usage))
        return Answer(
            id=turn.request_id,
            model=self._model,
            blocks=(TextBlock("".join(self._texts)),),
            finish=finish,
            usage=usage,
            created_s=int(turn.started_unix_s),
        )


def _key(agent: Agent, request: ChatRequest, gateway: Gateway, turn: Turn) -> bytes | None:
    if gateway.exact is None or turn.cache_mode is CacheMode.BYPASS:
        turn.cache = CacheOutcome.BYPASS
        turn.cache_reason = "disabled" if gateway.exact is None else "asked"
        return None
    version = blake2b(repr(agent).encode(), digest_size=8).hexdigest()
    if turn.tools_allowed is not None:  # an answer made with other tools is not for this key
        version += "/" + ",".join(sorted(turn.tools_allowed))
    tier = "" if turn.tier is None else turn.tier.value
    scope = CacheScope(turn.tenant, turn.user, f"{request.model}@{version}", tier)
    return exact_key(scope, request)


def _look_up(
    key: bytes | None, request: ChatRequest, gateway: Gateway, turn: Turn
) -> CachedAnswer | None:
    if key is None or gateway.exact is None:
        return None
    if turn.cache_mode is CacheMode.REFRESH:
        turn.cache_reason = "refresh"
        return None
    if gateway.shared is not None and not gateway.shared.trusted():
        turn.cache_reason = "distrusted"
        return None
    entry = gateway.exact.get(key)
    if entry is None:
        turn.cache_reason = "absent"
        return None
    return entry if may_serve(entry, key, request, gateway, turn) else None


def _store(key: bytes, answer: Answer, run: AgentRun, request: ChatRequest) -> None:
    """Cache a complete answer for the shortest TTL of the tools that it used."""
    gateway, turn = run.gateway, run.turn
    specs = [each.spec for each in run.called_tools.values()]
    ttl_s = min((spec.cache_ttl_s for spec in specs), default=None)
    lacks = run.left_out or run.invalid_calls or run.any_call_failed or run.delegated
    whole = answer.finish.complete and not lacks
    if not whole or ttl_s == _UNCACHED_TTL_S or gateway.exact is None:
        return
    if not all(spec.effects.read_only for spec in specs):
        return
    entry = CachedAnswer(
        key=key,
        dialect=request.dialect,
        streamed=request.stream,
        usage_shown=request.include_usage,
        pieces=(),
        model=turn.model.name if turn.model else "",
        tier=turn.answered_tier,
        tenant=turn.tenant,
        stored_at_s=0.0,
        expires_at_s=0.0,
        request_id=turn.request_id,
        tags=turn.tags,
        usage=turn.usage,
        cost_usd=turn.cost_usd,
        upstream_s=turn.timeline.elapsed_s(),
        answer=answer,
        gate_passed=bool(specs),
    )
    began_ns = turn.timeline.started_ns
    if gateway.exact.blocks(began_ns, key, entry.tenant, entry.model, entry.tags):
        return
    gateway.exact.put(key, entry)
    if ttl_s is not None:
        gateway.exact.shorten(key, ttl_s)
