"""Start the tool calls that the model will most likely make, before it has made them.

A draft is started if and only if all of this holds: speculation is on for the agent; the tool is
read-only and repeatable, and disclosable unless it stays on the operator's own hosts; ``p > c / (c
+ v * saved)``; and the waste budget has room. A call of the model that a draft has foreseen takes
the draft's result, however far it has come; what the model does not call is cancelled and dropped
when its turn is over, and counted. Nothing of a wrong draft reaches model or client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from app.domain.chat import Json
from app.domain.plan import Node, Outcome
from app.domain.speculation import LEAST_TRIES, Patterns, Prediction, key_of, pays
from app.domain.tools import ToolCaller, ToolResult, ToolSpec
from app.errors import ToolError
from app.pipeline.fanout import Fanout

if TYPE_CHECKING:
    from app.tools.registry import Registered, Registry

_FORGET = 0.2
_LEAST_COST_USD = 1e-5
"""What a wasted call costs at least: some quota and some work of somebody's server."""
_FREE_WASTE_CALLS = 2


@dataclass(slots=True)
class ToolStatistics:
    """What speculation has done for one tool."""

    calls: int = 0
    """Calls that the model made."""
    fired: int = 0
    hits: int = 0
    wasted: int = 0
    wasted_usd: float = 0.0
    saved_s: float = 0.0
    """Tool time that ran before the model had asked."""
    tool_s: float = 0.0
    """All time of the calls that the model made."""
    predictions: int = 0
    squared_error: float = 0.0
    mean_s: float = 0.0
    """Moving mean of how long a call takes that is really made."""

    def count(self, took_s: float, *, cached: bool) -> None:
        """Count a call of the model's. A kept result says nothing of what a call would take: frequent
        ones would make the next real call look like nothing to save.
        """
        self.calls += 1
        self.tool_s += took_s
        if not cached:
            known_s = self.mean_s or took_s
            self.mean_s = known_s + _FORGET * (took_s - known_s)

    def described(self) -> dict[str, object]:
        """As JSON: with the hit rate and the Brier score of all predictions, fired or not."""
        return {
            "calls": self.calls,
            "fired": self.fired,
            "hits": self.hits,
            "hit_rate": self.hits / self.fired if self.fired else None,
            "wasted_calls": self.wasted,
            "wasted_usd": self.wasted_usd,
            "saved_s": self.saved_s,
            "hidden_share": self.saved_s / self.tool_s if self.tool_s else None,
            "predictions": self.predictions,
            "brier": self.squared_error / self.predictions if self.predictions else None,
        }


@dataclass(slots=True)
class Policy:
    """What an operator allows; see the settings of the same names."""

    enabled: bool = True
    value_usd_per_s: float = 0.002
    max_waste_share: float = 0.1
    """Wasted calls per call that was made."""


@dataclass(slots=True)
class Speculation:
    """All that was learned, of all agents; one event loop owns it. ``halted`` is the kill switch."""

    halted: bool = False
    patterns: dict[tuple[str, str, str], Patterns] = field(default_factory=dict)
    tools: dict[str, ToolStatistics] = field(default_factory=dict)
    decide_s: dict[str, float] = field(default_factory=dict)
    """Moving mean, by agent, of the time until the model has made a call."""

    def of_tool(self, name: str) -> ToolStatistics:
        """A tool's statistics."""
        return self.tools.setdefault(name, ToolStatistics())

    def of_stage(self, tenant: str, agent: str, stage: str) -> Patterns:
        """What is known of one stage of an agent, for one tenant: nobody's traffic shows in another's."""
        return self.patterns.setdefault((tenant, agent, stage), Patterns())

    def described(self) -> dict[str, object]:
        """Statistics as JSON."""
        return {
            "halted": self.halted,
            "tools": {name: each.described() for name, each in sorted(self.tools.items())},
        }

    def may_fire(self, spec: ToolSpec, prediction: Prediction, policy: Policy, agent: str) -> bool:
        """Every condition of the module's text."""
        effects = spec.effects
        if self.halted or not policy.enabled or prediction.tries < LEAST_TRIES:
            return False
        if spec.approval or not (effects.read_only and effects.repeatable):
            return False
        if not (effects.disclosable or spec.own_host):
            return False
        total = sum(each.calls for each in self.tools.values())
        wasted = sum(each.wasted for each in self.tools.values())
        if wasted >= _FREE_WASTE_CALLS + policy.max_waste_share * total:
            return False
        saved_s = min(self.decide_s.get(agent, 0.0), self.of_tool(spec.name).mean_s)
        cost_usd = max(spec.cost_usd, _LEAST_COST_USD)
        return pays(prediction.p, cost_usd, policy.value_usd_per_s, saved_s)


@dataclass(slots=True)
class _Draft:
    prediction: Prediction
    spec: ToolSpec
    started_s: float
    done: asyncio.Future[Outcome]
    taken: bool = False


class Drafts:
    """The drafts of one model turn: ``async with``, so that none outlives it."""

    def __init__(
        self,
        speculation: Speculation,
        policy: Policy,
        registry: Registry,
        caller: ToolCaller,
        *,
        agent: str,
        stage: str,
        text: str,
    ) -> None:
        """Predict from ``text``; nothing starts before ``fire``."""
        self._speculation, self._policy = speculation, policy
        self._registry, self._caller, self._agent = registry, caller, agent
        self._patterns = speculation.of_stage(caller.tenant, agent, stage)
        self._text = text
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._drafts: dict[str, _Draft] = {}
        self._predicted: list[Prediction] = []
        self._made: list[tuple[str, Json]] = []
        self._fanout = Fanout(self._work, on_event=self._on_outcome)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._fanout.__aexit__(kind, error, trace)
        if error is None:
            self._settle()

    def fire(self, offered: Mapping[str, Registered]) -> None:
        """Start what pays; every prediction is remembered, for its outcome is counted either way."""
        self._predicted = self._patterns.predict(self._text, offered)
        for prediction in self._predicted:
            registered = offered[prediction.tool]
            if not self._speculation.may_fire(
                registered.spec, prediction, self._policy, self._agent
            ):
                continue
            try:
                registered.check(prediction.arguments)
            except ToolError:
                continue
            self._drafts[prediction.key] = _Draft(
                prediction, registered.spec, self._loop.time(), self._loop.create_future()
            )
            self._speculation.of_tool(prediction.tool).fired += 1
            self._fanout.add(Node(prediction.key))

    def took(self, tool: str, arguments: Json) -> None:
        """The model has made a call: put it down for learning."""
        self._made.append((tool, arguments))
        decided_s = self._loop.time() - self._began_s
        known_s = self._speculation.decide_s.get(self._agent, decided_s)
        self._speculation.decide_s[self._agent] = known_s + _FORGET * (decided_s - known_s)

    def foresaw(self, tool: str, arguments: Json) -> bool:
        """Say whether a draft of this call is there to be taken."""
        draft = self._drafts.get(key_of(tool, arguments))
        return draft is not None and not draft.taken

    async def take(self, tool: str, arguments: Json) -> ToolResult | None:
        """The result of the draft of this call, awaited if need be; None where there is none, or it
        failed.
        """
        draft = self._drafts.get(key_of(tool, arguments))
        if draft is None or draft.taken:
            return None
        draft.taken = True
        asked_s = self._loop.time()
        outcome = await asyncio.shield(draft.done)
        if not isinstance(outcome.value, ToolResult):
            return None  # repeatable by its flag: the real call is made
        statistics = self._speculation.of_tool(tool)
        statistics.hits += 1
        took_s = outcome.ended_s - outcome.started_s
        statistics.saved_s += min(took_s, max(0.0, asked_s - outcome.started_s))
        statistics.count(took_s, cached=outcome.value.cached)
        return outcome.value

    def timed(self, tool: str, took_s: float, *, cached: bool) -> None:
        """A call of the model's, made when it asked, has taken this long in all."""
        self._speculation.of_tool(tool).count(took_s, cached=cached)

    async def _work(self, node: Node, _: Mapping[str, object]) -> ToolResult:
        prediction = self._drafts[node.id].prediction
        return await self._registry.call(
            prediction.tool, prediction.arguments, self._caller, checked=True
        )

    def _on_outcome(self, outcome: Outcome) -> None:
        draft = self._drafts[outcome.id]
        if not draft.done.done():
            draft.done.set_result(outcome)

    def _settle(self) -> None:
        """The turn is over: count the waste, learn from what was called."""
        made = {key_of(tool, arguments) for tool, arguments in self._made}
        for draft in self._drafts.values():
            if not draft.taken:
                statistics = self._speculation.of_tool(draft.spec.name)
                statistics.wasted += 1
                statistics.wasted_usd += draft.spec.cost_usd
        for prediction in self._predicted:
            statistics = self._speculation.of_tool(prediction.tool)
            statistics.predictions += 1
            statistics.squared_error += (prediction.p - (prediction.key in made)) ** 2
        self._patterns.learn(self._text, self._predicted, self._made)


def stage_of(tools: Sequence[str]) -> str:
    """Names where in a run a model turn stands: at its start, or after which tools."""
    return "+".join(sorted(set(tools))) or "start"
