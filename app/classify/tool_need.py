"""P(each offered tool will be called) and P(more than one call), before the model has said
anything.

A shipped table says how much a request reads like one that needs any tool; a tool whose name's
words stand in the request is the likely one. That is the guess. What it is worth depends on the
agent, which is a tenant with the tools that it offers: one calls a tool for nearly all that it is
asked, another carries fifty and calls two. So each agent has an offset of its own for each of its
tools, in log-odds, and one for "several": p = sigmoid(logit(guess) + offset). An offset moves what
is expected and leaves in force how much more one request's words ask for a tool than another's,
which a share of calls that takes the guess's place does not.

Offsets are learned from finished requests, one Newton step each: the surprise (called, 0 or 1, less
p as it stands now) over what was learned so far, the sum of p (1 - p), of which a hundredth is
forgotten with each request, so that an agent that behaves otherwise is learned anew. A tool that is
called without exception is held for all but certain (0.95) after about 32 requests; one that is then
no longer called falls within a few.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter

from app.classify.features import Features
from app.classify.text_head import TextHead
from app.domain.decisions import PromptView, ToolGuess

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
_KEPT = 0.99
_CAUTION, _CAUTION_OF_SEVERAL = 0.25, 1.0
"""The certainty that each offset begins with, as a sum of p (1 - p): the less, the sooner it moves."""
_FARTHEST = math.exp(8.0)


class _Offsets:
    """What one agent's requests taught: the last place of each array is that of "several calls"."""

    __slots__ = ("odds", "weight")

    def __init__(self, tools: int) -> None:
        self.odds = array("d", [1.0]) * (tools + 1)
        """exp(offset): what a guess's odds are multiplied with."""
        self.weight = array("d", [0.0]) * (tools + 1)

    def learn(self, at: int, p: float, surprise: float, caution: float = _CAUTION) -> None:
        """Take a step for ``at``, foreseen with ``p``; ``surprise`` is what came less that."""
        weight = self.weight[at] = self.weight[at] * _KEPT + p * (1 - p)
        odds = self.odds[at] * math.exp(surprise / (caution + weight))
        self.odds[at] = min(_FARTHEST, max(1 / _FARTHEST, odds))


class ToolNeed:
    """Estimates, and what each agent's requests taught. State is bounded: 1,000 agents of 128 tools
    at most (2 kB each), the one that called longest ago dropped. One process's, not kept.
    """

    __slots__ = ("_agents", "_head")

    def __init__(self) -> None:
        """Start with no statistics."""
        self._head = TextHead.shipped("tool_need")
        self._agents: OrderedDict[int, _Offsets] = OrderedDict()

    def share(self, other: ToolNeed) -> None:
        """Use the statistics of ``other`` from now on; both learn into them, on one event loop."""
        self._agents = other._agents

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
        joins = sum(join in words for join in _JOINS)
        several = several_of(joins, shares, 1.0 if learned is None else learned.odds[-1])
        return tuple(scored), several, ToolGuess(agent, names, tuple(guesses), joins)

    def observe(
        self, guess: ToolGuess, called: tuple[str, ...], *, several_allowed: bool = True
    ) -> None:
        """Learn from one finished request that was free to call or not: what it called, with repeats.

        ``several_allowed``: whether it could have called more than one.
        """
        names = guess.names
        if len(names) > _MOST_TOOLS:
            return
        learned = self._agents.get(guess.agent)
        if learned is None:
            learned = self._agents[guess.agent] = _Offsets(len(names))
            if len(self._agents) > _MAX_AGENTS:
                self._agents.popitem(last=False)
        else:
            self._agents.move_to_end(guess.agent)
        # By what is known now: many may have been asked since the guess was made.
        shares = list(map(_moved, guess.calls, learned.odds))
        if several_allowed:
            several = several_of(guess.joins, shares, learned.odds[-1])
            surprise = (len(called) > 1) - several
            learned.learn(len(names), several, surprise, _CAUTION_OF_SEVERAL)
        for at, name in enumerate(names):
            learned.learn(at, shares[at], (name in called) - shares[at])


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
