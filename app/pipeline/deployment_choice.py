"""Choose the deployments to try, best first, by the router's tier, load, deadline and warm prompt cache."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.chat import Dialect
from app.domain.decisions import PromptView, RouteDecision, Tier
from app.domain.models import Model
from app.pipeline.gateway import Gateway, Turn
from app.routing.affinity import MIN_PREFIX_CHARS

_OTHER = {Tier.FAST: Tier.POWERFUL, Tier.POWERFUL: Tier.FAST}


def choose_deployments(
    decision: RouteDecision, view: PromptView, dialect: Dialect, gateway: Gateway, turn: Turn
) -> list[Model]:
    """The decided tier's deployments in order; the fast tier's where only that can meet the deadline."""
    tier = decision.tier
    if not gateway.tiers[tier]:
        tier = _OTHER[tier]
        turn.answered_tier = tier.value
        turn.reason += f"; no {decision.tier.value} model is configured: {tier.value}"
    left_s = turn.deadline.left_s(gateway.clock())
    if left_s is not None and tier is Tier.POWERFUL and not decision.forced:
        powerful_s = _least_predicted_s(gateway.tiers[Tier.POWERFUL], view, gateway)
        fast_s = _least_predicted_s(gateway.tiers[Tier.FAST], view, gateway)
        if powerful_s is not None and fast_s is not None and fast_s < powerful_s > left_s:
            tier = Tier.FAST
            turn.answered_tier, turn.routed = tier.value, False
            turn.reason = (
                f"fast: powerful needs about {powerful_s * 1e3:.0f} ms of the {left_s * 1e3:.0f} left"
                f" (score {decision.score:.3f} > {decision.threshold:.3f})"
            )
    ordered = order_deployments(gateway.tiers[tier], view, dialect, gateway, turn)
    if left_s is not None and len(ordered) > 1:
        # Those expected to meet the deadline first, otherwise in order; the unknown count as in time.
        load = gateway.load
        needs = [load.predicted_duration_s(model.name, view.max_tokens) or 0.0 for model in ordered]
        late = [need > left_s for need in needs]
        if any(late):
            places = sorted(range(len(ordered)), key=lambda at: (late[at], late[at] and needs[at]))
            ordered = [ordered[at] for at in places]
    return ordered


def order_deployments(
    models: Sequence[Model], view: PromptView, dialect: Dialect, gateway: Gateway, turn: Turn
) -> list[Model]:
    """The deployments ``models``, best first."""
    if len(models) <= 1:
        return list(models)
    prefix, warm = 0, ""
    if len(view.system) >= MIN_PREFIX_CHARS:
        prefix = hash((turn.tenant, view.system, view.tool_names))
        warm = gateway.warm_prefixes.deployment_for(prefix)
    ordered = gateway.load.rank(
        models, lambda model: dialect in gateway.providers[model.provider].dialects(), warm
    )
    if prefix:
        gateway.warm_prefixes.record(prefix, ordered[0].name)
    return ordered


def _least_predicted_s(models: Sequence[Model], view: PromptView, gateway: Gateway) -> float | None:
    """The least predicted time for a whole answer; None where nothing is known."""
    times = [gateway.load.predicted_duration_s(model.name, view.max_tokens) for model in models]
    known = [time for time in times if time is not None]
    return min(known, default=None)
