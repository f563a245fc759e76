"""The shape of `routing`: how `auto` finds its model, and what becomes of a fast answer that is none."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from app.domain.decisions import AnswerDefect, Tier
from app.settings_types import Name, Seconds, Section, Share, Usd


class HedgeSettings(Section):
    """A second call to another deployment of the tier, when the first is slow to say its first word."""

    max_share: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    """Share of the routed streams that may get one, 0 to 0.2; 0 = none ever. The delay is the learned 95 %
    quantile of the first-token time, or that of 1 - `max_share` where it is later.
    """
    max_usd_per_hour: Usd = 1.0
    """What the second calls' prompts may cost in an hour, in USD; unpriced models cost nothing."""


class AnswerCheckSettings(Section):
    """A check of the operator's own on a routed whole answer; exactly one of the four ways."""

    name: Name
    """What it is counted under."""
    pattern: str | None = None
    """RE2 expression that a good answer matches somewhere (linear time, no look-around)."""
    json_schema: dict[str, object] | None = None
    """JSON Schema that a good answer, read as JSON, fits."""
    python: str | None = None
    """`package.module:function`, called with the question and the answer: true, null or "" for a good
    answer, else false or what is wrong with it. A plain function runs in a thread.
    """
    url: str | None = None
    """POSTed `{"question": ..., "answer": ...}`; says `{"ok": true}` or `{"ok": false, "message": ...}`."""
    timeout_s: Seconds = 2.0
    """Seconds after which the answer stands unchecked."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = (self.pattern, self.json_schema, self.python, self.url)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("give exactly one of pattern, json_schema, python and url")
        return self


class TriggerSettings(Section):
    """What makes a routed fast answer one that the powerful tier is asked for again."""

    lacks: tuple[AnswerDefect, ...] = get_args(AnswerDefect)
    """What is looked for: refusals; no text and no call; cut off where the request set no limit; another
    language than the question's; loops; no tool call where one was 95 % certain; a violated schema; `unsure`,
    by `min_mean_logprob`.
    """
    hold_ms: Annotated[int, Field(ge=0, le=150)] = 150
    """Longest that a stream's first tokens are held back while they may yet be a refusal or in the wrong
    language, in ms; others go on with their first token. 0: streams are not looked at.
    """
    grey_hedge: bool = False
    """Whether a stream whose score is near the threshold is asked of both tiers at once: the fast one's first
    tokens wait for `hold_ms`, and the powerful one answers if it speaks before. Costs a second call.
    """
    min_mean_logprob: float | None = None
    """Mean log-probability of the answer's tokens below which it is `unsure`, such as -1.5; read where the
    request asks the vendor for `logprobs`. Null: not looked at.
    """
    checks: tuple[AnswerCheckSettings, ...] = ()
    """The operator's own, on whole answers. What one finds is told to the fast model once before the powerful
    one is asked.
    """


class ShadowSettings(Section):
    """Routed requests that are asked of both tiers, beside their answer, to learn from."""

    share: Annotated[float, Field(ge=0, le=0.05)] = 0.0
    """Share of the routed requests, 0 to 0.05; each costs two more calls, and the judge's."""
    judge: Literal["exact", "check", "model"] = "exact"
    """`exact`: nothing is gained where both answers say the same; `check`: what `check` finds in both;
    `model`: `judge_model` says which is better.
    """
    judge_model: str | None = None
    """The name of a configured model; it is shown both answers and not told which is which."""
    check: AnswerCheckSettings | None = None
    """The check of `judge: check`."""

    @model_validator(mode="after")
    def _has_its_judge(self) -> Self:
        if self.judge == "model" and self.judge_model is None:
            raise ValueError("judge: model needs judge_model, the name of a configured model")
        if self.judge == "check" and self.check is None:
            raise ValueError("judge: check needs check, with a pattern, json_schema, python or url")
        return self


class TenantRouting(Section):
    """What holds for one tenant's `auto` requests in place of what holds for all."""

    tenant: Name
    """Whose."""
    tier: Tier | None = None
    """The tier that all of them go to, unless the request's own header names one; null: the score decides."""
    fast_share: Share | None = None
    """The share of them that the fast tier takes; null: as for all."""


class RoutingSettings(Section):
    """How a request for `model: auto` finds its model."""

    fast_share: Share = 0.70
    """Share of `auto` traffic that the fast tier takes, 0 to 1: the calibration target."""
    mean_usd: Annotated[float, Field(gt=0)] | None = None
    """What a routed request is to cost on the mean, in USD: the fast share is moved until it does, once ten
    requests of each tier are known. Null: `fast_share` holds.
    """
    mean_s: Annotated[float, Field(gt=0)] | None = None
    """Likewise how long a routed request is to take on the mean, in seconds; the stricter of both holds."""
    tenants: tuple[TenantRouting, ...] = ()
    """Tenants for whom something else holds."""
    escalate: bool = True
    """Whether a routed request whose fast answer is none is asked again of the powerful tier, before
    anything is shown: whole answers, and streams by their first tokens.
    """
    triggers: TriggerSettings = TriggerSettings()
    """What `escalate` looks for."""
    hedge: HedgeSettings = HedgeSettings()
    """When a second deployment is asked beside a slow first."""
    shadow: ShadowSettings = ShadowSettings()
    """What is run on both tiers to learn from."""
