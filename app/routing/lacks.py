"""What an answer's text betrays: a refusal, the wrong language, going round in circles. Pure functions.

Each errs towards saying nothing: an answer that was good and is asked again costs a second call and the
time of one. The openings of refusals are those that open nothing else; languages are told apart by script,
and those of the Latin script by their commonest words, and only where both sides have enough of them.
"""

from __future__ import annotations

import re

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
_WORD = re.compile(r"[^\W\d_]+")
_LETTERS = 12
_SCRIPTS = (
    ("greek", 0x0370, 0x03FF), ("cyrillic", 0x0400, 0x052F), ("hebrew", 0x0590, 0x05FF),
    ("arabic", 0x0600, 0x06FF), ("devanagari", 0x0900, 0x097F), ("thai", 0x0E00, 0x0E7F),
    ("hangul", 0xAC00, 0xD7AF), ("han", 0x3040, 0x30FF), ("han", 0x4E00, 0x9FFF),
)  # fmt: skip
_COMMON = {
    "en": "the and of to is in that it was for on are with this not have what how",
    "de": "der die und das ist nicht ein eine zu mit auf für von dem den wie was ich",
    "fr": "le les et des une est pas dans pour que qui sur du au avec vous je",
    "es": "el los y de una es en que por con para las como del se más qué",
    "it": "il di che è una per non con del della sono gli come nel alla più",
    "pt": "o os e do da uma é em que não para com dos das como mais você",
    "nl": "de het een en van is niet dat op te voor met zijn ook hoe wat",
}
_LANGUAGE_OF = {
    word: [name for name, words in _COMMON.items() if word in words.split()]
    for word in " ".join(_COMMON.values()).split()
}
_ENOUGH_WORDS = 5
_CLEARLY = 2.0
_READ_CHARS = 2_000
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


def language(text: str) -> str | None:
    """The language (``de``) or the script (``cyrillic``) of a text; None where that is not clear."""
    read = text[:_READ_CHARS]
    script = None if read.isascii() else _script(read)
    if script is not None:
        return script
    votes: dict[str, int] = {}
    for word in _WORD.findall(read.lower()):
        for each in _LANGUAGE_OF.get(word, ()):
            votes[each] = votes.get(each, 0) + 1
    ranked = sorted(votes.values(), reverse=True)
    if not ranked or ranked[0] < _ENOUGH_WORDS:
        return None
    if len(ranked) > 1 and ranked[0] < _CLEARLY * ranked[1]:
        return None
    return max(votes, key=votes.__getitem__)


def _script(text: str) -> str | None:
    """The script, other than Latin, of most letters of a text."""
    counts: dict[str, int] = {}
    letters = 0
    for letter in map(ord, filter(str.isalpha, text)):
        letters += 1
        for name, low, high in _SCRIPTS:
            if low <= letter <= high:
                counts[name] = counts.get(name, 0) + 1
    if not counts:
        return None
    script = max(counts, key=counts.__getitem__)
    enough = letters >= _LETTERS or script == "han"
    return script if enough and counts[script] * 2 > letters else None


def other_language(question: str, answer: str) -> bool:
    """Whether the answer is in another language than the question, which did not ask for that."""
    asked = language(question)
    if asked is None or _OTHER_LANGUAGE_ASKED.search(question[:_READ_CHARS]) is not None:
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
