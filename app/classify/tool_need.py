"""P(each offered tool is called) and P(several calls), predicted before the model answers.

The guess: a shipped linear table scores how much a request reads like one that needs any tool, and a
tool whose name's words appear in the request is the likely one.

What a guess is worth depends on the agent (a tenant with the tools that it offers): one calls a tool for
nearly every request, another carries fifty and calls two. So each agent has a learned offset in log-odds
for each of its tools: p = sigmoid(logit(guess) + offset). The offset recalibrates; how much more one
request's words ask for a tool than another's stays in force, which mixing in a share of calls would undo.
"Several calls" is partially pooled: the tenant's offset, shared by its agents, plus the agent's own, so
that new and known agents are ranked on one scale.

Offsets are learned online from finished requests, one Newton step each: the residual (outcome 0 or 1,
less p as it stands now) over the accumulated Fisher information, the sum of p (1 - p), which decays by a
hundredth with each request (a thousandth for a pool) so that changed behaviour is learned anew. A tool
that is always called reaches 0.95 after about 32 requests, and loses it within a few once it is not.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TypeVar

from app.classify.features import Features
from app.classify.text_classifier import LinearTextClassifier
from app.domain.decisions import PromptView, ToolGuess

K = TypeVar("K")

_NAME_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_GENERIC = frozenset(
    (
        *("get", "set", "list", "find", "search", "check", "look", "up", "fetch", "do", "run"),
        *("call", "tool", "api", "by", "for", "the", "of"),
    )
)
_CONJUNCTIONS = frozenset(
    b" %b " % word for word in b"and then also both each all every compare versus vs".split()
)
_STEM, _ASCII = 5, 0x7F
# Maps everything between words to spaces; bytes beyond ASCII belong to words.
_SPACED = bytes(
    byte if byte > _ASCII or bytes((byte,)).isalnum() else ord(" ") for byte in range(256)
)
_by_probability = itemgetter(1)
_MAX_AGENTS = 1_000
_MAX_TOOLS = 128
"""Nothing is learned for an agent with more: vendors accept no more, and the state stays bounded."""
_DECAY, _POOL_DECAY = 0.99, 0.999
_TOOL_INFORMATION, _SEVERAL_INFORMATION, _POOL_INFORMATION = 0.25, 4.0, 1.0
"""Initial Fisher information of each offset, a sum of p (1 - p): the less, the faster it moves."""
_MAX_ODDS = math.exp(8.0)


class _ToolOffsets:
    """Learned log-odds offsets of an agent's tools, then that of "several calls"."""

    __slots__ = ("information", "odds")

    def __init__(self, tools: int) -> None:
        self.odds = array("d", [1.0]) * (tools + 1)
        """exp(offset): the factor on a guess's odds."""
        self.information = array("d", [0.0]) * (tools + 1)

    def update(
        self,
        at: int,
        p: float,
        residual: float,
        prior_information: float = _TOOL_INFORMATION,
        decay: float = _DECAY,
    ) -> None:
        """Take a Newton step for ``at``, predicted with ``p``; ``residual`` is the outcome less that."""
        information = self.information[at] = self.information[at] * decay + p * (1 - p)
        odds = self.odds[at] * math.exp(residual / (prior_information + information))
        self.odds[at] = min(_MAX_ODDS, max(1 / _MAX_ODDS, odds))


class ToolNeed:
    """Predictions and the learned offsets. State is bounded: 1,000 pools, and 1,000 agents of at most 128
    tools (2 kB each); the least recently used is dropped. In memory, of one process.
    """

    __slots__ = ("_agents", "_head", "_pools")

    def __init__(self) -> None:
        """Start with no statistics."""
        self._head = LinearTextClassifier.shipped("tool_need")
        self._agents: OrderedDict[int, _ToolOffsets] = OrderedDict()
        self._pools: OrderedDict[tuple[str, bool], _ToolOffsets] = OrderedDict()
        """Offsets of "several calls" alone, pooled over a tenant's agents."""

    def adopt_statistics(self, other: ToolNeed) -> None:
        """Use the statistics of ``other`` from now on; both learn into them, on one event loop."""
        self._agents, self._pools = other._agents, other._pools

    def any_tool_probability(self, features: Features) -> float:
        """P(the request needs some tool), 0 to 1, whatever is offered."""
        return min(1.0, max(0.0, self._head.score(features)))

    def estimate(
        self, features: Features, view: PromptView, tenant: str = ""
    ) -> tuple[tuple[tuple[str, float], ...], float, ToolGuess | None]:
        """((tool, P(called)), ... most likely first), P(several calls), and the guess that ``observe`` takes
        with the answer. Empty, 0 and None when no tool is offered.
        """
        names = view.tool_names
        if not names:
            return (), 0.0, None
        words = b" %b " % features.lowered.translate(_SPACED)
        need = self.any_tool_probability(features)
        # A request after a tool's result is another kind: it mostly gets the final answer.
        agent = hash((tenant, names, view.after_tool_result))
        guesses = [_guess_probability(need, _name_overlap(name, words)) for name in names]
        learned = self._agents.get(agent)
        probabilities = (
            guesses if learned is None else list(map(_apply_offset, guesses, learned.odds))
        )
        scored = sorted(zip(names, probabilities, strict=True), key=_by_probability, reverse=True)
        conjunctions = sum([word in words for word in _CONJUNCTIONS])
        pool = (tenant, view.after_tool_result)
        pooled = self._pools.get(pool)
        odds = 1.0 if pooled is None else pooled.odds[-1]
        if learned is not None:
            odds *= learned.odds[-1]
        several = several_calls_probability(conjunctions, probabilities, odds)
        return tuple(scored), several, ToolGuess(agent, names, tuple(guesses), conjunctions, pool)

    def observe(
        self, guess: ToolGuess, called: tuple[str, ...], *, several_allowed: bool = True
    ) -> None:
        """Learn from one finished request that was free to call or not: what it called, with repeats.

        ``several_allowed``: whether it could have called more than one.
        """
        names = guess.names
        if len(names) > _MAX_TOOLS:
            return
        offsets = _touch(self._agents, guess.agent, len(names))
        # From the current offsets: other answers may have been observed since the guess.
        probabilities = list(map(_apply_offset, guess.calls, offsets.odds))
        if several_allowed:
            pooled = _touch(self._pools, guess.pool, 0)
            several = several_calls_probability(
                guess.conjunctions, probabilities, pooled.odds[-1] * offsets.odds[-1]
            )
            residual = (len(called) > 1) - several
            pooled.update(0, several, residual, _POOL_INFORMATION, _POOL_DECAY)
            offsets.update(len(names), several, residual, _SEVERAL_INFORMATION)
        for at, name in enumerate(names):
            offsets.update(at, probabilities[at], (name in called) - probabilities[at])


def _touch(table: OrderedDict[K, _ToolOffsets], key: K, tools: int) -> _ToolOffsets:
    """The offsets of ``key``, made where there are none; the least recently used of too many go."""
    found = table.get(key)
    if found is None:
        found = table[key] = _ToolOffsets(tools)
        if len(table) > _MAX_AGENTS:
            table.popitem(last=False)
    else:
        table.move_to_end(key)
    return found


def _apply_offset(guess: float, odds: float) -> float:
    """The probability ``guess`` with its odds multiplied by ``odds``."""
    scaled = guess * odds
    return scaled / (scaled + 1 - guess)


def several_calls_probability(
    conjunctions: int, probabilities: Sequence[float], odds: float
) -> float:
    """P(more than one call), from the conjunctions and the expected number of calls."""
    return 1 / (1 + math.exp(2.2 - 0.8 * conjunctions - 0.7 * min(3.0, sum(probabilities))) / odds)


def _guess_probability(need: float, overlap: float) -> float:
    """P(a tool is called) from P(any tool) and the share of the tool's name in the request."""
    return 0.05 + 0.25 * need + overlap * (0.45 + 0.2 * need)


def _name_overlap(name: str, words: bytes) -> float:
    """The share of the specific words of a tool's name that occur in the request, whole or as a prefix.
    `words`: lower case, each between two spaces.
    """
    specific = _name_stems(name)
    return sum(each in words for each in specific) / len(specific) if specific else 0.0


@lru_cache(maxsize=4_096)
def _name_stems(name: str) -> tuple[bytes, ...]:
    """What to search for a tool's name in a request: the first five letters of a word, or a whole shorter
    one.
    """
    parts = [part.lower() for part in _NAME_WORD.findall(name)]
    specific = [part for part in parts if part not in _GENERIC] or parts
    return tuple(
        f" {part[:_STEM]}".encode() if len(part) >= _STEM else f" {part} ".encode()
        for part in specific
    )
