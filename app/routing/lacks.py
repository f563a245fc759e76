"""What an answer's text betrays: a refusal, the wrong language, going round in circles. Pure functions.

Each errs towards saying nothing: an answer that was good and is asked again costs a second call and the
time of one. The openings of refusals are those that open nothing else; languages are told apart by script,
and those of the Latin script by their commonest words, and only where both sides have enough of them.
"""

from __future__ import annotations

import re

from app.domain.language import READ_CHARS, language

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
_OTHER_LANGUAGE_ASKED = re.compile(
    r"translat|language|\b(?:in|into|auf|to) (?:english|german|french|spanish|italian|portuguese|dutch|"
    r"russian|chinese|japanese|korean|arabic|hebrew|greek|hindi|thai|latin|englisch|deutsch)|"
    r"übersetz|tradu|перев|翻译|翻訳|번역|ترجم",
    re.IGNORECASE,
)
_LOOP_TAIL = 240
_LOOP_TIMES = 5
_LOOP_CHARS = 60


def refuses(text: str) -> bool:
    """Whether an answer, or its beginning, is a refusal in so many words."""
    return _REFUSAL.match(_plain(text)) is not None


def may_refuse(text: str) -> bool:
    """Whether what has come so far may yet turn out to be the beginning of a refusal."""
    begun = _plain(text)
    if len(begun) > _UNDECIDED_CHARS:
        return False
    return any(begun.startswith(each) or each.startswith(begun) for each in _OPENERS)


def _plain(text: str) -> str:
    return text[: 2 * _UNDECIDED_CHARS].lstrip(" \n*#>\"'").replace("\u2019", "'").lower()


def other_language(question: str, answer: str, asked: str | None = None) -> bool:
    """Whether the answer is in another language than the question, which did not ask for that.

    ``asked``: the question's language where it has been found out already.
    """
    asked = asked or language(question)
    if asked is None or _OTHER_LANGUAGE_ASKED.search(question[:READ_CHARS]) is not None:
        return False
    said = language(answer)
    return said is not None and said != asked


def repeats(text: str) -> bool:
    """Whether the text ends in a loop: the same words over and over, five times or more."""
    tail = text[-_LOOP_TAIL:]
    for length in range(1, _LOOP_TAIL // _LOOP_TIMES + 1):
        times = max(_LOOP_TIMES, -(-_LOOP_CHARS // length))
        unit = tail[-length:]
        if len(tail) >= length * times and tail.endswith(unit * times):
            return any(letter.isalnum() for letter in unit)
    return False
