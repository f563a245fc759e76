"""Escalation: the policy, and the triggers in an answer's text (refusal, wrong language, repetition loop).

All prefer precision to recall: escalating a good answer costs a second call and its latency. Refusals are
matched by openings that open nothing else; languages are told apart by script, those of the Latin script by
their most common words, and only where both texts have enough of them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import get_args

from app.domain.decisions import AnswerDefect
from app.domain.language import MAX_READ_CHARS, detect_language

_OPENERS = (
    "i'm sorry", "i am sorry", "sorry", "i apologize", "i apologise", "unfortunately", "i can't",
    "i cannot", "i can not", "i'm unable", "i am unable", "i'm not able", "i am not able",
    "i'm afraid", "as an ai", "i won't", "i will not",
)  # fmt: skip
_UNDECIDED_CHARS = 120
_DOES = (
    r"(?:help|assist|comply|provide|fulfil|answer|access|browse|engage|support|participate|"
    r"discuss|generate|create|write|do that|do this|give|offer|share|complete|process)"
)
_CANNOT = (
    r"(?:can(?:'t|not| not)|am unable to|'m unable to|am not able to|'m not able to|won't|will not)"
)
_REFUSAL = re.compile(
    rf"(?:(?:i'm sorry|i am sorry|sorry|i apologi[sz]e|unfortunately|i'm afraid)[,.;:]?\s+"
    rf"(?:but\s+)?(?:(?:that\s+)?i\s*{_CANNOT}|as an ai)"
    rf"|i\s*{_CANNOT}\s+(?:be able to\s+)?{_DOES}"
    rf"|as an ai(?: language)?(?: model| assistant)?,?\s+i\s*{_CANNOT})"
)
_OTHER_LANGUAGE_REQUESTED = re.compile(
    r"translat|language|\b(?:in|into|auf|to) (?:english|german|french|spanish|italian|portuguese|dutch|"
    r"russian|chinese|japanese|korean|arabic|hebrew|greek|hindi|thai|latin|englisch|deutsch)|"
    r"übersetz|tradu|перев|翻译|翻訳|번역|ترجم",
    re.IGNORECASE,
)
_LOOP_TAIL = 240
_LOOP_TIMES = 5
_LOOP_CHARS = 60

Check = Callable[[str, str], Awaitable[str]]
"""Question and answer to the fault found ("" = none)."""


@dataclass(frozen=True, slots=True)
class OperatorCheck:
    """A check of the operator's, counted under ``name``."""

    name: str
    check: Check
    timeout_s: float


@dataclass(frozen=True, slots=True)
class EscalationPolicy:
    """What to look for in fast answers, and how."""

    lacks: frozenset[str] = frozenset(get_args(AnswerDefect))
    hold_s: float = 0.15
    """The longest that a stream's first tokens are held; 0 = streams are not inspected."""
    grey_hedge: bool = False
    """Whether both tiers are asked at once where the score is near the threshold."""
    min_mean_logprob: float | None = None
    operator_checks: tuple[OperatorCheck, ...] = ()


def is_refusal(text: str) -> bool:
    """Whether an answer, or its beginning, is an explicit refusal."""
    return _REFUSAL.match(_plain(text)) is not None


def may_become_refusal(text: str) -> bool:
    """Whether the text so far is still compatible with the opening of a refusal."""
    opening = _plain(text)
    if len(opening) > _UNDECIDED_CHARS:
        return False
    return any(opening.startswith(each) or each.startswith(opening) for each in _OPENERS)


def _plain(text: str) -> str:
    return text[: 2 * _UNDECIDED_CHARS].lstrip(" \n*#>\"'").replace("\u2019", "'").lower()


def is_other_language(question: str, answer: str, expected: str | None = None) -> bool:
    """Whether the answer is in another language than the question, which did not ask for that.

    ``expected``: the question's language, where it is known already.
    """
    expected = expected or detect_language(question)
    if expected is None or _OTHER_LANGUAGE_REQUESTED.search(question[:MAX_READ_CHARS]) is not None:
        return False
    actual = detect_language(answer)
    return actual is not None and actual != expected


def ends_in_loop(text: str) -> bool:
    """Whether the text ends in the same words repeated five times or more."""
    tail = text[-_LOOP_TAIL:]
    for length in range(1, _LOOP_TAIL // _LOOP_TIMES + 1):
        times = max(_LOOP_TIMES, -(-_LOOP_CHARS // length))
        unit = tail[-length:]
        if len(tail) >= length * times and tail.endswith(unit * times):
            return any(letter.isalnum() for letter in unit)
    return False
