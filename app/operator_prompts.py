"""What the operator says about prompts, as the room of prompts understands it."""

from __future__ import annotations

from app.domain.models import Model
from app.prompts.caching import PromptCaching
from app.settings import Settings


def prompts_of(settings: Settings, models: dict[str, Model]) -> PromptCaching | None:
    """What serves the vendors' prompt caches; None where that is off."""
    wanted = settings.prompts
    if not wanted.enabled:
        return None
    own = {model.name: model.breakpoints for model in settings.models}
    on = {name for name, told in own.items() if (wanted.breakpoints if told is None else told)}
    return PromptCaching(
        models.values(),
        lambda model: model.name in on,
        lead=wanted.lead,
        affinity=wanted.affinity,
        value_usd_per_s=wanted.value_usd_per_s,
    )
