"""The schema of `routing`: the choice of a model for `auto`, and escalation of inadequate fast answers."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from app.domain.decisions import AnswerDefect, Tier
from app.settings_types import Name, Seconds, Section, Share, Usd


class HedgeSettings(Section):
    """Hedging: a second call to another deployment of the tier when the first token is late."""

    max_share: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    """Share of the routed streams that may be hedged, 0 to 0.2; 0: never. The delay is the learned 95 %
    quantile of the time to the first token, or the quantile 1 - `max_share` if that is later.
    """
    max_usd_per_hour: Usd = 1.0
    """USD per hour that the prompts of second calls may cost; models without a price cost nothing."""


class AnswerCheckSettings(Section):
    """A custom check of routed whole answers; give exactly one of pattern, json_schema, python and url."""

    name: Name
    """Its name in metrics."""
    pattern: str | None = None
    """RE2 expression that must match somewhere in a good answer (linear time, no look-around)."""
    json_schema: dict[str, object] | None = None
    """JSON Schema that a good answer, parsed as JSON, must satisfy."""
    python: str | None = None
    """`package.module:function`, called with question and answer: returns true, null or "" for a good answer,
    else false or a message. A function that is not async runs in a thread.
    """
    url: str | None = None
    """Gets `POST {"question": ..., "answer": ...}`; returns `{"ok": true}` or `{"ok": false, "message":
    ...}`.
    """
    timeout_s: Seconds = 2.0
    """Time limit in seconds; after it the answer counts as good."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = (self.pattern, self.json_schema, self.python, self.url)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("give exactly one of pattern, json_schema, python and url")
        return self


class TriggerSettings(Section):
    """When a routed fast answer is escalated to the powerful tier."""

    lacks: tuple[AnswerDefect, ...] = get_args(AnswerDefect)
    """Defects to look for: refusal; neither text nor tool call; cut off although the request set no limit;
    another language than the question's; repetition; no tool call where one was expected with 95 %; schema
    violation; `unsure` (see `min_mean_logprob`).
    """
    hold_ms: Annotated[int, Field(ge=0, le=150)] = 150
    """Longest time that a stream's first tokens are held back while they may still be a refusal or in the
    wrong language, in milliseconds; other streams are not delayed. 0: streams are not checked.
    """
    grey_hedge: bool = False
    """Call both tiers at once for a stream whose score is near the threshold: the fast tier's first tokens
    are held for `hold_ms`, and the powerful tier answers if it is faster. Costs a second call.
    """
    min_mean_logprob: float | None = None
    """An answer with a mean token log-probability below this is `unsure`, such as -1.5; known only if the
    request asks the vendor for `logprobs`. Null: not checked.
    """
    checks: tuple[AnswerCheckSettings, ...] = ()
    """Custom checks of whole answers. A failure is first reported to the fast model for one correction, then
    the powerful model is called.
    """


class ShadowSettings(Section):
    """Shadow runs: routed requests that are sent to both tiers after their answer, for training labels."""

    share: Annotated[float, Field(ge=0, le=0.05)] = 0.0
    """Share of the routed requests, 0 to 0.05; each costs two more calls, plus the judge's."""
    judge: Literal["exact", "check", "model"] = "exact"
    """`exact`: equal answers mean that the powerful tier gains nothing; `check`: the result of `check` on
    both; `model`: `judge_model` says which is better.
    """
    judge_model: str | None = None
    """Name of a configured model, which gets both answers without knowing which tier gave which."""
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
    """Overrides for one tenant's `auto` requests."""

    tenant: Name
    """The tenant."""
    tier: Tier | None = None
    """The tier of all of them, unless the request's header names one; null: the score decides."""
    fast_share: Share | None = None
    """Share of them that goes to the fast tier; null: as for all."""


class RoutingSettings(Section):
    """How a model is chosen for requests with `model: auto`."""

    fast_share: Share = 0.70
    """Share of `auto` traffic that goes to the fast tier, 0 to 1; the threshold is calibrated to it."""
    mean_usd: Annotated[float, Field(gt=0)] | None = None
    """Target mean cost of a routed request, in USD: the fast share is adjusted to meet it after ten requests
    of each tier. Null: `fast_share` applies.
    """
    mean_s: Annotated[float, Field(gt=0)] | None = None
    """Target mean latency of a routed request, in seconds, likewise; the stricter target applies."""
    tenants: tuple[TenantRouting, ...] = ()
    """Overrides by tenant."""
    escalate: bool = True
    """Send a routed request to the powerful tier if the fast answer is inadequate, before anything is shown:
    whole answers, and streams by their first tokens.
    """
    triggers: TriggerSettings = TriggerSettings()
    """When to escalate."""
    hedge: HedgeSettings = HedgeSettings()
    """Second calls beside slow ones."""
    shadow: ShadowSettings = ShadowSettings()
    """Shadow runs for training labels."""
