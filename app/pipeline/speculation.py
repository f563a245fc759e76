"""Speculation's policy, models and statistics; ``app.pipeline.drafts`` has the rules and starts the calls."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from app.domain.speculation import (
    MIN_OUTCOMES,
    Patterns,
    Prediction,
    WasteBudget,
    is_worth_starting,
)
from app.domain.tools import ToolSpec
from app.learn.lessons import Lesson
from app.learn.next_calls import FitResult, NextCallModel, PredictedCall

_FORGET = 0.2
_LEAST_COST_USD = 1e-5
"""Least cost of a wasted call: some quota and some work of a server."""
_MOST_STAGES = 1024
_MOST_AGENTS = 64


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

    def record_call(self, took_s: float, *, cached: bool) -> None:
        """Count a call of the model's. A cached one does not enter the mean: it says nothing of the time
        that a real call takes.
        """
        self.calls += 1
        self.tool_s += took_s
        if not cached:
            known_s = self.mean_s or took_s
            self.mean_s = known_s + _FORGET * (took_s - known_s)

    def to_json(self) -> dict[str, object]:
        """As JSON: with the hit rate and the Brier score of all predictions, started or not."""
        return {
            "calls": self.calls,
            "fired": self.fired,
            "hits": self.hits,
            "hit_rate": self.hits / self.fired if self.fired else None,
            "wasted_calls": self.wasted,
            "wasted_usd": self.wasted_usd,
            "saved_s": self.saved_s,
            "tool_s": self.tool_s,
            "hidden_share": self.saved_s / self.tool_s if self.tool_s else None,
            "predictions": self.predictions,
            "squared_error": self.squared_error,
            "brier": self.squared_error / self.predictions if self.predictions else None,
        }


@dataclass(slots=True)
class SpeculationPolicy:
    """What an operator allows; see the settings of the same names."""

    enabled: bool = True
    value_usd_per_s: float = 0.002
    max_waste_share: float = 0.1
    """Wasted calls per call that was made, 0 to 1."""
    remember: bool = True
    """Runs may be stored as training data beyond this process."""


@dataclass(slots=True)
class Speculation:
    """Models and statistics of all agents; one event loop owns it. ``halted`` is the kill switch."""

    halted: bool = False
    patterns: OrderedDict[tuple[str, str, str], Patterns] = field(default_factory=OrderedDict)
    next_call_models: OrderedDict[tuple[str, str], NextCallModel] = field(
        default_factory=OrderedDict
    )
    budgets: dict[str, WasteBudget] = field(default_factory=dict)
    """What each agent may still waste."""
    tools: dict[str, ToolStatistics] = field(default_factory=dict)
    decision_times_s: dict[str, float] = field(default_factory=dict)
    """Moving mean, by agent, of the time until the model has made a call."""
    on_lesson: Callable[[Lesson], object] | None = None
    """Called with each run's lesson, to store it; None: it is not stored."""
    _fitting: dict[int, asyncio.Future[FitResult | None]] = field(default_factory=dict)

    def tool_statistics(self, name: str) -> ToolStatistics:
        """A tool's statistics."""
        return self.tools.setdefault(name, ToolStatistics())

    def stage_patterns(self, tenant: str, agent: str, stage: str) -> Patterns:
        """The templates of one stage of an agent; never shared between tenants."""
        return _latest(self.patterns, (tenant, agent, stage), Patterns, _MOST_STAGES)

    def next_call_model(self, tenant: str, agent: str) -> NextCallModel:
        """The next-call model of an agent; never shared between tenants."""
        return _latest(self.next_call_models, (tenant, agent), NextCallModel, _MOST_AGENTS)

    def budget(self, agent: str) -> WasteBudget:
        """What an agent may still waste."""
        return self.budgets.setdefault(agent, WasteBudget())

    def refit(self, habits: NextCallModel) -> None:
        """Fit a model in a thread, if a fit is due and none of it runs."""
        if id(habits) in self._fitting or not habits.fit_due:
            return
        work = habits.fit_job()
        done = asyncio.get_running_loop().run_in_executor(None, work.solve)
        self._fitting[id(habits)] = done

        def adopt(solved: asyncio.Future[FitResult | None]) -> None:
            del self._fitting[id(habits)]
            if not solved.cancelled() and solved.exception() is None:
                habits.apply_fit(work.layout_version, solved.result())

        done.add_done_callback(adopt)

    async def aclose(self) -> None:
        """Wait for running fits: a thread cannot be stopped."""
        if self._fitting:
            await asyncio.wait(set(self._fitting.values()))

    def to_json(self) -> dict[str, object]:
        """Statistics as JSON."""
        return {
            "halted": self.halted,
            "tools": {name: each.to_json() for name, each in sorted(self.tools.items())},
        }

    def may_start(
        self,
        spec: ToolSpec,
        prediction: Prediction | PredictedCall,
        policy: SpeculationPolicy,
        agent: str,
    ) -> bool:
        """Whether every condition of ``app.pipeline.drafts`` holds."""
        if self.halted or not policy.enabled or not is_eligible(spec):
            return False
        if isinstance(prediction, Prediction) and prediction.tries < MIN_OUTCOMES:
            return False
        if not self.budget(agent).allows(prediction.p):
            return False
        saved_s = min(self.decision_times_s.get(agent, 0.0), self.tool_statistics(spec.name).mean_s)
        cost_usd = max(spec.cost_usd, _LEAST_COST_USD)
        return is_worth_starting(prediction.p, cost_usd, policy.value_usd_per_s, saved_s)


def is_eligible(spec: ToolSpec) -> bool:
    """Whether a tool's declaration lets its calls be started before the model has asked."""
    effects = spec.effects
    if spec.approval or not (effects.read_only and effects.repeatable):
        return False
    return effects.disclosable or spec.own_host


_Key = TypeVar("_Key")
_Learned = TypeVar("_Learned")


def _latest(
    table: OrderedDict[_Key, _Learned], key: _Key, make: Callable[[], _Learned], most: int
) -> _Learned:
    """The entry of ``key``, made if it is new; the least recently used is dropped over ``most``."""
    found = table.get(key)
    if found is None:
        found = table[key] = make()
        if len(table) > most:
            table.popitem(last=False)
    table.move_to_end(key)
    return found


def stage_of(tools: Sequence[str]) -> str:
    """The stage of a model turn: ``start``, or the tools called before it."""
    return "+".join(sorted(set(tools))) or "start"
