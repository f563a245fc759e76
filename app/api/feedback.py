"""``POST /v1/feedback``: a verdict on an answer, as a label for the router."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.api.context import AsCaller, InContext
from app.domain.decisions import Tier
from app.errors import NotFound

router = APIRouter(tags=["routing"])
_TIERS = frozenset(tier.value for tier in Tier)


class AnswerFeedback(BaseModel):
    """A verdict on the answer of a request."""

    model_config = ConfigDict(extra="forbid")
    request_id: Annotated[str, Field(min_length=1, max_length=128)]
    verdict: Literal["good", "bad"]


@router.post("/v1/feedback")
async def feedback(context: InContext, caller: AsCaller, said: AnswerFeedback) -> dict[str, object]:
    """Take a verdict on an answer that the router chose the model for.

    ``label`` in the answer: ``learned``; ``no label`` where the verdict says nothing about the choice
    (a good answer of the powerful model); ``known already`` where an escalation or an earlier verdict has
    said it; ``not routed`` where the caller or a rule had chosen. A request that is no longer remembered
    is a 404.
    """
    trace = context.telemetry.traces.get(said.request_id, caller.tenant)
    if trace is None:
        message = f"no recent request {said.request_id!r} of this tenant"
        raise NotFound(message)
    answered = Tier(trace["tier"]) if trace["tier"] in _TIERS else None
    label = context.edge.gateway.router_trainer.record_verdict(
        caller.tenant, said.request_id, good=said.verdict == "good", answered=answered
    )
    if label == "unknown":
        label = "known already" if trace["routed"] else "not routed"
    return {"request_id": said.request_id, "verdict": said.verdict, "label": label}
