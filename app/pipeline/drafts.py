"""Start the tool calls that the model will most likely make, before it has made them.

A draft is started if and only if all of these hold: speculation is on for the agent; the tool is
read-only and repeatable, and disclosable unless it stays on the operator's own hosts; ``p > c / (c
+ v * saved)``; and the waste budget has room. Two learners foresee calls: templates, which know where
the arguments of one stage's calls come from (``app.domain.speculation``), and habits, which read the
whole conversation (``app.learn.next_calls``). They are asked when the model has been: predicting
costs the run nothing.

A call of the model that a draft has foreseen takes the draft's result, however far it has come. A
draft lives until the run's end: the call that it foresees may be the next but one. But when the model
calls a tool that is not read-only, every draft that is not taken is thrown away before that tool
starts: what was read before a change must not be served after it. What the model does not call is
cancelled, dropped and counted. Nothing of a wrong draft reaches model or client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from app.domain.chat import Json
from app.domain.plan import Node, Outcome
from app.domain.speculation import MIN_PROBABILITY, Patterns, Prediction, call_identity
from app.domain.tools import ToolCaller, ToolResult, ToolSpec
from app.errors import ToolError
from app.learn.argument_sources import ConversationState, PastCall
from app.learn.lessons import Lesson, LessonTurn
from app.learn.next_calls import DecisionPoint, PredictedCall, SpeculativeTool
from app.pipeline.fanout import Fanout
from app.pipeline.speculation import Speculation, SpeculationPolicy, is_eligible

if TYPE_CHECKING:
    from app.tools.registry import RegisteredTool, Registry

_FORGET = 0.2
_LEARN_AFTER_S = 0.02


@dataclass(slots=True)
class _Draft:
    tool: str
    arguments: Json
    spec: ToolSpec
    done: asyncio.Future[Outcome]
    node_id: str
    p: float
    taken: bool = False


@dataclass(slots=True)
class _TemplateTurn:
    """One turn of the model, as the templates of its stage see it."""

    patterns: Patterns
    text: str
    began_s: float
    first_call: int
    predicted: list[Prediction]


class Drafts:
    """The drafts of one run: ``async with``, so that none outlives it."""

    def __init__(
        self,
        speculation: Speculation,
        policy: SpeculationPolicy,
        registry: Registry,
        caller: ToolCaller,
        *,
        agent: str,
    ) -> None:
        """Nothing starts before ``fire``."""
        self._speculation, self._policy = speculation, policy
        self._registry, self._caller, self._agent = registry, caller, agent
        self._habits = speculation.next_call_model(caller.tenant, agent)
        self._budget = speculation.budget(agent)
        self._loop = asyncio.get_running_loop()
        self._drafts: dict[str, _Draft] = {}
        self._nodes: dict[str, _Draft] = {}
        self._calls: list[PastCall] = []
        self._changing_tools: set[str] = set()
        self._schemas: dict[str, Json] = {}
        self._points: list[tuple[DecisionPoint, int]] = []
        self._stages: list[tuple[str, str]] = []
        self._eligible_tools: list[SpeculativeTool] = []
        self._turn: _TemplateTurn | None = None
        self._fanout = Fanout(self._work, on_event=self._on_outcome)
        self._scheduled: asyncio.Handle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cancel_scheduled()
        await self._fanout.__aexit__(kind, error, trace)
        if error is None:
            self._settle()

    def start_turn(
        self,
        offered: Mapping[str, RegisteredTool],
        *,
        stage: str,
        text: str,
        scene: Callable[[], ConversationState],
    ) -> None:
        """A model turn begins: once the model is called, start the drafts that are worth it.

        Every prediction is recorded, since its outcome counts whether or not it was started.
        """
        self._turn = None
        self._scheduled = self._loop.call_soon(self._start_drafts, offered, stage, text, scene)

    def _start_drafts(
        self,
        offered: Mapping[str, RegisteredTool],
        stage: str,
        text: str,
        scene: Callable[[], ConversationState],
    ) -> None:
        patterns = self._speculation.stage_patterns(self._caller.tenant, self._agent, stage)
        predicted = patterns.predict(text, offered)
        began_s, made = self._loop.time(), len(self._calls)
        self._turn = _TemplateTurn(patterns, text, began_s, made, predicted)
        known = [
            SpeculativeTool(name, each.spec.description, each.spec.parameters)
            for name, each in offered.items()
            if is_eligible(each.spec)
        ]
        self._eligible_tools = known
        self._stages.append((stage, text))
        self._schemas |= {name: each.spec.parameters for name, each in offered.items()}
        point = self._habits.predict(scene(), known)
        self._points.append((point, made))
        likely: list[Prediction | PredictedCall] = [
            each for each in predicted if each.p >= MIN_PROBABILITY
        ]
        likely += [each for each in point.predictions if each.p >= self._habits.min_p]
        for each in sorted(likely, key=lambda each: -each.p):
            self._start(offered[each.tool], each)

    def _start(self, registered: RegisteredTool, foreseen: Prediction | PredictedCall) -> None:
        spec = registered.spec
        if foreseen.key in self._drafts:
            return
        if not self._speculation.may_start(spec, foreseen, self._policy, self._agent):
            return
        try:
            registered.check(foreseen.arguments)
        except ToolError:
            return
        node_id = str(len(self._nodes))
        done: asyncio.Future[Outcome] = self._loop.create_future()
        draft = _Draft(foreseen.tool, foreseen.arguments, spec, done, node_id, foreseen.p)
        self._drafts[foreseen.key] = self._nodes[node_id] = draft
        self._speculation.tool_statistics(foreseen.tool).fired += 1
        self._budget.reserve(foreseen.p)
        self._fanout.add(Node(node_id))

    def record_call(self, tool: str, arguments: Json, *, changes: bool) -> None:
        """Record a call of the model's, before it starts, for training.

        ``changes``: it is not read-only, so no draft outlives it.
        """
        self._cancel_scheduled()
        self._calls.append(PastCall(tool, arguments))
        if self._turn is not None:
            decided_s = self._loop.time() - self._turn.began_s
            known_s = self._speculation.decision_times_s.get(self._agent, decided_s)
            self._speculation.decision_times_s[self._agent] = known_s + _FORGET * (
                decided_s - known_s
            )
        if changes:
            self._changing_tools.add(tool)
            self.discard_untaken()

    def discard_untaken(self) -> None:
        """Cancel every draft that is not taken."""
        self._cancel_scheduled()
        for key, draft in list(self._drafts.items()):
            if not draft.taken:
                del self._drafts[key]
                self._record_waste(draft)
                self._fanout.cancel(draft.node_id)

    def _cancel_scheduled(self) -> None:
        """Start no drafts for this turn: the model has already decided, and a draft that starts now
        could read another state than the model did.
        """
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None

    def has_draft(self, tool: str, arguments: Json) -> bool:
        """Whether there is an untaken draft of this call."""
        draft = self._drafts.get(call_identity(tool, arguments))
        return draft is not None and not draft.taken

    async def take(self, tool: str, arguments: Json) -> ToolResult | None:
        """Await and take the draft of this call; None where there is none, or it failed."""
        key = call_identity(tool, arguments)
        draft = self._drafts.get(key)
        if draft is None or draft.taken:
            return None
        draft.taken = True
        asked_s = self._loop.time()
        try:
            outcome = await asyncio.shield(draft.done)
        finally:
            self._drafts.pop(key, None)  # asked again, it is called again
        if not isinstance(outcome.value, ToolResult):
            self._record_waste(draft)
            return None  # repeatable by its flag: the real call is made
        self._budget.settle(draft.p, right=True)
        self._budget.add_call(self._policy.max_waste_share)
        statistics = self._speculation.tool_statistics(tool)
        statistics.hits += 1
        took_s = outcome.ended_s - outcome.started_s
        statistics.saved_s += min(took_s, max(0.0, asked_s - outcome.started_s))
        statistics.record_call(took_s, cached=outcome.value.cached)
        return outcome.value

    def record_duration(self, tool: str, took_s: float, *, cached: bool) -> None:
        """Record how long a call without a draft took."""
        self._speculation.tool_statistics(tool).record_call(took_s, cached=cached)
        self._budget.add_call(self._policy.max_waste_share)

    def end_turn(self, made: Sequence[PastCall]) -> None:
        """A model turn is over: train its templates on its calls and their results."""
        self._cancel_scheduled()
        turn, self._turn = self._turn, None
        if turn is None:
            return
        calls = [(each.tool, each.arguments) for each in self._calls[turn.first_call :]]
        keys = {call_identity(*call) for call in calls}
        for prediction in turn.predicted:
            self._score_prediction(prediction.tool, prediction.p, right=prediction.key in keys)
        turn.patterns.learn(turn.text, turn.predicted, calls)
        if len(made) == len(calls):
            self._calls[turn.first_call :] = made

    async def _work(self, node: Node, _: Mapping[str, object]) -> ToolResult:
        draft = self._nodes[node.id]
        return await self._registry.call(draft.tool, draft.arguments, self._caller, checked=True)

    def _on_outcome(self, outcome: Outcome) -> None:
        draft = self._nodes[outcome.id]
        if not draft.done.done():
            draft.done.set_result(outcome)

    def _record_waste(self, draft: _Draft) -> None:
        statistics = self._speculation.tool_statistics(draft.tool)
        statistics.wasted += 1
        statistics.wasted_usd += draft.spec.cost_usd
        self._budget.settle(draft.p, right=False)

    def _score_prediction(self, tool: str, p: float, *, right: bool) -> None:
        statistics = self._speculation.tool_statistics(tool)
        statistics.predictions += 1
        statistics.squared_error += (p - right) ** 2

    def _settle(self) -> None:
        """The run is over: count the waste and train on all calls."""
        for draft in self._drafts.values():
            if not draft.taken:
                self._record_waste(draft)
        if self._points:  # learning can wait until the client has its answer
            self._loop.call_later(_LEARN_AFTER_S, self._learn)

    def _learn(self) -> None:
        points = [(point, self._calls[first:]) for point, first in self._points]
        judged = self._habits.learn(
            points, self._schemas, self._changing_tools, self._policy.max_waste_share
        )
        for foreseen, right in judged:
            self._score_prediction(foreseen.tool, foreseen.p, right=right)
        self._speculation.refit(self._habits)
        keep = self._speculation.on_lesson
        if keep is not None and self._policy.remember:
            keep(self._lesson())

    def _lesson(self) -> Lesson:
        """This run as a lesson: its model turns in which calls could be predicted."""
        scene, first = self._points[0][0].state, self._points[0][1]
        ends = [*(at for _, at in self._points[1:]), len(self._calls)]
        turns = [
            LessonTurn(stage, text, tuple(self._calls[at:end]))
            for (stage, text), (_, at), end in zip(self._stages, self._points, ends, strict=True)
        ]
        return Lesson(
            lesson_id=uuid4().hex,
            tenant=self._caller.tenant,
            agent=self._agent,
            said=scene.user_text,
            earlier=scene.earlier_user_texts,
            before=(*scene.earlier_calls, *self._calls[:first]),
            turns=tuple(turns),
            tools=tuple(self._eligible_tools),
            schemas=self._schemas,
            changes=tuple(sorted(self._changing_tools)),
            share=self._policy.max_waste_share,
        )
