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
from app.classify.text_head import TextHead
from app.domain.decisions import PromptView, ToolGuess

K = TypeVar("K")

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
_PROBABILITY = itemgetter(1)
_MAX_AGENTS = 1_000
_MOST_TOOLS = 128
"""An agent with more is judged by words alone: vendors take no more, and the state stays bounded."""
_KEPT, _KEPT_OF_POOL = 0.99, 0.999
_CAUTION, _CAUTION_OF_SEVERAL, _CAUTION_OF_POOL = 0.25, 4.0, 1.0
"""The certainty that each offset begins with, as a sum of p (1 - p): the less, the sooner it moves."""
_FARTHEST = math.exp(8.0)


class _Offsets:
    """Learned log-odds offsets of an agent's tools, then that of "several calls"."""

    __slots__ = ("odds", "weight")

    def __init__(self, tools: int) -> None:
        self.odds = array("d", [1.0]) * (tools + 1)
        """exp(offset): what a guess's odds are multiplied with."""
        self.weight = array("d", [0.0]) * (tools + 1)

    def learn(
        self,
        at: int,
        p: float,
        surprise: float,
        caution: float = _CAUTION,
        kept: float = _KEPT,
    ) -> None:
        """Take a Newton step for ``at``, predicted with ``p``; ``surprise`` is the outcome less that."""
        weight = self.weight[at] = self.weight[at] * kept + p * (1 - p)
        odds = self.odds[at] * math.exp(surprise / (caution + weight))
        self.odds[at] = min(_FARTHEST, max(1 / _FARTHEST, odds))


class ToolNeed:
    """Predictions and the learned offsets. State is bounded: 1,000 pools, and 1,000 agents of at most 128
    tools (2 kB each); the least recently used is dropped. In memory, of one process.
    """

    __slots__ = ("_agents", "_head", "_pools")

    def __init__(self) -> None:
        """Start with no statistics."""
        self._head = TextHead.shipped("tool_need")
        self._agents: OrderedDict[int, _Offsets] = OrderedDict()
        self._pools: OrderedDict[tuple[str, bool], _Offsets] = OrderedDict()
        """Offsets of "several calls" alone, pooled over a tenant's agents."""

    def share(self, other: ToolNeed) -> None:
        """Use the statistics of ``other`` from now on; both learn into them, on one event loop."""
        self._agents, self._pools = other._agents, other._pools

    def any_tool(self, features: Features) -> float:
        """P(the request needs some tool), 0 to 1, whatever is offered."""
        return min(1.0, max(0.0, self._head.score(features)))

    def estimate(
        self, features: Features, view: PromptView, tenant: str = ""
    ) -> tuple[tuple[tuple[str, float], ...], float, ToolGuess | None]:
        """((tool, P(called)), ... most likely first), P(several calls), and the guess to ``observe``
        the answer by. Empty, 0 and None when no tool is offered.
        """
        names = view.tool_names
        if not names:
            return (), 0.0, None
        words = b" %b " % features.lowered.translate(_SPACED)
        need = self.any_tool(features)
        # What follows a tool's result is another kind of request: it is mostly the answer.
        agent = hash((tenant, names, view.after_tool_result))
        guesses = [_guess(need, _overlap(name, words)) for name in names]
        learned = self._agents.get(agent)
        shares = guesses if learned is None else list(map(_moved, guesses, learned.odds))
        scored = sorted(zip(names, shares, strict=True), key=_PROBABILITY, reverse=True)
        joins = sum([join in words for join in _JOINS])
        pool = (tenant, view.after_tool_result)
        pooled = self._pools.get(pool)
        odds = 1.0 if pooled is None else pooled.odds[-1]
        if learned is not None:
            odds *= learned.odds[-1]
        several = several_of(joins, shares, odds)
        return tuple(scored), several, ToolGuess(agent, names, tuple(guesses), joins, pool)

    def observe(
        self, guess: ToolGuess, called: tuple[str, ...], *, several_allowed: bool = True
    ) -> None:
        """Learn from one finished request that was free to call or not: what it called, with repeats.

        ``several_allowed``: whether it could have called more than one.
        """
        names = guess.names
        if len(names) > _MOST_TOOLS:
            return
        learned = _newest(self._agents, guess.agent, len(names))
        # By what is known now: many may have been asked since the guess was made.
        shares = list(map(_moved, guess.calls, learned.odds))
        if several_allowed:
            pooled = _newest(self._pools, guess.pool, 0)
            several = several_of(guess.joins, shares, pooled.odds[-1] * learned.odds[-1])
            surprise = (len(called) > 1) - several
            pooled.learn(0, several, surprise, _CAUTION_OF_POOL, _KEPT_OF_POOL)
            learned.learn(len(names), several, surprise, _CAUTION_OF_SEVERAL)
        for at, name in enumerate(names):
            learned.learn(at, shares[at], (name in called) - shares[at])


def _newest(table: OrderedDict[K, _Offsets], key: K, tools: int) -> _Offsets:
    """The offsets of ``key``, made where there are none; the least recently used of too many go."""
    found = table.get(key)
    if found is None:
        found = table[key] = _Offsets(tools)
        if len(table) > _MAX_AGENTS:
            table.popitem(last=False)
    else:
        table.move_to_end(key)
    return found


def _moved(guess: float, odds: float) -> float:
    """``guess`` with its odds multiplied by ``odds``."""
    towards = guess * odds
    return towards / (towards + 1 - guess)


def several_of(joins: int, shares: Sequence[float], odds: float) -> float:
    """P(more than one call), from the joining words and how many calls are expected."""
    return 1 / (1 + math.exp(2.2 - 0.8 * joins - 0.7 * min(3.0, sum(shares))) / odds)


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
