"""The router as the pipeline sees it: the pure score, the tenant's moving threshold, and one word
for both.
"""

from __future__ import annotations

from dataclasses import replace

from app.domain.decisions import Classification, PromptView, RouteDecision, Tier
from app.routing.score import RoutePolicy, route
from app.routing.threshold import FastShareTracker


class Router:
    """Chooses the tier of an ``auto`` request; one event loop owns it."""

    def __init__(self, policy: RoutePolicy, tracker: FastShareTracker) -> None:
        """Decide by ``policy``, holding the fast share that ``tracker`` aims at."""
        self._policy = policy
        self._tracker = tracker

    def tier_of(self, classification: Classification, view: PromptView, tenant: str) -> Tier:
        """The tier for a question that is no request of its own: nothing is learned from asking."""
        threshold = self._tracker.threshold(tenant)
        return route(classification, view, self._policy, threshold).tier

    def decide(
        self,
        classification: Classification,
        view: PromptView,
        tenant: str,
        forced: Tier | None,
        warm: tuple[Tier, float] | None = None,
    ) -> RouteDecision:
        """The tier for this request. Forced and ruled decisions do not move the threshold. ``warm``: the tier
        where the conversation's prompt is cached, and how much clearer the score must be to leave it.
        """
        policy = self._policy if forced is None else replace(self._policy, forced=forced)
        if warm is not None:
            policy = replace(policy, warm=warm[0], warm_margin=warm[1])
        decision = route(classification, view, policy, self._tracker.threshold(tenant))
        if not decision.forced:
            self._tracker.observe(tenant, decision.score, decision.tier)
        return decision
