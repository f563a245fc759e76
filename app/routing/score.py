"""The routing decision of one request as a pure function: hard rules first, then the score.

Every decision carries its reason in words, which `x-slipstream-reason` shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.decisions import Classification, PromptView, RouteDecision, Tier

_CHARS_PER_TOKEN = (
    3.5  # low on purpose: leaving the fast model's window early is better than overflowing it
)

_NAMES = {tier: tier.value for tier in Tier}  # `Enum.value` is a Python call


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """What an operator, a tenant or the caller fixes before the score decides.

    `forced`: the caller's header or the tenant's policy names a tier. `warm`: the tier that this
    session's prompt cache is warm on. `fast_context_tokens`: the fast tier's window, None =
    unknown. `grey_width`: half-width of the band around the threshold, on the scale of the score.
    `warm_margin`: how far beyond the threshold the score must be to leave a warm tier. `several_calls_limit`:
    P(several calls) at which the powerful tier plans them; None = never.
    """

    forced: Tier | None = None
    forced_by: str = "caller"
    warm: Tier | None = None
    fast_context_tokens: int | None = None
    fast_sees_images: bool = True
    grey_width: float = 0.05
    warm_margin: float = 0.05
    several_calls_limit: float | None = 0.8


def route(
    classification: Classification, view: PromptView, policy: RoutePolicy, threshold: float
) -> RouteDecision:
    """Choose the tier. Pure: the same arguments give the same decision."""
    forced_tier = _hard_rule(classification, view, policy)
    score = classification.complexity
    if forced_tier is not None:
        tier, reason = forced_tier
        return RouteDecision(tier, score, threshold, _NAMES[tier], reason, forced=True)
    limit, note = threshold, ""
    warm = policy.warm
    if warm is not None:
        limit += policy.warm_margin if warm is Tier.FAST else -policy.warm_margin
        note = f"; session warm on {_NAMES[warm]}"
    tier, sign = (Tier.FAST, "<=") if score <= limit else (Tier.POWERFUL, ">")
    name = _NAMES[tier]
    if abs(score - limit) <= policy.grey_width:
        shown, shown_limit = f"{score:.3f}", f"{limit:.3f}"
        if (
            shown == shown_limit
        ):  # "0.203 > 0.203" is not true; equal scores go to either tier in turn
            sign = "at"
        reason = f"{name}: score {shown} {sign} {shown_limit} (grey){note}"
        return RouteDecision(tier, score, threshold, "grey", reason)
    reason = f"{name}: score {score:.3f} {sign} {limit:.3f}{note}"
    return RouteDecision(tier, score, threshold, name, reason)


def _hard_rule(
    classification: Classification, view: PromptView, policy: RoutePolicy
) -> tuple[Tier, str] | None:
    """The tier that a rule fixes, and why; None when the score decides. The most binding rule comes first."""
    if policy.forced is not None:
        return policy.forced, f"{policy.forced.value}: {policy.forced_by} asked for it"
    if view.has_images and not policy.fast_sees_images:
        return Tier.POWERFUL, "powerful: the fast tier sees no images"
    needed = view.total_chars / _CHARS_PER_TOKEN + (view.max_tokens or 0)
    if policy.fast_context_tokens is not None and needed > policy.fast_context_tokens:
        return Tier.POWERFUL, (
            f"powerful: about {needed:.0f} tokens exceed the fast tier's {policy.fast_context_tokens}"
        )
    if view.after_tool_result:
        tier = policy.warm or Tier.FAST
        return tier, f"{tier.value}: the tool loop goes on where it began"
    limit = policy.several_calls_limit
    if limit is not None and view.tool_names and classification.several_calls >= limit:
        return (
            Tier.POWERFUL,
            f"powerful: several tool calls foreseen ({classification.several_calls:.2f})",
        )
    return None
