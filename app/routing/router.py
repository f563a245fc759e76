"""The router as the pipeline sees it: the pure score, the tenant's moving threshold, and one word
for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from app.domain.decisions import Classification, PromptView, RouteDecision, Tier
from app.routing.aim import Aim
from app.routing.score import RoutePolicy, route
from app.routing.threshold import FastShareTracker


class Router:
    """Chooses the tier of an ``auto`` request; one event loop owns it."""

    def __init__(
        self,
        policy: RoutePolicy,
        tracker: FastShareTracker,
        tiers: Mapping[str, Tier] | None = None,
        aim: Aim | None = None,
    ) -> None:
        """Decide by ``policy``, holding the fast share that ``tracker`` aims at. ``tiers``: the tenants whose
        tier is settled; ``aim``: moves the share to what requests may cost or take, None = it stays.
        """
        self._policy = policy
        self._tracker = tracker
        self._settled = {
            tenant: replace(policy, forced=tier, forced_by="the tenant's policy")
            for tenant, tier in (tiers or {}).items()
        }
        self._aim = aim

    @property
    def aims(self) -> bool:
        """Whether ``went`` wants to be told."""
        return self._aim is not None

    def went(self, tier: Tier, usd: float, seconds: float) -> None:
        """A request that the score had routed to ``tier`` is over."""
        if self._aim is not None:
            self._tracker.target = self._aim.observe(tier, usd, seconds)

    def tier_of(self, classification: Classification, view: PromptView, tenant: str) -> Tier:
        """The tier for a question that is no request of its own: nothing is learned from asking."""
        threshold = self._tracker.threshold(tenant)
        policy = self._settled.get(tenant, self._policy)
        return route(classification, view, policy, threshold).tier

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
        if self._settled and forced is None:
            policy = self._settled.get(tenant, policy)
        if warm is not None:
            policy = replace(policy, warm=warm[0], warm_margin=warm[1])
        decision = route(classification, view, policy, self._tracker.threshold(tenant))
        if not decision.forced:
            self._tracker.observe(tenant, decision.score, decision.tier)
        return decision
