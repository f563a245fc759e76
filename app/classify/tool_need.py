"""P(each offered tool will be called) and P(more than one call), before the model has said
anything.

A shipped table says how much a request reads like one that needs any tool; a tool whose name's
words stand in the request is the likely one. What this agent's own requests have called before is
counted per tool and mixed in as it grows.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache

from app.classify.features import Features
from app.classify.text_head import TextHead
from app.domain.decisions import PromptView

_NAME_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_GENERIC = frozenset(
    (
        *("get", "set", "list", "find", "search", "check", "look", "up", "fetch", "do", "run"),
        *("call", "tool", "api", "by", "for", "the", "of"),
    )
)
_JOINS = frozenset(
    b" %b " % word for word in b"and then also both each all every compare versus vs".split()
)
_STEM, _ASCII = 5, 0x7F
# Everything between words to white space; bytes beyond ASCII belong to words.
_SPACED = bytes(
    byte if byte > _ASCII or bytes((byte,)).isalnum() else ord(" ") for byte in range(256)
)
_PRIOR_CALLS = 8.0
_MAX_AGENTS = 1_000


@dataclass(slots=True)
class _AgentCalls:
    """How often requests that offered the same tools called each of them."""

    requests: float = 0.0
    several: float = 0.0
    calls: dict[str, float] = field(default_factory=dict)


class ToolNeed:
    """Estimates and counts per set of offered tools. State is bounded: 1,000 sets, oldest
    dropped.
    """

    __slots__ = ("_agents", "_head")

    def __init__(self) -> None:
        """Start with no statistics."""
        self._head = TextHead.shipped("tool_need")
        self._agents: OrderedDict[tuple[str, ...], _AgentCalls] = OrderedDict()

    def any_tool(self, features: Features) -> float:
        """P(the request needs some tool), 0 to 1, whatever is offered."""
        return min(1.0, max(0.0, self._head.score(features)))

    def estimate(
        self, features: Features, view: PromptView
    ) -> tuple[tuple[tuple[str, float], ...], float]:
        """((tool, P(called)), ... most likely first), P(several calls). Empty when none is
        offered.
        """
        if not view.tool_names:
            return (), 0.0
        words = b" %b " % features.lowered.translate(_SPACED)
        need = self.any_tool(features)
        seen = self._agents.get(view.tool_names) or _AgentCalls()
        scored = []
        for name in view.tool_names:
            guess = _guess(need, _overlap(name, words))
            share = (seen.calls.get(name, 0.0) + guess * _PRIOR_CALLS) / (
                seen.requests + _PRIOR_CALLS
            )
            scored.append((name, share))
        scored.sort(key=lambda pair: -pair[1])
        likely = sum(share for _, share in scored)
        joins = sum(join in words for join in _JOINS)
        guess = 1 / (1 + math.exp(2.2 - 0.8 * joins - 0.7 * min(3.0, likely)))
        several = (seen.several + guess * _PRIOR_CALLS) / (seen.requests + _PRIOR_CALLS)
        return tuple(scored), min(1.0, several)

    def observe(self, tool_names: tuple[str, ...], called: tuple[str, ...]) -> None:
        """Count one finished request that offered `tool_names` and called `called` (with
        repeats).
        """
        if not tool_names:
            return
        seen = self._agents.setdefault(tool_names, _AgentCalls())
        self._agents.move_to_end(tool_names)
        seen.requests += 1
        seen.several += len(called) > 1
        for name in set(called) & set(tool_names):
            seen.calls[name] = seen.calls.get(name, 0.0) + 1
        while len(self._agents) > _MAX_AGENTS:
            self._agents.popitem(last=False)


def _guess(need: float, overlap: float) -> float:
    """P(a tool is called) from P(any tool) and how much of the tool's name the request says."""
    return 0.05 + 0.25 * need + overlap * (0.45 + 0.2 * need)


def _overlap(name: str, words: bytes) -> float:
    """The share of the telling words of a tool's name that stand in the request, as they are or as its
    words begin. `words`: lowered, each between two spaces.
    """
    telling = _sought(name)
    return sum(each in words for each in telling) / len(telling) if telling else 0.0


@lru_cache(maxsize=4_096)
def _sought(name: str) -> tuple[bytes, ...]:
    """What to look for of a tool's name among a request's words: five letters open a word, fewer are one."""
    parts = [part.lower() for part in _NAME_WORD.findall(name)]
    telling = [part for part in parts if part not in _GENERIC] or parts
    return tuple(
        f" {part[:_STEM]}".encode() if len(part) >= _STEM else f" {part} ".encode()
        for part in telling
    )
