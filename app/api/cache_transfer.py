"""``/v1/cache/import`` and ``/v1/cache/export``: the endpoints behind ``slipstream cache``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from app.api.context import AsAdmin, InContext
from app.errors import BadRequest, NotFound

router = APIRouter(prefix="/v1/cache", tags=["cache"])

MAX_BATCH = 100
_MAX_CHARS = 200_000


class GivenAnswer(BaseModel):
    """One question with its answer."""

    model_config = ConfigDict(extra="forbid")
    question: Annotated[str, Field(min_length=1, max_length=_MAX_CHARS)]
    answer: Annotated[str, Field(min_length=1, max_length=_MAX_CHARS)]
    tags: Annotated[list[str], Field(max_length=32)] = Field(default_factory=list)
    model: str = ""
    system: str = ""
    partition: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    id: Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")] = ""


class Import(BaseModel):
    """Some questions with their answers, for one tenant."""

    model_config = ConfigDict(extra="forbid")
    tenant: Annotated[str, Field(min_length=1, max_length=128)] = "default"
    entries: Annotated[list[GivenAnswer], Field(min_length=1, max_length=MAX_BATCH)]
    repeated: bool = False
    """Another worker has put them into the shared stores already: only this one's memory is left."""


@router.post("/import")
async def import_entries(context: InContext, _admin: AsAdmin, body: Import) -> dict[str, int]:
    """Store answers as if they had been given before; returns how many may be hit exactly, and by meaning."""
    from app.pipeline.cache_transfer import TransferEntry, import_answer  # loads learners

    gateway = context.edge.gateway
    if gateway.exact is None:
        message = "the exact cache is off: cache.exact.enabled"
        raise NotFound(message)
    exact = similar = 0
    for number, each in enumerate(body.entries):
        if bool(each.partition) != bool(each.id):
            message = f"entries[{number}]: partition and id stand together"
            raise BadRequest(message, param=f"entries[{number}]")
        given = TransferEntry(
            each.question, each.answer, tuple(each.tags), each.model, each.system,
            each.partition, each.id,
        )  # fmt: skip
        try:
            taken = await import_answer(given, body.tenant, gateway, repeated=body.repeated)
        except BadRequest as exc:
            message = f"entries[{number}]: {exc.message}"
            raise BadRequest(message, param=f"entries[{number}]") from exc
        exact, similar = exact + taken.exact, similar + taken.similar
    return {"exact": exact, "by_meaning": similar}


@router.get("/export")
async def export_entries(
    context: InContext,
    _admin: AsAdmin,
    tenant: str = "default",
    after: Annotated[str, Query(pattern=r"^([0-9a-f-]{32,36})?$")] = "",
    limit: Annotated[int, Query(ge=1, le=MAX_BATCH)] = MAX_BATCH,
) -> dict[str, object]:
    """A page of the semantic entries; ``next`` is the cursor of the following one, "" at the end."""
    from app.pipeline.cache_transfer import export_page  # loads learners

    found, next_one = await export_page(tenant, after, limit, context.edge.gateway)
    entries = [
        GivenAnswer(
            question=each.question, answer=each.answer, tags=list(each.tags), model=each.model,
            partition=each.partition, id=each.id,
        ).model_dump(exclude_defaults=True)
        for each in found
    ]  # fmt: skip
    return {"entries": entries, "next": next_one}
