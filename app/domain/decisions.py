"""The decisions of lanes, classifier, cache and router, as plain values.

They are shared by packages that must not import each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple


class Tier(StrEnum):
    """The two classes of model that the router chooses between."""

    FAST = "fast"
    POWERFUL = "powerful"

    # The string's own hash: the enumeration's is a Python call at each dict look-up.
    __hash__ = str.__hash__


AnswerDefect = Literal[
    "refused", "empty", "cut_off", "language", "repetition", "no_tool_call", "invalid", "unsure"
]
"""Defects of a fast answer that escalate to the powerful tier, beside an operator's own checks."""


class Cacheability(StrEnum):
    """Whether, and how long, an answer may be cached."""

    STABLE = "stable"
    SLOW = "slow"
    UNKNOWN = "unknown"
    VOLATILE = "volatile"
    PERSONAL = "personal"
    SIDE_EFFECT = "side_effect"


class CacheOutcome(StrEnum):
    """The value of the ``x-slipstream-cache`` response header and of the metric label."""

    EXACT = "exact"
    SEMANTIC = "semantic"
    COALESCED = "coalesced"
    LANE = "lane"
    MISS = "miss"
    BYPASS = "bypass"

    __hash__ = str.__hash__


class CacheMode(StrEnum):
    """The cache mode requested by the ``x-slipstream-cache`` request header."""

    DEFAULT = "default"
    BYPASS = "bypass"
    REFRESH = "refresh"
    ONLY = "only"

    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class PromptView:
    """The request as seen by classifier and router: text and counts, no wire format."""

    text: str
    """The last user turn's text; empty when there is none."""
    system: str = ""
    turns: int = 1
    """User and assistant messages, the last user turn included."""
    total_chars: int = 0
    """Characters of all text in the request, tools excluded."""
    tool_names: tuple[str, ...] = ()
    has_images: bool = False
    wants_json: bool = False
    max_tokens: int | None = None
    after_tool_result: bool = False
    """The request continues a tool loop: its last message is a tool result."""

    @property
    def is_plain_question(self) -> bool:
        """One user turn, and nothing that changes the answer's format: what a lane may answer."""
        return (
            self.turns == 1
            and not self.system
            and not self.tool_names
            and not self.has_images
            and not self.wants_json
        )


class ToolGuess(NamedTuple):
    """What a request's words alone predict of its tool calls, to learn from its answer by."""

    agent: int
    """Hash of the tenant with these tools, within this process."""
    names: tuple[str, ...]
    calls: tuple[float, ...]
    """P(called) of each."""
    conjunctions: int
    """Words that join tasks."""
    pool: tuple[str, bool]
    """The tenant's requests of this kind, whatever their tools: tenant, after a tool's result."""


class Classification(NamedTuple):
    """The classifier's judgement of one request. A tuple, as is ``RouteDecision``: each is made once a
    request, and a frozen dataclass of eight fields takes four times as long to make.
    """

    complexity: float
    """P(the powerful model's answer is better), 0 to 1."""
    cacheability: Cacheability
    ttl_s: int | None
    """How long an answer may be kept: None = the configured time, 0 = not at all."""
    semantic_ok: bool
    """Whether a semantic hit may be considered at all."""
    tool_need: tuple[tuple[str, float], ...] = ()
    """(tool name, probability that it will be called), most probable first."""
    several_calls: float = 0.0
    """P(more than one tool call)."""
    language: str | None = None
    reason: str = ""
    tool_guess: ToolGuess | None = None
    """What the answer's calls teach about; None where they teach nothing."""


class RouteDecision(NamedTuple):
    """Which tier answers, and why in a few words."""

    tier: Tier
    score: float
    threshold: float
    band: str
    """``fast``, ``grey`` or ``powerful``: how far the score is from the threshold."""
    reason: str
    forced: bool = False
    """A hard rule or the caller decided, not the score."""
