"""Build the router from the settings' ``routing`` and the abilities of the fast models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.routing.mean_target import MeanTargetController
from app.routing.router import Router
from app.routing.score import RoutePolicy
from app.routing.threshold import FastShareTracker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.settings import RoutingSettings


def router_from_settings(
    wanted: RoutingSettings, fast: Iterable[tuple[int | None, bool]]
) -> Router:
    """A new router with the tenants' overrides and the mean targets.

    ``fast``: for each model of the fast tier its context window in tokens (None: unknown) and whether it sees
    images.
    """
    known = list(fast)
    policy = RoutePolicy(
        fast_context_tokens=min(
            (tokens for tokens, _ in known if tokens is not None), default=None
        ),
        fast_sees_images=any(sees for _, sees in known),
    )
    has_target = wanted.mean_usd is not None or wanted.mean_s is not None
    mean_target = MeanTargetController(
        wanted.fast_share, mean_usd=wanted.mean_usd, mean_s=wanted.mean_s
    )
    targets = {
        each.tenant: each.fast_share for each in wanted.tenants if each.fast_share is not None
    }
    return Router(
        policy,
        FastShareTracker(wanted.fast_share, tenant_targets=targets),
        {each.tenant: each.tier for each in wanted.tenants if each.tier is not None},
        mean_target if has_target else None,
    )
