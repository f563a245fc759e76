"""Conversation affinity: prefer the deployment whose prompt cache holds the conversation.

The saving is measured: cached tokens x observed hit rate x (seconds to read a token + its price difference,
converted to seconds of the caller's time). Another deployment is chosen only where it gains more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.chat import ChatRequest
from app.domain.decisions import PromptView, Tier
from app.domain.models import Model
from app.pipeline.gateway import Gateway, Turn
from app.prompts.breakpoints import prices
from app.prompts.conversations import ConversationState, opening_of

_MOST_MARGIN = 0.1
"""The largest margin that the router's score must exceed to leave a warm tier."""


@dataclass(frozen=True, slots=True)
class WarmDeployment:
    """The deployment whose prompt cache holds a conversation, and what using it saves."""

    model: Model
    seconds: float
    usd: float
    margin: float
    """How far the router's score must pass its threshold to leave: it grows with the cost of leaving."""

    def worth_s(self, value_usd_per_s: float) -> float:
        """Time and money saved, together in seconds."""
        return self.seconds + self.usd / value_usd_per_s


def warm_deployment(
    view: PromptView, request: ChatRequest, gateway: Gateway, turn: Turn
) -> WarmDeployment | None:
    """Where the conversation is cached; None for a first turn, a short prompt or an unknown one."""
    prompts = gateway.prompts
    if prompts is None or not _may_be_warm(view, request, prompts.min_bytes):
        return None
    found = prompts.warm_on(turn.tenant, opening_of(request, prompts.is_moved))
    model = None if found is None else gateway.models.get(found.model)
    if found is None or model is None:
        return None
    saving = prompts.saving(model, found)
    if saving.seconds <= 0 and saving.usd <= 0:
        return None
    return WarmDeployment(model, saving.seconds, saving.usd, _margin(model, found, saving.usd))


def affinity_pending(view: PromptView, request: ChatRequest, gateway: Gateway) -> bool:
    """Whether ended calls are still unread that may decide where this conversation is warm."""
    prompts = gateway.prompts
    if prompts is None or not prompts.session_affinity_pending():
        return False
    return _may_be_warm(view, request, prompts.min_bytes)


def _may_be_warm(view: PromptView, request: ChatRequest, least_bytes: int) -> bool:
    return view.turns > 1 and len(request.raw) >= least_bytes


def _margin(model: Model, found: ConversationState, usd: float) -> float:
    """In proportion to the share of the prompt's price that leaving costs."""
    plain, _, _ = prices(model)
    whole = found.warm_tokens * plain / 1e6
    return _MOST_MARGIN * (min(1.0, usd / whole) if whole > 0 else 0.5)


def affinity_hint(warm: WarmDeployment) -> tuple[Tier, float]:
    """The router's input: the warm tier, and the margin needed to leave it."""
    return warm.model.tier, warm.margin


def prefer_warm(
    ordered: Sequence[Model], warm: WarmDeployment | None, gateway: Gateway
) -> list[Model]:
    """``ordered`` with the warm deployment first, unless the first one's shorter wait is worth more."""
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
    known = gateway.load.deployment(model.name)
    return (known.ttft_s or known.upstream_s) * (1 + known.in_flight)
