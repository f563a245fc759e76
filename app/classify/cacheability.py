"""Whether and for how long an answer may be cached, classified by the wording of the request.

Rules are ordered by harm: an action must never be answered from a cache, a personal question never for
someone else, a volatile one never later. Only then is anything called stable. What no rule matches is
UNKNOWN: an exact hit within the configured TTL may serve it, a semantic hit never.
"""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

from app.classify.evergreen import MAX_CHARS, EvergreenScorer
from app.classify.features import Features
from app.classify.multilingual_patterns import ACTION, PERSONAL, VOLATILE
from app.classify.pattern_set import PatternSet, compile_pattern_set
from app.classify.text_classifier import LinearTextClassifier
from app.domain.decisions import Cacheability
from app.domain.language import seems_other_than_english

SLOW_TTL_S: Final = 3600
STABLE_FROM: Final = 0.66
"""Of the evergreen score. On EverGreenQA's dev part 0.64 leaks 2 % of the questions whose answer changes."""
SLOW_BELOW: Final = 0.4
"""Below it the answer changes some day, though no wording says that it does soon."""

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


# Random output, and secrets that two users must not share.
_RANDOMISED = (
    _POLITE
    + r"(?:(?:generate|create|give\s+me|make(?:\s+me)?|make\s+up|suggest|pick|choose|i\s+need)\s+(?:me\s+)?"
    r"(?:an?\s+|the\s+|some\s+|\d+\s+)?(?:(?:new|strong|secure|unique|valid|good|fresh|long|short|single|\d+[-\s]"
    r"(?:characters?|digits?|chars?|letters?|words?|bits?|bytes?))\s+){0,3}"
    r"(?:random|uuids?|guids?|passwords?|passphrases?|api\s+keys?|secret\s+keys?|nonces?)"
    r"|(?:flip|toss)\s+(?:a|the|two|\d+)\s+coins?|roll\s+(?:a|the|two|\d+)\s*(?:dice|die|d\d+)"
    r"|(?:pick|choose|think\s+of)\s+a\s+number)\b"
)
_POSSESSIVE = r"\b(?:my|mine|our|ours|myself)\b"
_HOW_TO_OPENINGS = ("how do ", "how to ", "how can ", "how should ")


class CacheJudgement(NamedTuple):
    """How the answer may be cached. `ttl_s`: None = as configured, 0 = not cached."""

    kind: Cacheability
    ttl_s: int | None
    semantic_ok: bool
    reason: str


_RULES = {
    Cacheability.STABLE: (None, True),
    Cacheability.SLOW: (SLOW_TTL_S, False),
    Cacheability.UNKNOWN: (None, False),
    Cacheability.VOLATILE: (0, False),
    Cacheability.PERSONAL: (0, False),
    Cacheability.SIDE_EFFECT: (0, False),
}


def judgement(kind: Cacheability, reason: str) -> CacheJudgement:
    """The caching rules of a kind."""
    ttl_s, semantic_ok = _RULES[kind]
    return CacheJudgement(kind, ttl_s, semantic_ok, reason)


# The first pattern that matches decides; a question is classified further.
_PATTERNS: Final = (
    (_ACTION, judgement(Cacheability.SIDE_EFFECT, "asks for an action")),
    (_PERSONAL, judgement(Cacheability.PERSONAL, "asks about the asker's own data")),
    (_VOLATILE, judgement(Cacheability.VOLATILE, "asks about something that changes")),
    (_RANDOMISED, judgement(Cacheability.VOLATILE, "asks for what is drawn anew each time")),
    (
        _SELF_CONTAINED,
        judgement(Cacheability.STABLE, "all that is needed stands in the request"),
    ),
)
_MULTILINGUAL: Final = (ACTION, PERSONAL, VOLATILE)
"""The first three kinds above in other languages. A set of their own: one set of all patterns has so many
states that one pass takes ten times as long as two.
"""
_ENGLISH: Final = "en"
_NOT_CACHEABLE: Final = len(_PATTERNS) - 1
_POSSESSIVE_AT: Final = len(_PATTERNS)
_ABOUT_THE_ASKER: Final = judgement(Cacheability.UNKNOWN, "it is about something of the asker's")
_FROM_A_TOOL: Final = judgement(Cacheability.UNKNOWN, "the answer may come from a tool")
_UNKNOWN: Final = judgement(Cacheability.UNKNOWN, "no rule knows how long this holds")


@cache
def _pattern_sets() -> tuple[PatternSet, PatternSet]:
    """The pattern sets, compiled once a process: compiling at a reload blocked the loop for 3 ms."""
    english = (*(pattern for pattern, _ in _PATTERNS), _POSSESSIVE, _QUESTION)
    return (
        compile_pattern_set(english, case_sensitive=False),
        compile_pattern_set(_MULTILINGUAL, case_sensitive=False),
    )


class CacheabilityRules:
    """The wording rules as two RE2 pattern sets (linear time), and the evergreen scorer."""

    __slots__ = ("_english", "_evergreen", "_multilingual")

    def __init__(self) -> None:
        """Compile, and load the table."""
        self._evergreen = EvergreenScorer(LinearTextClassifier.shipped("evergreen"))
        self._english, self._multilingual = _pattern_sets()

    def judge(self, features: Features, *, offers_tools: bool) -> CacheJudgement:
        """Classify a request by its wording. `offers_tools`: the model may act, not only talk."""
        text = features.text.strip()
        try:
            first = self._first(text, features.language)
        except UnicodeEncodeError:  # lone surrogates: replace them
            text = text.encode("utf-8", "replace").decode("utf-8")
            first = self._first(text, features.language)
        if offers_tools and (first is None or first >= _NOT_CACHEABLE):
            return _FROM_A_TOOL
        if first is None:
            return _UNKNOWN
        if first < len(_PATTERNS):
            return _PATTERNS[first][1]
        if first == _POSSESSIVE_AT and not text.lower().startswith(_HOW_TO_OPENINGS):
            return _ABOUT_THE_ASKER
        return self._question_kind(features) if len(text) <= MAX_CHARS else _UNKNOWN

    def _first(self, text: str, language: str | None) -> int | None:
        """The index of the first matching pattern. Clearly English text skips the multilingual set."""
        found = self._english(text) or []
        if language != _ENGLISH:
            found += self._multilingual(text) or ()
        return min(found) if found else None

    def _question_kind(self, features: Features) -> CacheJudgement:
        score = self._evergreen.score(features)
        if score >= STABLE_FROM and not seems_other_than_english(features.text):
            return judgement(Cacheability.STABLE, f"the answer reads as lasting ({score:.2f})")
        if score < SLOW_BELOW:
            return judgement(Cacheability.SLOW, f"the answer reads as changing ({score:.2f})")
        return judgement(Cacheability.UNKNOWN, f"the answer may or may not last ({score:.2f})")
