"""``/v1/prompts/*``: what breaks prompt caching, and priming the vendors' caches."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from app.api.context import AsAdmin, AsCaller, InContext
from app.domain.models import Model
from app.domain.usage import Usage
from app.errors import BadRequest, NotFound
from app.pipeline.gateway import Gateway
from app.prompts.breakpoints import prices
from app.prompts.lint import Finding, lint
from app.prompts.lint_report import detect_dialect, report
from app.prompts.prefix import RenderedPrompt, render
from app.prompts.spans import Span, UnreadableError, fields, line_at, text_of, whole
from app.prompts.usage_statistics import ModelCacheStats
from app.prompts.warm import PING_AT, lifetime_s

router = APIRouter(prefix="/v1/prompts", tags=["prompts"])
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
        "description": "A Chat Completions, Responses or Messages request, as it would be sent.",
    }
}


class Costs(BaseModel):
    """What a finding costs each such request, and all of an hour at this traffic."""

    ms: float
    usd: float
    s_per_hour: float
    usd_per_hour: float


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
    requests_per_hour: float
    """Of this tenant's long prompts to the model, at the pace of the last hours."""
    findings: list[LintFinding]
    live: dict[str, int]
    """Causes of misses seen in this model's own traffic, with how often."""


@router.post("/lint", openapi_extra=_BODY)
async def lint_prompt(request: Request, context: InContext, caller: AsCaller) -> LintReport:
    """Say what in a request breaks prompt caching or wastes time.

    Each finding names a JSON pointer, the bytes of the body, why it matters, what it costs in time and USD at
    the model's prices and measured speed, a request and an hour at this traffic, and the mend. Where the
    request goes on with a conversation that was seen before, the difference to its last request is among the
    findings.
    """
    body = await request.body()
    gateway = context.edge.gateway
    try:
        dialect = detect_dialect(body)
        model = _model(gateway, body)
        prompts = gateway.prompts
        facts = (
            ModelCacheStats(model.abilities.cache_minimum_tokens)
            if prompts is None
            else prompts.model_statistics(model.name)
        )
        rendered, findings = lint(body, dialect, facts.minimum_tokens)
    except (UnreadableError, KeyError) as error:
        message = f"the body is no request that can be read: {error}"
        raise BadRequest(message) from error
    live: dict[str, int] = {}
    per_hour = 0.0
    if prompts is not None:
        per_hour = prompts.requests_per_hour(caller.tenant, model.name)
        assert context.priming is not None  # noqa: S101 - bootstrap gives one
        sent = context.priming.as_sent(body, dialect, model, caller.tenant)
        now = rendered if sent is body else render(sent, dialect, is_moved=prompts.is_moved)
        found = [
            _locate_in_sent_body(each, sent, body)
            for each in prompts.lint_against_last(caller.tenant, now, model)
        ]
        findings = [*found, *findings]
        total = prompts.totals.get(model.name)
        live = dict(total.causes) if total is not None else {}
    findings = [
        each for each in findings if not _is_fixed_by_layout(each, rendered, gateway, caller.tenant)
    ]
    told = report(rendered, findings, model, facts, per_hour)
    return LintReport.model_validate({**told, "live": live})


def _locate_in_sent_body(finding: Finding, sent: bytes, body: bytes) -> Finding:
    """``finding`` in what is sent, with its place in the client's ``body``; all of it where unsure."""
    if sent is body:
        return finding
    start = body.find(sent[finding.span.start : finding.span.end])
    length = finding.span.end - finding.span.start
    at = Span(start, start + length) if start >= 0 and length else Span(0, len(body))
    return replace(finding, span=at)


def _is_fixed_by_layout(
    finding: Finding, rendered: RenderedPrompt, gateway: Gateway, tenant: str
) -> bool:
    """Whether the route's own contract or layout mends it before the vendor reads the request."""
    contracts, layouts = gateway.contracts, gateway.layouts
    if finding.rule == "no_output_contract":
        return contracts is not None and contracts.constrains(rendered.model, tenant)
    if layouts is None or not finding.rule.startswith("volatile_"):
        return False
    return layouts.moves(rendered.model, tenant, line_at(rendered.raw, finding.span))


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


class KeepAliveSums(BaseModel):
    """The arithmetic of keeping a prompt alive, in USD."""

    until_unix_s: float
    ping_every_s: float
    pings: int
    ping_usd: float
    miss_usd: float
    pays_from: float
    """P(return) from which a ping pays: its price over what a miss would cost."""


class WarmReport(BaseModel):
    """What priming did."""

    model: str
    request_id: str
    primed: bool
    """The vendor now holds the prompt, as its usage says."""
    cached_tokens: int
    written_tokens: int
    uncached_tokens: int
    cost_usd: float
    seconds: float
    keep_alive: KeepAliveSums | None


@router.post("/warm", openapi_extra=_BODY)
async def warm_prompt(
    request: Request,
    context: InContext,
    caller: AsCaller,
    keep_s: Annotated[float, Query(ge=0, le=86_400)] = 0,
) -> WarmReport:
    """Prime the vendor's prompt cache with a request's prompt, by the cheapest means that it has.

    `max_tokens: 0` where the vendor takes it, a prewarm where it has one, else one token. `keep_s`: keep it
    alive for so many seconds, within the budget; each ping is at `/v1/traces` with its arithmetic.
    """
    body = await request.body()
    priming = context.priming
    assert priming is not None  # noqa: S101 - bootstrap gives one
    try:
        dialect = detect_dialect(body)
        rendered = render(body, dialect)
        model = priming.model_named(rendered.model)
        primed = await priming.prime(body, dialect, model, caller.tenant)
    except (UnreadableError, KeyError) as error:
        message = f"the body is no request that can be read: {error}"
        raise BadRequest(message) from error
    sums = None
    if keep_s > 0:
        tokens = primed.usage.prompt_tokens if primed.usage is not None else 0
        priming.keep_warm(body, rendered, model, caller.tenant, keep_s)
        sums = _sums(model, tokens, keep_s)
    used = primed.usage or Usage()
    return WarmReport(
        model=model.name,
        request_id=primed.request_id,
        primed=used.cached_tokens + used.cache_write_tokens > 0,
        cached_tokens=used.cached_tokens,
        written_tokens=used.cache_write_tokens,
        uncached_tokens=used.input_tokens,
        cost_usd=primed.cost_usd,
        seconds=round(primed.seconds, 6),
        keep_alive=sums,
    )


def _sums(model: Model, tokens: int, keep_s: float) -> KeepAliveSums:
    every_s = PING_AT * lifetime_s(model)
    plain, cached, write = prices(model)
    ping = tokens * cached / 1e6
    miss = tokens * (max(plain, write) - cached) / 1e6
    return KeepAliveSums(
        until_unix_s=round(time.time() + keep_s, 3),
        ping_every_s=every_s,
        pings=int(keep_s / every_s),
        ping_usd=ping,
        miss_usd=miss,
        pays_from=round(ping / miss, 4) if miss else 1.0,
    )


@router.get("/stats")
async def prompt_stats(context: InContext, admin: AsAdmin) -> dict[str, object]:
    """By model: tokens read from, written to and past the vendor's prompt cache, money and seconds saved, and the
    causes of misses. Of the prompts that are long enough to be cached.
    """  # noqa: E501
    del admin
    prompts = context.edge.gateway.prompts
    if prompts is None:
        return {"models": {}, "conversations": 0}
    return {"models": prompts.statistics(), "conversations": len(prompts.conversations)}
