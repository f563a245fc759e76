"""``GET /v1/upstreams``: the state of each upstream and each deployment.

It reports what the router decides by: breaker states and how long they last, calls in flight, and latency
estimates. Each worker has seen only its own calls, so each reports its own view.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastapi import APIRouter

from app.api.context import AsAdmin, Context, InContext

if TYPE_CHECKING:
    from app.domain.models import Model
    from app.routing.load import Deployment
    from app.upstream.origin import PoolStats

router = APIRouter(tags=["observability"])
_ENOUGH = 2


@router.get("/v1/upstreams")
async def upstreams(context: InContext, _: AsAdmin) -> dict[str, object]:
    """Places, connections and failures of each upstream; breaker, load and estimates of each deployment."""
    return {"workers": [_of_this_worker(context)]}


def _of_this_worker(context: Context) -> dict[str, object]:
    gateway, metrics = context.edge.gateway, context.telemetry.metrics
    now_s = gateway.load.now_s()
    failures = metrics.upstream_errors.values()
    hedges, connections = metrics.guards.hedges.values(), context.connections()
    return {
        "pid": os.getpid(),
        "providers": [
            {
                "name": name,
                "places": dict(zip(("limit", "in_use", "waiting"), now(), strict=True)),
                "connections": _connections(connections.get(name)),
                "failures": {
                    code: int(n) for (whose, code), n in failures.items() if whose == name
                },
            }
            for name, now in metrics.guards.gates.items()
        ],
        "deployments": [
            _deployment(model, gateway.load.deployment(name), now_s)
            for name, model in gateway.models.items()
        ],
        "hedges": {
            **{outcome: int(n) for (outcome,), n in hedges.items()},
            "cost_usd": metrics.guards.hedge_cost.total(),
        },
    }


def _connections(stats: PoolStats | None) -> Mapping[str, int] | None:
    if stats is None:
        return None
    return {
        "open": stats.open,
        "idle": stats.idle,
        "waiting": stats.waiting,
        "opened_total": stats.opened_total,
    }


def _deployment(model: Model, known: Deployment, now_s: float) -> dict[str, object]:
    breaker, firsts = known.breaker, known.first_tokens
    enough = len(firsts) >= _ENOUGH
    return {
        "model": model.name,
        "provider": model.provider,
        "upstream_model": model.upstream_model,
        "tier": model.tier.value,
        "state": breaker.state(now_s),
        "asked_again_in_s": round(breaker.unavailable_for_s(now_s), 3),
        "failures_in_a_row": breaker.failures,
        "failing_share": round(known.error_share, 4),
        "in_flight": known.in_flight,
        "first_token_s": known.ttft_s or None,
        "first_token_p50_s": firsts.quantile(0.5) if enough else None,
        "first_token_p95_s": firsts.quantile(0.95) if enough else None,
        "whole_call_s": known.upstream_s or None,
        "token_s": known.token_s or None,
    }
