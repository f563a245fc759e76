"""Whether, and for how long, an answer may be kept, judged from the wording of the request.

The order of the rules is the order of harm: an action must never be answered from a cache, a
personal question never for someone else, a volatile one never later. Only then is anything called
stable. What no rule knows is UNKNOWN: an exact hit within the configured time may serve it, a
semantic never.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

from app.classify.features import Features
from app.classify.foreign_wordings import ACTION, PERSONAL, VOLATILE
from app.classify.lasting import MAX_CHARS, Lasting
from app.classify.one_pass import OnePass, one_pass
from app.classify.text_head import TextHead
from app.domain.decisions import Cacheability
from app.domain.language import other_than_english

SLOW_TTL_S: Final = 3600
STABLE_FROM: Final = 0.66
"""Of the lasting score. On EverGreenQA's dev part 0.64 leaks 2 % of the questions whose answer changes."""
SLOW_BELOW: Final = 0.4
"""Below, the answer changes some day, but no wording says that it changes at once."""

_POLITE = (
    r"^(?:please\s+|kindly\s+|just\s+|can\s+you\s+|could\s+you\s+|would\s+you\s+|will\s+you\s+|now\s+|and\s+|then\s+"
    r"|(?:hi|hey|hello|ok|okay|yes|sure)(?:\s+there)?[,.!]?\s+|go\s+ahead\s+and\s+|let(?:'s|\s+us)\s+"
    r"|i\s+(?:want|need)\s+(?:you\s+)?to\s+|i(?:'d|\s+would)\s+like\s+(?:you\s+)?to\s+)*"
)
_ACTION = (
    _POLITE + r"(?:send|book|order|buy|purchase|cancel|delete|remove\s+(?:the|my|all|this)|schedule"
    r"|reschedule|reserve|turn\s+(?:on|off|up|down)|switch\s+(?:on|off)|restart|reboot|shut\s+down"
    r"|deploy|pay|transfer|withdraw|submit|post\s+(?:this|a|the|to)|publish|remind\s+me|wake\s+me"
    r"|set\s+(?:an?\s+)?(?:alarm|timer|reminder)|call\s+(?:my|the|him|her|mom|dad)"
    r"|text\s+(?:my|him|her)|e-?mail\s+(?:my|the|him|her|this)|upload|unsubscribe|subscribe\s+me"
    r"|(?:create|open|close|update|assign|resolve|escalate)\s+(?:an?\s+|the\s+|my\s+|this\s+)?"
    r"(?:ticket|account|user|order|event|meeting|appointment|issue|case|record|incident)"
    r"|reset\s+(?:my|the|his|her)\s+password|grant|revoke|refund|dial|tweet|unlock|play\s+(?:some|the|my|a)"
    r"|(?:merge|approve|reject|lock|run|start|stop|kill|rename|download|invite|charge|move|format)\s+"
    r"(?:the|my|this|all|our)\s+(?:\w+\s+){0,2}?(?:pull\s+request|pr|request|door|car|garage|tests?|build|job|vm"
    r"|servers?|services?|containers?|process|machine|files?|disk|drive|customers?|cards?|meeting|users?|branch)"
    r"|commit\s+and\s+push|sign\s+me\s+up|invite\s+\w+\s+to"
    r"|add\s+.{1,60}\s+to\s+(?:my|the)\s+(?:\w+\s+)?(?:cart|list|calendar|playlist))\b"
)
_PERSONAL = (
    r"\b(?:my|our|mine)\s+(?:[\w'’]+\s+){0,2}(?:payments?|refunds?|symptoms?|diet|boss|revenue|income|to-?do"
    r"|resume|cv|accounts?|balance|orders?|bookings?|reservations?"
    r"|tickets?|calendar|schedule|inbox|e-?mails?|messages?|subscriptions?|invoices?|bills?|password"
    r"|profile|appointments?|package|parcel|delivery|flights?|salary|payslip|meetings?|tasks?"
    r"|portfolio|cart|playlist|contacts?|location|address|phone|bank|card|transactions?|insurance"
    r"|policy|vacation|leave|prescriptions?|results?|grades?|permissions?|manager|team|birthday|name"
    r"|age|wife|husband|kids?|files?|photos?|usage|plan|credits?)\b"
    r"|\b(?:did|was|had)\s+i\b|\b(?:did|has|will)\s+(?:any|some)(?:one|body)\s+(?:e-?mail|call|text|message|contact)(?:ed)?\s+me\b"
    r"|\b(?:do|did|am|have|was|will|can|should)\s+i\s+(?:have|owe|get|paid|booked|scheduled|enrolled"
    r"|entitled|eligible|allowed|subscribed|due|left)\b"
    r"|\bwho\s+am\s+i\b|\bwhere\s+am\s+i\b|\b(?:about|remember|know)\s+me\b|\bnear\s+me\b"
)
_MONEY = (
    r"(?:[€$£¥]\s?\d\S*|(?:us\s+)?dollars?|euros?|yen|rupees?|pesos?|francs?|rubles?|yuan|bitcoins?|usd|eur|gbp|jpy"
    r"|inr|cny|chf|cad|aud|brl|mxn|btc|eth)"
)
_VOLATILE = (
    r"\b(?:right\s+now|at\s+the\s+moment|at\s+present|currently|today(?:'s)?|tonight|tomorrow"
    r"|yesterday|this\s+(?:morning|afternoon|evening|week|weekend|month|season)|latest|newest"
    r"|most\s+recent(?:ly)?|up[- ]to[- ]date|breaking|live\s+score|as\s+of\s+now|so\s+far\s+this"
    r"|weather|forecast|temperature\s+(?:in|outside)|stock\s+price|share\s+price|exchange\s+rate"
    r"|market\s+cap|price\s+of|how\s+much\s+(?:does|do|is|are)\s+.{1,40}\s+cost"
    r"|how\s+(?:hot|cold|warm|windy|humid)\s+is\s+it|is\s+it\s+(?:raining|snowing|sunny|hot|cold|windy)"
    r"|(?:bitcoin|btc|ethereum|crypto|gold|silver|oil|gas|petrol|stock|share)\s+(?:prices?|rates?)|trading\s+at"
    r"|(?:are|is)\s+there\s+(?:any|an?)\s+(?:\w+\s+){0,2}?(?:flights?|trains?|bus(?:es)?|rooms?|seats?|tickets?|tables?"
    r"|slots?|openings?|vacanc(?:y|ies)|appointments?)"
    r"|(?:how\s+long|how\s+many\s+\w+)\s+(?:until|till|left)"
    rf"|{_MONEY}\s+(?:to|in|into|is|are)\s+(?:\d\S*\s+)?{_MONEY}|how\s+many\s+{_MONEY}"
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


# What comes out otherwise each time, and a secret that two askers must not share.
_DRAWN = (
    _POLITE
    + r"(?:(?:generate|create|give\s+me|make(?:\s+me)?|make\s+up|suggest|pick|choose|i\s+need)\s+(?:me\s+)?"
    r"(?:an?\s+|the\s+|some\s+|\d+\s+)?(?:(?:new|strong|secure|unique|valid|good|fresh|long|short|single|\d+[-\s]"
    r"(?:characters?|digits?|chars?|letters?|words?|bits?|bytes?))\s+){0,3}"
    r"(?:random|uuids?|guids?|passwords?|passphrases?|api\s+keys?|secret\s+keys?|nonces?)"
    r"|(?:flip|toss)\s+(?:a|the|two|\d+)\s+coins?|roll\s+(?:a|the|two|\d+)\s*(?:dice|die|d\d+)"
    r"|(?:pick|choose|think\s+of)\s+a\s+number)\b"
)
_OWN = r"\b(?:my|mine|our|ours|myself)\b"
_GENERIC_OWN = ("how do ", "how to ", "how can ", "how should ")


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
    (_DRAWN, judgement(Cacheability.VOLATILE, "asks for what is drawn anew each time")),
    (
        _SELF_CONTAINED,
        judgement(Cacheability.STABLE, "all that is needed stands in the request"),
    ),
)
_FOREIGN: Final = (ACTION, PERSONAL, VOLATILE)
"""The first three kinds above in other languages. An automaton of their own: one of all wordings has so many
states that a pass takes ten times as long as two.
"""
_ENGLISH: Final = "en"
_REFUSALS: Final = len(_WORDINGS) - 1
_OWN_AT: Final = len(_WORDINGS)
_OF_THE_ASKER: Final = judgement(Cacheability.UNKNOWN, "it is about something of the asker's")
_FROM_A_TOOL: Final = judgement(Cacheability.UNKNOWN, "the answer may come from a tool")
_UNKNOWN: Final = judgement(Cacheability.UNKNOWN, "no rule knows how long this holds")


@cache
def _wordings() -> tuple[OnePass, OnePass]:
    """The automata, compiled once a process: a reload that compiled them anew held its loop for 3 ms."""
    english = (*(pattern for pattern, _ in _WORDINGS), _OWN, _QUESTION)
    return one_pass(english, case_sensitive=False), one_pass(_FOREIGN, case_sensitive=False)


class CacheabilityRules:
    """The wording rules as two RE2 automata (linear time), and the table of lasting answers."""

    __slots__ = ("_english", "_foreign", "_lasting")

    def __init__(self) -> None:
        """Compile, and load the table."""
        self._lasting = Lasting(TextHead.shipped("lasting"))
        self._english, self._foreign = _wordings()

    def judge(self, features: Features, *, offers_tools: bool) -> CacheJudgement:
        """Judge a request by its wording alone. `offers_tools`: the model may act, not only talk."""
        text = features.text.strip()
        try:
            first = self._first(text, features.language)
        except UnicodeEncodeError:  # lone surrogates; the same text with those replaced
            text = text.encode("utf-8", "replace").decode("utf-8")
            first = self._first(text, features.language)
        if offers_tools and (first is None or first >= _REFUSALS):
            return _FROM_A_TOOL
        if first is None:
            return _UNKNOWN
        if first < len(_WORDINGS):
            return _WORDINGS[first][1]
        if first == _OWN_AT and not text.lower().startswith(_GENERIC_OWN):
            return _OF_THE_ASKER
        return self._question_kind(features) if len(text) <= MAX_CHARS else _UNKNOWN

    def _first(self, text: str, language: str | None) -> int | None:
        """The first kind of wording that is there. What is clearly English is not read twice."""
        found = self._english(text) or []
        if language != _ENGLISH:
            found += self._foreign(text) or ()
        return min(found) if found else None

    def _question_kind(self, features: Features) -> CacheJudgement:
        lasting = self._lasting.score(features)
        if lasting >= STABLE_FROM and not other_than_english(features.text):
            return judgement(Cacheability.STABLE, f"the answer reads as lasting ({lasting:.2f})")
        if lasting < SLOW_BELOW:
            return judgement(Cacheability.SLOW, f"the answer reads as changing ({lasting:.2f})")
        return judgement(Cacheability.UNKNOWN, f"the answer may or may not last ({lasting:.2f})")
