"""A configured model: provider, price and abilities, as data instead of ``if vendor``."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.domain.decisions import Tier
from app.domain.usage import Price

AUTO = "auto"
"""The model name that asks the router to choose."""
THINKING_BUDGET_TOKENS = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16384,
    "xhigh": 32768,
    "max": 49152,
}
"""OpenAI's efforts for models that take a budget; Anthropic's minimum is 1,024."""
MIN_THINKING_BUDGET_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model's API accepts; the codecs and the router read it."""

    temperature: bool = True
    """Takes ``temperature``/``top_p``; reasoning models often refuse them."""
    images: bool = True
    documents: bool = True
    tools: bool = True
    structured_output: bool = True
    """Takes a JSON schema for the answer."""
    prefill: bool = False
    """Continues a final assistant message."""
    thinking: str = "none"
    """``none``, ``effort`` (an effort word), ``budget`` (tokens) or ``adaptive``."""
    cache_breakpoints: str = "none"
    """``none``, ``anthropic`` (``cache_control``), ``openai`` (explicit breakpoints) or ``implicit``."""
    cache_minimum_tokens: int = 1024
    max_tokens_field: str = "max_tokens"
    """Chat dialect: ``max_tokens`` or ``max_completion_tokens``."""
    verbosity: bool = False
    """Accepts OpenAI's ``verbosity``."""
    default_max_tokens: int = 4096
    """Sent where the dialect requires a limit and the caller set none."""


@dataclass(frozen=True, slots=True)
class Model:
    """One deployment: our name for a provider's model."""

    name: str
    provider: str
    upstream_model: str
    tier: Tier
    price: Price = field(default_factory=Price)
    abilities: Abilities = field(default_factory=Abilities)
    context_tokens: int | None = None

    label: str = field(init=False, repr=False, compare=False)
    """``provider/model`` as the response header names it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", f"{self.provider}/{self.upstream_model}")
