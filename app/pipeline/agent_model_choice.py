"""Which model an agent's run asks: the named one, or the router's choice for what the user wants."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.agents import Agent
from app.domain.chat import ImagePart, Message, Role, TextPart
from app.domain.decisions import PromptView, Tier
from app.domain.models import AUTO, Model
from app.errors import NotFound
from app.pipeline.gateway import Gateway, Turn


def choose_models(
    agent: Agent,
    messages: Sequence[Message],
    tool_names: tuple[str, ...],
    gateway: Gateway,
    turn: Turn,
) -> list[Model]:
    """The deployments to try, best first; the same ones for all of a run, for the vendor's cache
    holds its prefix.
    """
    if agent.model != AUTO:
        model = gateway.models.get(agent.model)
        if model is None:
            message = (
                f"agent {agent.name!r} asks for the model {agent.model!r}, which is not configured"
            )
            raise NotFound(message, code="model_not_found")
        turn.answered_tier, turn.reason = model.tier.value, "model named by the agent"
        return [model]
    view = prompt_view(messages, tool_names)
    with turn.timeline.stage("classifier"):
        turn.classification = gateway.classifier.classify(view, turn.tenant)
    with turn.timeline.stage("router"):
        decision = gateway.router.decide(turn.classification, view, turn.tenant, turn.tier)
        turn.answered_tier, turn.reason = decision.tier.value, decision.reason
        turn.band, turn.score, turn.threshold = decision.band, decision.score, decision.threshold
        turn.routed = not decision.forced
        other = Tier.POWERFUL if decision.tier is Tier.FAST else Tier.FAST
        models = gateway.tiers[decision.tier] or gateway.tiers[other]
        return gateway.load.rank(models, lambda _: True)


def prompt_view(messages: Sequence[Message], tool_names: tuple[str, ...]) -> PromptView:
    """What the classifier and the router look at."""
    texts = [(message.role, _text(message)) for message in messages]
    users = [text for role, text in texts if role is Role.USER]
    return PromptView(
        text=users[-1] if users else "",
        system="\n".join(text for role, text in texts if role is Role.SYSTEM),
        turns=max(1, sum(role in {Role.USER, Role.ASSISTANT} for role, _ in texts)),
        total_chars=sum(len(text) for _, text in texts),
        tool_names=tool_names,
        has_images=any(isinstance(part, ImagePart) for each in messages for part in each.parts),
    )


def _text(message: Message) -> str:
    return "\n".join(part.text for part in message.parts if isinstance(part, TextPart))
