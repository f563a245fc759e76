"""The router: hard rules and score (pure), against each tenant's moving threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from app.domain.decisions import Classification, PromptView, RouteDecision, Tier
from app.routing.mean_target import MeanTargetController
from app.routing.score import RoutePolicy, route
from app.routing.threshold import FastShareTracker


class Router:
    """Chooses the tier of an ``auto`` request; owned by one event loop."""

    def __init__(
        self,
        policy: RoutePolicy,
        tracker: FastShareTracker,
        tiers: Mapping[str, Tier] | None = None,
        mean_target: MeanTargetController | None = None,
    ) -> None:
        """Decide by ``policy``, holding the fast share that ``tracker`` aims at. ``tiers``: tenants with a
        fixed tier; ``mean_target``: moves the share towards a mean cost or latency, None = it is constant.
        """
        self._policy = policy
        self._tracker = tracker
        self._fixed_tiers = {
            tenant: replace(policy, forced=tier, forced_by="the tenant's policy")
            for tenant, tier in (tiers or {}).items()
        }
        self._mean_target = mean_target

    @property
    def has_mean_target(self) -> bool:
        """Whether ``record_outcome`` does anything."""
        return self._mean_target is not None

    def record_outcome(self, tier: Tier, usd: float, seconds: float) -> None:
        """Record a finished request that the score routed to ``tier``."""
        if self._mean_target is not None:
            self._tracker.target = self._mean_target.observe(tier, usd, seconds)

    def preview_tier(self, classification: Classification, view: PromptView, tenant: str) -> Tier:
        """The tier that a request would get; does not count towards the fast share."""
        threshold = self._tracker.threshold(tenant)
        policy = self._fixed_tiers.get(tenant, self._policy)
        return route(classification, view, policy, threshold).tier

    def decide(
        self,
        classification: Classification,
        view: PromptView,
        tenant: str,
        forced: Tier | None,
        warm: tuple[Tier, float] | None = None,
    ) -> RouteDecision:
        """The tier for this request. Decisions forced by a caller or a rule do not move the threshold.
        ``warm``:
        the tier where the conversation's prompt is cached, and the margin by which the score must favour the
        other to leave it.
        """
        policy = self._policy if forced is None else replace(self._policy, forced=forced)
        if self._fixed_tiers and forced is None:
            policy = self._fixed_tiers.get(tenant, policy)
        if warm is not None:
            policy = replace(policy, warm=warm[0], warm_margin=warm[1])
        decision = route(classification, view, policy, self._tracker.threshold(tenant))
        if not decision.forced:
            self._tracker.observe(tenant, decision.score, decision.tier)
        return decision
