"""Whether, and for how long, an answer may be kept, judged from the wording of the request.

The order of the rules is the order of harm: an action must never be answered from a cache, a
personal question never for someone else, a volatile one never later. Only then is anything called
stable. What no rule knows is UNKNOWN: an exact hit within the configured time may serve it, a
semantic never.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple

import re2

from app.classify.features import Features
from app.classify.lasting import MAX_CHARS, Lasting
from app.classify.text_head import TextHead
from app.domain.decisions import Cacheability

SLOW_TTL_S: Final = 3600
STABLE_FROM: Final = 0.66
"""Of the lasting score. On EverGreenQA's dev part 0.64 leaks 2 % of the questions whose answer changes."""
SLOW_BELOW: Final = 0.4
"""Below, the answer changes some day, but no wording says that it changes at once."""

_POLITE = (
    r"^(?:please\s+|can\s+you\s+|could\s+you\s+|would\s+you\s+|now\s+|and\s+|then\s+"
    r"|i\s+want\s+to\s+|i(?:'d|\s+would)\s+like\s+to\s+)*"
)
_ACTION = (
    _POLITE + r"(?:send|book|order|buy|purchase|cancel|delete|remove\s+(?:the|my|all|this)|schedule"
    r"|reschedule|reserve|turn\s+(?:on|off|up|down)|switch\s+(?:on|off)|restart|reboot|shut\s+down"
    r"|deploy|pay|transfer|withdraw|submit|post\s+(?:this|a|the|to)|publish|remind\s+me|wake\s+me"
    r"|set\s+(?:an?\s+)?(?:alarm|timer|reminder)|call\s+(?:my|the|him|her|mom|dad)"
    r"|text\s+(?:my|him|her)|e-?mail\s+(?:my|the|him|her|this)|upload|unsubscribe|subscribe\s+me"
    r"|(?:create|open|close|update|assign|resolve|escalate)\s+(?:an?\s+|the\s+|my\s+|this\s+)?"
    r"(?:ticket|account|user|order|event|meeting|appointment|issue|case|record|incident)"
    r"|reset\s+(?:my|the|his|her)\s+password|grant|revoke"
    r"|add\s+.{1,60}\s+to\s+(?:my|the)\s+(?:cart|list|calendar|playlist))\b"
)
_PERSONAL = (
    r"\b(?:my|our|mine)\s+(?:\w+\s+){0,2}(?:accounts?|balance|orders?|bookings?|reservations?"
    r"|tickets?|calendar|schedule|inbox|e-?mails?|messages?|subscriptions?|invoices?|bills?|password"
    r"|profile|appointments?|package|parcel|delivery|flights?|salary|payslip|meetings?|tasks?"
    r"|portfolio|cart|playlist|contacts?|location|address|phone|bank|card|transactions?|insurance"
    r"|policy|vacation|leave|prescriptions?|results?|grades?|permissions?|manager|team|birthday|name"
    r"|age|wife|husband|kids?|files?|photos?|usage|plan|credits?)\b"
    r"|\b(?:do|did|am|have|was|will|can|should)\s+i\s+(?:have|owe|get|paid|booked|scheduled|enrolled"
    r"|entitled|eligible|allowed|subscribed|due|left)\b"
    r"|\bwho\s+am\s+i\b|\bwhere\s+am\s+i\b|\b(?:about|remember|know)\s+me\b|\bnear\s+me\b"
)
_VOLATILE = (
    r"\b(?:right\s+now|at\s+the\s+moment|at\s+present|currently|today(?:'s)?|tonight|tomorrow"
    r"|yesterday|this\s+(?:morning|afternoon|evening|week|weekend|month|season)|latest|newest"
    r"|most\s+recent(?:ly)?|up[- ]to[- ]date|breaking|live\s+score|as\s+of\s+now|so\s+far\s+this"
    r"|weather|forecast|temperature\s+(?:in|outside)|stock\s+price|share\s+price|exchange\s+rate"
    r"|market\s+cap|price\s+of|how\s+much\s+(?:does|do|is|are)\s+.{1,40}\s+cost"
    r"|what\s+time\s+is\s+it|what(?:'s|\s+is)\s+the\s+(?:time|date)\b|what\s+day\s+is\s+it"
    r"|current(?:\s+\w+){1,3}|(?:system|service|server|build|order|flight|ticket|deployment|incident)"
    r"\s+status|status\s+of|is\s+.{1,40}\s+(?:down|up|open|online|available|in\s+stock)"
    r"\s*(?:now|today)?\s*\?|traffic\s+(?:in|on)|news\b|trending|net\s+worth|still\s+alive|now\s*\?)"
)
_SELF_CONTAINED = (
    _POLITE + r"(?:translate|summari[sz]e|rewrite|rephrase|paraphrase|proofread|correct|classify"
    r"|extract|convert|write|explain|define|describe|implement|solve|prove|compute|calculate|evaluate"
    r"|simplify|factor|generate|compose|draft|refactor|fix|debug|format|sort|list\s+the\s+steps)\b"
)
_QUESTION = r"\?\s*$|^(?:who|whom|whose|what|when|where|which|why|how|is|are|was|were|do|does|did|has|have)\b"


class CacheJudgement(NamedTuple):
    """What may be done with the answer: kind, time to live (None = as configured, 0 = not kept)."""

    kind: Cacheability
    ttl_s: int | None
    semantic_ok: bool
    reason: str


_KEEP = {
    Cacheability.STABLE: (None, True),
    Cacheability.SLOW: (SLOW_TTL_S, False),
    Cacheability.UNKNOWN: (None, False),
    Cacheability.VOLATILE: (0, False),
    Cacheability.PERSONAL: (0, False),
    Cacheability.SIDE_EFFECT: (0, False),
}


def judgement(kind: Cacheability, reason: str) -> CacheJudgement:
    """The keeping rules of a kind."""
    ttl_s, semantic_ok = _KEEP[kind]
    return CacheJudgement(kind, ttl_s, semantic_ok, reason)


# By the first of the automaton's patterns that is found; the one of a question is judged further.
_WORDINGS: Final = (
    (_ACTION, judgement(Cacheability.SIDE_EFFECT, "asks for an action")),
    (_PERSONAL, judgement(Cacheability.PERSONAL, "asks about the asker's own data")),
    (_VOLATILE, judgement(Cacheability.VOLATILE, "asks about something that changes")),
    (
        _SELF_CONTAINED,
        judgement(Cacheability.STABLE, "all that is needed stands in the request"),
    ),
)
_REFUSALS: Final = len(_WORDINGS) - 1
_FROM_A_TOOL: Final = judgement(Cacheability.UNKNOWN, "the answer may come from a tool")
_UNKNOWN: Final = judgement(Cacheability.UNKNOWN, "no rule knows how long this holds")


@cache
def _wording() -> Callable[[str], list[int] | None]:
    """The automaton, compiled once a process: a reload that compiled it anew held its loop for 3 ms."""
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    automaton = re2.Set.SearchSet(options)
    for pattern in (*(pattern for pattern, _ in _WORDINGS), _QUESTION):
        automaton.Add(pattern)
    automaton.Compile()
    match: Callable[[str], list[int] | None] = automaton.Match
    return match


class CacheabilityRules:
    """The wording rules as one RE2 automaton (linear time), and the table of lasting answers."""

    __slots__ = ("_lasting", "_search")

    def __init__(self, lasting: Lasting | None = None) -> None:
        """Compile. `lasting`: judges short questions; the shipped one if none is given."""
        self._lasting = lasting if lasting is not None else Lasting(TextHead.shipped("lasting"))
        self._search = _wording()

    def judge(self, features: Features, *, offers_tools: bool) -> CacheJudgement:
        """Judge a request by its wording alone. `offers_tools`: the model may act, not only talk."""
        text = features.text.strip()
        try:
            found = self._search(text) or ()
        except UnicodeEncodeError:  # lone surrogates; the same text with those replaced
            found = self._search(text.encode("utf-8", "replace").decode("utf-8")) or ()
        first = min(found) if found else None
        if offers_tools and (first is None or first >= _REFUSALS):
            return _FROM_A_TOOL
        if first is None:
            return _UNKNOWN
        if first < len(_WORDINGS):
            return _WORDINGS[first][1]
        return self._question_kind(features) if len(text) <= MAX_CHARS else _UNKNOWN

    def _question_kind(self, features: Features) -> CacheJudgement:
        lasting = self._lasting.score(features)
        if lasting >= STABLE_FROM:
            return judgement(Cacheability.STABLE, f"the answer reads as lasting ({lasting:.2f})")
        if lasting < SLOW_BELOW:
            return judgement(Cacheability.SLOW, f"the answer reads as changing ({lasting:.2f})")
        return judgement(Cacheability.UNKNOWN, f"the answer may or may not last ({lasting:.2f})")
