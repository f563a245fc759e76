"""Whether, and for how long, an answer may be kept, judged from the wording of the request.

The order of the rules is the order of harm: an action must never be answered from a cache, a personal
question never for someone else, a volatile one never later. Only then is anything called stable.
What no rule knows is UNKNOWN: an exact hit within the configured time may serve it, a semantic never.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import re2

from app.classify.features import Features
from app.domain.decisions import Cacheability

SLOW_TTL_S: Final = 6 * 3600

_ACTION = (
    r"^(?:please\s+|can\s+you\s+|could\s+you\s+|would\s+you\s+|now\s+|and\s+|then\s+|i\s+want\s+to\s+|i(?:'d|\s+would)\s+like\s+to\s+)*"
    r"(?:send|book|order|buy|purchase|cancel|delete|remove\s+(?:the|my|all|this)|schedule|reschedule|reserve|"
    r"turn\s+(?:on|off|up|down)|switch\s+(?:on|off)|restart|reboot|shut\s+down|deploy|pay|transfer|withdraw|"
    r"submit|post\s+(?:this|a|the|to)|publish|remind\s+me|wake\s+me|set\s+(?:an?\s+)?(?:alarm|timer|reminder)|"
    r"call\s+(?:my|the|him|her|mom|dad)|text\s+(?:my|him|her)|e-?mail\s+(?:my|the|him|her|this)|upload|unsubscribe|subscribe\s+me|"
    r"(?:create|open|close|update|assign|resolve|escalate)\s+(?:an?\s+|the\s+|my\s+|this\s+)?(?:ticket|account|user|order|event|meeting|appointment|issue|case|record|incident)|"
    r"reset\s+(?:my|the|his|her)\s+password|grant|revoke|add\s+.{1,60}\s+to\s+(?:my|the)\s+(?:cart|list|calendar|playlist))\b"
)
_PERSONAL = (
    r"\b(?:my|our|mine)\s+(?:\w+\s+){0,2}(?:accounts?|balance|orders?|bookings?|reservations?|tickets?|calendar|schedule|inbox|e-?mails?|"
    r"messages?|subscriptions?|invoices?|bills?|password|profile|appointments?|package|parcel|delivery|flights?|salary|payslip|"
    r"meetings?|tasks?|portfolio|cart|playlist|contacts?|location|address|phone|bank|card|transactions?|insurance|policy|"
    r"vacation|leave|prescriptions?|results?|grades?|permissions?|manager|team|birthday|name|age|wife|husband|kids?|files?|photos?|usage|plan|credits?)\b"
    r"|\b(?:do|did|am|have|was|will|can|should)\s+i\s+(?:have|owe|get|paid|booked|scheduled|enrolled|entitled|eligible|allowed|subscribed|due|left)\b"
    r"|\bwho\s+am\s+i\b|\bwhere\s+am\s+i\b|\b(?:about|remember|know)\s+me\b|\bnear\s+me\b"
)
_VOLATILE = (
    r"\b(?:right\s+now|at\s+the\s+moment|at\s+present|currently|today(?:'s)?|tonight|tomorrow|yesterday|this\s+(?:morning|afternoon|evening|week|weekend|month|season)|"
    r"latest|newest|most\s+recent(?:ly)?|up[- ]to[- ]date|breaking|live\s+score|as\s+of\s+now|so\s+far\s+this|"
    r"weather|forecast|temperature\s+(?:in|outside)|stock\s+price|share\s+price|exchange\s+rate|market\s+cap|price\s+of|how\s+much\s+(?:does|do|is|are)\s+.{1,40}\s+cost|"
    r"what\s+time\s+is\s+it|what(?:'s|\s+is)\s+the\s+(?:time|date)\b|what\s+day\s+is\s+it|current(?:\s+\w+){1,3}|"
    r"(?:system|service|server|build|order|flight|ticket|deployment|incident)\s+status|status\s+of|is\s+.{1,40}\s+(?:down|up|open|online|available|in\s+stock)\s*(?:now|today)?\s*\?|traffic\s+(?:in|on)|news\b|trending|"
    r"net\s+worth|still\s+alive|now\s*\?)"
)
_SELF_CONTAINED = (
    r"^(?:please\s+|can\s+you\s+|could\s+you\s+)*(?:translate|summari[sz]e|rewrite|rephrase|paraphrase|proofread|correct|classify|extract|convert|"
    r"write|explain|define|describe|implement|solve|prove|compute|calculate|evaluate|simplify|factor|generate|compose|draft|refactor|fix|debug|format|sort|list\s+the\s+steps)\b"
)


@dataclass(frozen=True, slots=True)
class CacheJudgement:
    """What may be done with the answer: kind, time to live (None = as configured, 0 = not kept)."""

    kind: Cacheability
    ttl_s: int | None
    semantic_ok: bool
    reason: str


_KEEP = {
    Cacheability.STABLE: (None, True),
    Cacheability.SLOW: (SLOW_TTL_S, True),
    Cacheability.UNKNOWN: (None, False),
    Cacheability.VOLATILE: (0, False),
    Cacheability.PERSONAL: (0, False),
    Cacheability.SIDE_EFFECT: (0, False),
}


def judgement(kind: Cacheability, reason: str) -> CacheJudgement:
    """The keeping rules of a kind."""
    ttl_s, semantic_ok = _KEEP[kind]
    return CacheJudgement(kind, ttl_s, semantic_ok, reason)


class CacheabilityRules:
    """The wording rules, compiled once. RE2: linear time, whatever the text."""

    __slots__ = ("_action", "_personal", "_self_contained", "_volatile")

    def __init__(self) -> None:
        """Compile."""
        options = re2.Options()
        options.case_sensitive = False
        options.log_errors = False
        options.never_capture = True
        self._action = re2.compile(_ACTION, options).search
        self._personal = re2.compile(_PERSONAL, options).search
        self._volatile = re2.compile(_VOLATILE, options).search
        self._self_contained = re2.compile(_SELF_CONTAINED, options).search

    def judge(self, features: Features, *, offers_tools: bool) -> CacheJudgement:
        """Judge a request by its wording alone. `offers_tools`: the model may act, not only talk."""
        text = features.text.strip().encode("utf-8", "replace").decode("utf-8")
        if self._action(text) is not None:
            return judgement(Cacheability.SIDE_EFFECT, "asks for an action")
        if self._personal(text) is not None:
            return judgement(Cacheability.PERSONAL, "asks about the asker's own data")
        if self._volatile(text) is not None:
            return judgement(Cacheability.VOLATILE, "asks about something that changes")
        if offers_tools:
            return judgement(Cacheability.UNKNOWN, "the answer may come from a tool")
        if self._self_contained(text) is not None:
            return judgement(Cacheability.STABLE, "all that is needed stands in the request")
        return judgement(Cacheability.UNKNOWN, "no rule knows how long this holds")
