"""Small tasks that come within a few milliseconds, sent as one call and answered one by one.

Theory of operation
-------------------
A request for a model whose operator asked for it, that is a short text behind a system prompt, opens a
group and waits the window out; those that come meanwhile with the same system prompt, options, tenant and
user join. The one that opened it asks the model, in its own task, and hands each its answer. Nobody depends
on it: where the batch fails, is malformed or lacks an answer, or its opener leaves, those without an answer
ask by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from app.domain.chat import AnswerTerms, ChatRequest
from app.domain.events import Answer, AnswerBuilder, Emit, FinishReason, TextBlock
from app.domain.inline_reasoning import without_reasoning
from app.domain.model_call import ModelCall
from app.domain.models import Model
from app.domain.replay import replay
from app.domain.usage import Usage
from app.errors import GatewayError
from app.pipeline.converse import OF_THE_FORM, ask, converse
from app.pipeline.gateway import Gateway, Turn
from app.prompts.tasks import Task, answers_of, batch_of, split, task_of


def _uncounted(_model: str, _what: str, _tasks: int) -> None:
    """Count nothing: no metrics."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A route whose small tasks go together."""

    model: str
    tenant: str = ""
    """Only this tenant's requests; "" = all (never in one call with another's)."""
    window_s: float = 0.005
    most: int = 16
    most_chars: int = 2_000


@dataclass(frozen=True, slots=True)
class _Told:
    """What a member hears: its answer, its share, and who else was in it."""

    text: str
    model: Model
    usage: Usage | None
    cost_usd: float
    of: int


@dataclass(slots=True)
class _Member:
    task: Task
    answer: asyncio.Future[_Told | None]
    weight: int
    terms: AnswerTerms | None
    """What the output contract of all of them asks; None where none holds."""


@dataclass(slots=True)
class _Group:
    members: list[_Member] = field(default_factory=list)
    full: asyncio.Event = field(default_factory=asyncio.Event)


class Batching:
    """The groups that are gathering; one for all of a gateway."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        """The first of ``batches`` that names a request's model and tenant holds."""
        self._batches = batches
        self._open: dict[tuple[str, ...], _Group] = {}
        self.on_batch: Callable[[str, str, int], None] = _uncounted
        """Told what became of tasks: the model's name, ``together`` (answered from a common call), ``failed``
        (the call brought nothing) or ``unanswered`` (it left them out), the last two to be asked alone, and
        how many. Each common call is told once as ``call``.
        """

    def concerns(self, model: str, tenant: str) -> bool:
        """Whether small tasks of ``tenant`` for ``model`` go together."""
        return any(each.model == model and each.tenant in {"", tenant} for each in self._batches)

    def of(self, model: Model, request: ChatRequest, turn: Turn) -> Batch | None:
        """The rule that ``request`` comes under, from what costs nothing to see."""
        if request.stream or turn.deadline.at_s is not None:
            return None
        for batch in self._batches:
            if batch.model == model.name and batch.tenant in {"", turn.tenant}:
                return batch
        return None

    async def answer(
        self,
        found: tuple[Batch, Model],
        request: ChatRequest,
        gateway: Gateway,
        turn: Turn,
        emit: Emit,
    ) -> None:
        """Answer ``request`` in a batch; alone where it is no task, has no company, or the batch failed."""
        batch, model = found
        task = _task(request, gateway, batch)
        told = None
        if task is not None:
            terms = request.terms
            under = "" if terms is None else terms.key
            key = (turn.tenant, turn.user, model.name, request.dialect, under, task.together)
            loop = asyncio.get_running_loop()
            member = _Member(task, loop.create_future(), len(task.text) + 1, terms)
            told = await self._together(key, member, found, gateway, turn)
        if told is None:
            await converse(request, gateway, turn, (model,), emit)
            return
        turn.reason = f"answered in a batch of {told.of}"
        turn.model, turn.usage, turn.cost_usd = told.model, told.usage, told.cost_usd
        turn.finish, turn.complete = FinishReason.STOP.value, True
        answer = Answer(
            turn.request_id,
            told.model.upstream_model,
            (TextBlock(told.text),),
            FinishReason.STOP,
            told.usage or Usage(),
            int(turn.started_unix_s),
        )
        for event in replay(answer):
            await emit(event)

    async def _together(
        self,
        key: tuple[str, ...],
        member: _Member,
        found: tuple[Batch, Model],
        gateway: Gateway,
        turn: Turn,
    ) -> _Told | None:
        """Join the group that gathers under ``key``, or open it; None where the task must be asked alone."""
        group = self._open.get(key)
        if group is not None:
            group.members.append(member)
            if len(group.members) >= found[0].most:
                del self._open[key]
                group.full.set()
            with turn.timeline.stage("upstream", "batched"):
                return await member.answer
        group = self._open[key] = _Group([member])
        try:
            with turn.timeline.stage("upstream", "gathering"), suppress(TimeoutError):
                await asyncio.wait_for(group.full.wait(), found[0].window_s)
            if self._open.get(key) is group:
                del self._open[key]
            group.members = [each for each in group.members if not each.answer.cancelled()]
            if len(group.members) > 1:
                await self._ask(group.members, found[1], gateway, turn)
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
        """Ask for all of ``members`` on the opener's turn; hand out what came."""
        tasks = [each.task for each in members]
        conversation = batch_of(tasks, structured=model.abilities.structured_output)
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
            answer = replace(answer, blocks=(TextBlock(without_reasoning(answer.text)),))
        texts = answers_of(answer, tasks)
        lacking = texts.count(None)
        kind = "unanswered" if lacking < len(texts) else "failed"
        self.on_batch(model.name, kind, lacking)
        self.on_batch(model.name, "together", len(texts) - lacking)
        _hand_out(members, texts, model, turn)


def _task(request: ChatRequest, gateway: Gateway, batch: Batch) -> Task | None:
    if any(name not in OF_THE_FORM for name, _ in request.forward_headers):
        return None
    try:
        conversation = gateway.codecs[request.dialect].read(request.body)
    except GatewayError:
        return None  # what cannot be read neutrally travels alone, as it came
    return task_of(conversation, batch.most_chars)


def _hand_out(
    members: Sequence[_Member], texts: Sequence[str | None], model: Model, turn: Turn
) -> None:
    """Give each that has an answer its part of what the batch used; the opener bears the rest."""
    served = [
        not member.answer.done() and text is not None
        for member, text in zip(members, texts, strict=True)
    ]
    weights = [member.weight if fine else 0 for member, fine in zip(members, served, strict=True)]
    if not any(served):
        return
    usage, paid = turn.usage, turn.cost_usd
    parts = [None] * len(members) if usage is None else split(usage, weights)
    for member, text, part, weight in zip(members, texts, parts, weights, strict=True):
        if member.answer.done() or text is None:
            continue
        share = paid * weight / sum(weights)
        member.answer.set_result(_Told(text, model, part, share, len(members)))
    if not served[0]:
        turn.usage, turn.cost_usd = None, 0.0  # the others bear it; its own call comes next
