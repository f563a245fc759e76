"""A conversation stays where its prompt is in the vendor's cache, unless leaving gains more than it costs.

The worth is measured: tokens that the vendor holds x how often it truly does x (seconds a token takes to read
+ the price table's difference, in seconds of the caller's time).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.chat import ChatRequest
from app.domain.decisions import PromptView, Tier
from app.domain.models import Model
from app.pipeline.gateway import Gateway, Turn
from app.prompts.breakpoints import prices
from app.prompts.conversations import Conversation, opening_of

_MOST_MARGIN = 0.1
"""How much clearer the score must be at most to leave a tier that is warm."""


@dataclass(frozen=True, slots=True)
class Warm:
    """Where a conversation is warm, and what staying there is worth."""

    model: Model
    seconds: float
    usd: float
    margin: float
    """How much clearer the router's score must be to leave: the more, the dearer leaving is."""

    def worth_s(self, value_usd_per_s: float) -> float:
        """Both in seconds."""
        return self.seconds + self.usd / value_usd_per_s


def warm_of(view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn) -> Warm | None:
    """Where this conversation is warm; None for a first turn, a short prompt, or where nothing is known."""
    prompts = gateway.prompts
    if prompts is None or not _may_be_warm(view, request, prompts.least_bytes):
        return None
    found = prompts.warm_on(turn.tenant, opening_of(request, prompts.is_moved))
    model = None if found is None else gateway.models.get(found.model)
    if found is None or model is None:
        return None
    saving = prompts.saving(model, found)
    if saving.seconds <= 0 and saving.usd <= 0:
        return None
    return Warm(model, saving.seconds, saving.usd, _margin(model, found, saving.usd))


def lags(view: PromptView, request: ChatRequest, gateway: Gateway) -> bool:
    """Whether somebody has to learn from calls that are over before it is known where this one is warm."""
    prompts = gateway.prompts
    if prompts is None or not prompts.lags():
        return False
    return _may_be_warm(view, request, prompts.least_bytes)


def _may_be_warm(view: PromptView, request: ChatRequest, least_bytes: int) -> bool:
    return view.turns > 1 and len(request.raw) >= least_bytes


def _margin(model: Model, found: Conversation, usd: float) -> float:
    """In proportion to what is lost of the prompt's price: nothing read anew, nothing lost."""
    plain, _, _ = prices(model)
    whole = found.warm_tokens * plain / 1e6
    return _MOST_MARGIN * (min(1.0, usd / whole) if whole > 0 else 0.5)


def stays(warm: Warm) -> tuple[Tier, float]:
    """What the router has to know."""
    return warm.model.tier, warm.margin


def keep_warm(ordered: Sequence[Model], warm: Warm | None, gateway: Gateway) -> list[Model]:
    """``ordered`` with the warm deployment first, unless the first one's lead is worth more."""
    models = list(ordered)
    prompts = gateway.prompts
    if warm is None or prompts is None or warm.model not in models or models[0] is warm.model:
        return models
    if gateway.load.is_open(warm.model.name):
        return models
    lead_s = _wait_s(warm.model, gateway) - _wait_s(models[0], gateway)
    if lead_s <= warm.worth_s(prompts.value_usd_per_s):
        models.remove(warm.model)
        models.insert(0, warm.model)
    return models


def _wait_s(model: Model, gateway: Gateway) -> float:
    known = gateway.load.of(model.name)
    return (known.ttft_s or known.upstream_s) * (1 + known.in_flight)
