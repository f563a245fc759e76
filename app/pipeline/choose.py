"""From the router's tier to the deployments that are tried, best first: load, deadline, warm prompt cache."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.chat import Dialect
from app.domain.decisions import PromptView, RouteDecision, Tier
from app.domain.models import Model
from app.pipeline.gateway import Gateway, Turn
from app.routing.affinity import MINIMUM_CHARS

_OTHER = {Tier.FAST: Tier.POWERFUL, Tier.POWERFUL: Tier.FAST}


def choose(
    decision: RouteDecision, view: PromptView, dialect: Dialect, gateway: Gateway, turn: Turn
) -> list[Model]:
    """The deployments of the decided tier, or of the fast one where only that is done by the deadline."""
    tier = decision.tier
    if not gateway.tiers[tier]:
        tier = _OTHER[tier]
        turn.answered_tier = tier.value
        turn.reason += f"; no {decision.tier.value} model is configured: {tier.value}"
    left_s = turn.deadline.left_s(gateway.clock())
    if left_s is not None and tier is Tier.POWERFUL and not decision.forced:
        took_s = _soonest(gateway.tiers[Tier.POWERFUL], view, gateway)
        other_s = _soonest(gateway.tiers[Tier.FAST], view, gateway)
        if took_s is not None and other_s is not None and other_s < took_s and took_s > left_s:
            tier = Tier.FAST
            turn.answered_tier, turn.routed = tier.value, False
            turn.reason = (
                f"fast: powerful needs about {took_s * 1e3:.0f} ms of the {left_s * 1e3:.0f} left"
                f" (score {decision.score:.3f} > {decision.threshold:.3f})"
            )
    ordered = in_order(gateway.tiers[tier], view, dialect, gateway, turn)
    if left_s is not None and len(ordered) > 1:
        # Those that are expected to be in time first, each part in its order; the unknown may be.
        load = gateway.load
        needs = [load.predicted_s(model.name, view.max_tokens) or 0.0 for model in ordered]
        late = [need > left_s for need in needs]
        if any(late):
            places = sorted(range(len(ordered)), key=lambda at: (late[at], late[at] and needs[at]))
            ordered = [ordered[at] for at in places]
    return ordered


def in_order(
    models: Sequence[Model], view: PromptView, dialect: Dialect, gateway: Gateway, turn: Turn
) -> list[Model]:
    """The deployments ``models``, best first."""
    if len(models) <= 1:
        return list(models)
    prefix, warm = 0, ""
    if len(view.system) >= MINIMUM_CHARS:
        prefix = hash((turn.tenant, view.system, view.tool_names))
        warm = gateway.warm.of(prefix)
    ordered = gateway.load.order(
        models, lambda model: dialect in gateway.providers[model.provider].dialects(), warm
    )
    if prefix:
        gateway.warm.sent(prefix, ordered[0].name)
    return ordered


def _soonest(models: Sequence[Model], view: PromptView, gateway: Gateway) -> float | None:
    """The least expected time for a whole answer; None where nothing is known."""
    times = [gateway.load.predicted_s(model.name, view.max_tokens) for model in models]
    known = [time for time in times if time is not None]
    return min(known, default=None)
