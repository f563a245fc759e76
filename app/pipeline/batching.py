"""Batch small tasks that arrive within a few milliseconds into one upstream call, answered one by one.

Theory of operation
-------------------
Where a rule covers the model, a request that is a short text behind a system prompt opens a group and waits
for the window; requests with the same system prompt, options, tenant and user join it. The opener calls the
model in its own task and distributes the answers. Nobody depends on it: where the batch fails, is malformed
or lacks an answer, or its opener leaves, the members without an answer make their own calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from app.domain.chat import AnswerTerms, ChatRequest
from app.domain.events import Answer, AnswerBuilder, Emit, FinishReason, TextBlock
from app.domain.model_call import ModelCall
from app.domain.models import Model
from app.domain.reasoning_stripper import strip_reasoning
from app.domain.replay import replay
from app.domain.usage import Usage
from app.errors import GatewayError
from app.pipeline.converse import INERT_HEADERS, ask, converse
from app.pipeline.gateway import Gateway, Turn
from app.prompts.tasks import Task, batch_conversation, split_answers, split_usage, task_of


def _uncounted(_model: str, _what: str, _tasks: int) -> None:
    """Do nothing: no metrics."""


@dataclass(frozen=True, slots=True)
class BatchRule:
    """A model whose small tasks are batched."""

    model: str
    tenant: str = ""
    """Only this tenant's requests; "" = every tenant's, each in calls of its own."""
    window_s: float = 0.005
    max_tasks: int = 16
    max_chars: int = 2_000


@dataclass(frozen=True, slots=True)
class _TaskAnswer:
    """A member's answer, its share of the cost, and the size of its group."""

    text: str
    model: Model
    usage: Usage | None
    cost_usd: float
    group_size: int


@dataclass(slots=True)
class _Member:
    task: Task
    answer: asyncio.Future[_TaskAnswer | None]
    weight: int
    terms: AnswerTerms | None
    """The output contract that all members share; None where there is none."""


@dataclass(slots=True)
class _Group:
    members: list[_Member] = field(default_factory=list)
    full: asyncio.Event = field(default_factory=asyncio.Event)


class Batching:
    """The open groups of a gateway; one event loop owns it."""

    def __init__(self, batches: Sequence[BatchRule]) -> None:
        """The first of ``batches`` that matches a request's model and tenant applies."""
        self._batches = batches
        self._open: dict[tuple[str, ...], _Group] = {}
        self.on_batch: Callable[[str, str, int], None] = _uncounted
        """Called with the model's name, an outcome and a number of tasks: ``together`` (answered by the
        batch), ``failed`` (the call brought nothing) or ``unanswered`` (left out); both are then asked alone.
        Each batch call is counted once as ``call``.
        """

    def concerns(self, model: str, tenant: str) -> bool:
        """Whether a rule covers ``tenant`` and ``model``."""
        return any(each.model == model and each.tenant in {"", tenant} for each in self._batches)

    def rule_for(self, model: Model, request: ChatRequest, turn: Turn) -> BatchRule | None:
        """The rule for ``request``, without reading its body; None where none applies."""
        if request.stream or turn.deadline.at_s is not None:
            return None
        for batch in self._batches:
            if batch.model == model.name and batch.tenant in {"", turn.tenant}:
                return batch
        return None

    async def answer(
        self,
        rule: tuple[BatchRule, Model],
        request: ChatRequest,
        gateway: Gateway,
        turn: Turn,
        emit: Emit,
    ) -> None:
        """Answer ``request`` in a batch; alone where it is no small task, has no company, or it failed."""
        batch, model = rule
        task = _task_from(request, gateway, batch)
        answered = None
        if task is not None:
            terms = request.terms
            under = "" if terms is None else terms.key
            key = (turn.tenant, turn.user, model.name, request.dialect, under, task.together)
            loop = asyncio.get_running_loop()
            member = _Member(task, loop.create_future(), len(task.text) + 1, terms)
            answered = await self._answer_in_group(key, member, rule, gateway, turn)
        if answered is None:
            await converse(request, gateway, turn, (model,), emit)
            return
        turn.reason = f"answered in a batch of {answered.group_size}"
        turn.model, turn.usage, turn.cost_usd = answered.model, answered.usage, answered.cost_usd
        turn.finish, turn.complete = FinishReason.STOP.value, True
        answer = Answer(
            turn.request_id,
            answered.model.upstream_model,
            (TextBlock(answered.text),),
            FinishReason.STOP,
            answered.usage or Usage(),
            int(turn.started_unix_s),
        )
        for event in replay(answer):
            await emit(event)

    async def _answer_in_group(
        self,
        key: tuple[str, ...],
        member: _Member,
        rule: tuple[BatchRule, Model],
        gateway: Gateway,
        turn: Turn,
    ) -> _TaskAnswer | None:
        """Join the open group of ``key``, or open one; None where the task must be asked alone."""
        group = self._open.get(key)
        if group is not None:
            group.members.append(member)
            if len(group.members) >= rule[0].max_tasks:
                del self._open[key]
                group.full.set()
            with turn.timeline.stage("upstream", "batched"):
                return await member.answer
        group = self._open[key] = _Group([member])
        try:
            with turn.timeline.stage("upstream", "gathering"), suppress(TimeoutError):
                await asyncio.wait_for(group.full.wait(), rule[0].window_s)
            if self._open.get(key) is group:
                del self._open[key]
            group.members = [each for each in group.members if not each.answer.cancelled()]
            if len(group.members) > 1:
                await self._ask(group.members, rule[1], gateway, turn)
        finally:
            if self._open.get(key) is group:
                del self._open[key]
            for each in group.members:
                if not each.answer.done():
                    each.answer.set_result(None)
        return member.answer.result()

    async def _ask(
        self, members: Sequence[_Member], model: Model, gateway: Gateway, turn: Turn
    ) -> None:
        """Make the batch call on the opener's turn, and distribute the answers."""
        tasks = [each.task for each in members]
        conversation = batch_conversation(tasks, structured=model.abilities.structured_output)
        terms = members[0].terms
        if terms is not None:
            conversation, _ = terms.of_many().neutral(conversation, model)
        call = ModelCall(model, stream=False, deadline=turn.deadline, conversation=conversation)
        call.neutral, call.request_id = True, turn.request_id
        builder = AnswerBuilder()

        async def gather(event: object) -> None:
            builder.add(event)  # type: ignore[arg-type]

        self.on_batch(model.name, "call", 1)
        try:
            await ask((call,), gateway, turn, gather)
        except GatewayError:
            self.on_batch(model.name, "failed", len(members))
            return  # counted where upstream failures are; each asks alone
        except asyncio.CancelledError:  # the opener leaves: the others ask alone
            self.on_batch(model.name, "failed", len(members) - 1)
            raise
        answer = builder.answer()
        if answer is not None and terms is not None and terms.hides_reasoning:
            answer = replace(answer, blocks=(TextBlock(strip_reasoning(answer.text)),))
        texts = split_answers(answer, tasks)
        lacking = texts.count(None)
        kind = "unanswered" if lacking < len(texts) else "failed"
        self.on_batch(model.name, kind, lacking)
        self.on_batch(model.name, "together", len(texts) - lacking)
        _distribute(members, texts, model, turn)


def _task_from(request: ChatRequest, gateway: Gateway, batch: BatchRule) -> Task | None:
    if any(name not in INERT_HEADERS for name, _ in request.forward_headers):
        return None
    try:
        conversation = gateway.codecs[request.dialect].read(request.body)
    except GatewayError:
        return None  # without a neutral reading it is forwarded alone, unchanged
    return task_of(conversation, batch.max_chars)


def _distribute(
    members: Sequence[_Member], texts: Sequence[str | None], model: Model, turn: Turn
) -> None:
    """Resolve each member that has an answer with its share of usage and cost, by prompt length."""
    served = [
        not member.answer.done() and text is not None
        for member, text in zip(members, texts, strict=True)
    ]
    weights = [member.weight if fine else 0 for member, fine in zip(members, served, strict=True)]
    if not any(served):
        return
    usage, paid = turn.usage, turn.cost_usd
    parts = [None] * len(members) if usage is None else split_usage(usage, weights)
    for member, text, part, weight in zip(members, texts, parts, weights, strict=True):
        if member.answer.done() or text is None:
            continue
        share = paid * weight / sum(weights)
        member.answer.set_result(_TaskAnswer(text, model, part, share, len(members)))
    if not served[0]:
        turn.usage, turn.cost_usd = None, 0.0  # the others carry the cost; its own call follows
