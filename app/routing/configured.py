"""From the settings' ``routing`` and what the fast models can do to a router that has seen nothing yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.routing.aim import Aim
from app.routing.router import Router
from app.routing.score import RoutePolicy
from app.routing.threshold import FastShareTracker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.settings import RoutingSettings


def router_of(wanted: RoutingSettings, fast: Iterable[tuple[int | None, bool]]) -> Router:
    """The router of the settings, with what holds for single tenants and what is to be aimed at.

    ``fast``: of each model of the fast tier, its window in tokens (None: unknown) and whether it sees images.
    """
    known = list(fast)
    policy = RoutePolicy(
        fast_context_tokens=min(
            (tokens for tokens, _ in known if tokens is not None), default=None
        ),
        fast_sees_images=any(sees for _, sees in known),
    )
    aimed = wanted.mean_usd is not None or wanted.mean_s is not None
    own = {each.tenant: each.fast_share for each in wanted.tenants if each.fast_share is not None}
    return Router(
        policy,
        FastShareTracker(wanted.fast_share, own=own),
        {each.tenant: each.tier for each in wanted.tenants if each.tier is not None},
        Aim(wanted.fast_share, mean_usd=wanted.mean_usd, mean_s=wanted.mean_s) if aimed else None,
    )
