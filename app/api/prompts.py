"""``/v1/prompts/*``: what breaks prompt caching, and priming the vendors' caches."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from app.api.context import AsCaller, InContext
from app.domain.models import Model
from app.errors import BadRequest, NotFound
from app.pipeline.gateway import Gateway
from app.prompts.learned import ModelFacts
from app.prompts.lint import lint
from app.prompts.lint_report import dialect_of, report
from app.prompts.spans import UnreadableError, fields, text_of, whole

router = APIRouter(prefix="/v1/prompts", tags=["prompts"])
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
        "description": "A Chat Completions, Responses or Messages request, as it would be sent.",
    }
}


class Costs(BaseModel):
    """What a finding costs each such request."""

    ms: float
    usd: float


class LintFinding(BaseModel):
    """One thing that could be better."""

    rule: str
    severity: Literal["error", "warning", "info"]
    pointer: str
    bytes: tuple[int, int]
    why: str
    costs: Costs
    mend: str


class LintReport(BaseModel):
    """What the linter found in a request."""

    model: str
    dialect: str
    prompt_tokens: int
    minimum_tokens: int
    findings: list[LintFinding]
    live: dict[str, int]
    """Causes of misses seen in this model's own traffic, with how often."""


@router.post("/lint", openapi_extra=_BODY)
async def lint_prompt(request: Request, context: InContext, caller: AsCaller) -> LintReport:
    """Say what in a request breaks prompt caching or wastes time.

    Each finding names a JSON pointer, the bytes of the body, why it matters, what it costs a request in
    milliseconds and USD at the model's prices and measured speed, and the mend. Where the request goes on
    with a conversation that was seen before, the difference to its last request is among the findings.
    """
    body = await request.body()
    gateway = context.edge.gateway
    try:
        dialect = dialect_of(body)
        model = _model(gateway, body)
        prompts = gateway.prompts
        facts = (
            ModelFacts(model.abilities.cache_minimum_tokens)
            if prompts is None
            else prompts.facts(model.name)
        )
        rendered, findings = lint(body, dialect, facts.minimum_tokens)
    except (UnreadableError, KeyError) as error:
        message = f"the body is no request that can be read: {error}"
        raise BadRequest(message) from error
    live: dict[str, int] = {}
    if prompts is not None:
        found = prompts.beside_the_last(caller.tenant, rendered, model)
        findings = [*found, *findings]
        total = prompts.totals.get(model.name)
        live = dict(total.causes) if total is not None else {}
    return LintReport.model_validate({**report(rendered, findings, model, facts), "live": live})


def _model(gateway: Gateway, body: bytes) -> Model:
    """The model that the body names; for ``auto`` the first configured one that is powerful."""
    found = fields(body, whole(body))
    name = text_of(body, found["model"]) if "model" in found else "auto"
    if name == "auto":
        models = sorted(gateway.models.values(), key=lambda each: each.tier != "powerful")
        return models[0]
    model = gateway.models.get(name)
    if model is None:
        message = f"the model {name[:80]!r} is not configured"
        raise NotFound(message, code="model_not_found", param="model")
    return model
