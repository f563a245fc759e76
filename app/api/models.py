"""``GET /v1/models``: what can be asked for, in OpenAI's form, or Anthropic's where the caller speaks it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from app.api.auth import Caller
from app.api.context import AsCaller, Context, InContext
from app.api.problems import asks_anthropic
from app.domain.models import AUTO
from app.errors import NotFound

router = APIRouter(tags=["inference"])
_CREATED_S = 1_760_000_000
"""Models have no birthday here; a fixed one keeps the answer the same between calls."""


@router.get("/v1/models")
async def models(context: InContext, caller: AsCaller, request: Request) -> Response:
    """List the configured models, ``auto`` and each ``agent/<name>``."""
    names = [name for name in _names(context) if _may_ask(caller, name)]
    if asks_anthropic(request):
        data = [_anthropic(name) for name in names]
        page = {"data": data, "has_more": False, "first_id": names[0] if names else None}
        page["last_id"] = names[-1] if names else None
        return JSONResponse(page)
    return JSONResponse({"object": "list", "data": [_openai(context, name) for name in names]})


@router.get("/v1/models/{model_id:path}")
async def model(context: InContext, caller: AsCaller, request: Request, model_id: str) -> Response:
    """Describe one model; an unknown name is the dialect's own 404."""
    names = [name for name in _names(context) if _may_ask(caller, name)]
    if model_id not in names:
        known = ", ".join(names[:12])
        message = f"the model {model_id[:80]!r} is not configured: there are {known}"
        raise NotFound(message, code="model_not_found", param="model")
    return JSONResponse(
        _anthropic(model_id) if asks_anthropic(request) else _openai(context, model_id)
    )


def _may_ask(caller: Caller, name: str) -> bool:
    return caller.guard is None or caller.guard.permits(name)


def _names(context: Context) -> Iterator[str]:
    yield AUTO
    yield from context.edge.gateway.models
    yield from (f"agent/{name}" for name in context.agents)


def _openai(context: Context, name: str) -> dict[str, object]:
    configured = context.edge.gateway.models.get(name)
    owner = configured.provider if configured is not None else "slipstream"
    found: dict[str, object] = {
        "id": name,
        "object": "model",
        "created": _CREATED_S,
        "owned_by": owner,
    }
    if configured is not None:
        found["tier"] = configured.tier.value
    return found


def _anthropic(name: str) -> dict[str, object]:
    created = datetime.fromtimestamp(_CREATED_S, UTC).isoformat().replace("+00:00", "Z")
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": created,
        "lifecycle": "active",
    }
