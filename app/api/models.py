"""``GET /v1/models``: what can be asked for, in OpenAI's form, or Anthropic's where the caller speaks it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from app.api.auth import Caller
from app.api.context import AsCaller, Context, InContext
from app.api.problems import asks_anthropic
from app.domain.models import AUTO
from app.errors import BadRequest, NotFound

router = APIRouter(tags=["inference"])
_CREATED_S = 1_760_000_000
"""Models have no birthday here; a fixed one keeps the answer the same between calls."""


@router.get("/v1/models")
async def models(  # noqa: PLR0917 - FastAPI passes by name
    context: InContext,
    caller: AsCaller,
    request: Request,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
    after_id: str | None = None,
    before_id: str | None = None,
) -> Response:
    """List the configured models, ``auto`` and each ``agent/<name>``.

    ``limit``, ``after_id`` and ``before_id`` page through Anthropic's form; OpenAI's has no pages.
    """
    names = [name for name in _names(context) if _may_use(caller, name)]
    if not asks_anthropic(request):
        return JSONResponse({"object": "list", "data": [_openai(context, name) for name in names]})
    start = 0 if after_id is None else _index_of(names, after_id, "after_id") + 1
    end = len(names) if before_id is None else _index_of(names, before_id, "before_id")
    found = shown = names[start:end]
    if (
        limit is not None
    ):  # the page that begins behind `after_id`, or the one that ends at `before_id`
        shown = found[:limit] if before_id is None else found[-limit:]
    return JSONResponse(
        {
            "data": [_anthropic(name) for name in shown],
            "has_more": len(shown) < len(found),
            "first_id": shown[0] if shown else None,
            "last_id": shown[-1] if shown else None,
        }
    )


def _index_of(names: list[str], model_id: str, param: str) -> int:
    if model_id not in names:
        raise BadRequest(f"'{param}' names no model of this list: {model_id[:80]!r}.", param=param)
    return names.index(model_id)


@router.get("/v1/models/{model_id:path}")
async def model(context: InContext, caller: AsCaller, request: Request, model_id: str) -> Response:
    """Describe one model; an unknown name is the dialect's own 404."""
    names = [name for name in _names(context) if _may_use(caller, name)]
    if model_id not in names:
        known = ", ".join(names[:12])
        message = f"the model {model_id[:80]!r} is not configured: there are {known}"
        raise NotFound(message, code="model_not_found", param="model")
    return JSONResponse(
        _anthropic(model_id) if asks_anthropic(request) else _openai(context, model_id)
    )


def _may_use(caller: Caller, name: str) -> bool:
    return caller.guard is None or caller.guard.may_use(name)


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
