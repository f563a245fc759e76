"""Detect the language or script of a text, by its letters or its most common words. Pure functions.

Scripts are recognised by their letters; languages of the Latin script by their most common words, and only
where there are enough of them: an unclear result is None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
MAX_READ_CHARS = 2_000
LANGUAGES = tuple(_COMMON)
"""The languages that are recognised by their words."""
LANGUAGE_INDEXES_OF_WORD = {
    word.encode(): tuple(map(LANGUAGES.index, names))
    for word, names in _LANGUAGE_OF.items()
    if word.isascii()
}
"""For each common ASCII word, as UTF-8: the indexes in ``LANGUAGES`` that it votes for."""


def detect_language(text: str) -> str | None:
    """The language (``de``) or the script (``cyrillic``) of a text; None where that is not clear."""
    read = text[:MAX_READ_CHARS]
    script = None if read.isascii() else _script(read)
    if script is not None:
        return script
    return _most(
        [_LANGUAGE_OF[word] for word in _WORD.findall(read.lower()) if word in _LANGUAGE_OF]
    )


def seems_other_than_english(text: str) -> bool:
    """Whether more words (two at least) of a short text vote for another language than for English."""
    found = [_LANGUAGE_OF[word] for word in _WORD.findall(text.lower()) if word in _LANGUAGE_OF]
    english, *others = _votes(found)
    return max(others) > max(1, english)


def language_by_votes(words: int, votes: Sequence[int]) -> str | None:
    """As ``detect_language``, for a text with ``words`` common words and these votes for ``LANGUAGES``."""
    if words < _ENOUGH_WORDS:
        return None
    most, second = sorted(votes)[:-3:-1]
    if most < _ENOUGH_WORDS or most < _CLEARLY * second:
        return None
    return LANGUAGES[votes.index(most)]


def _most(found: Sequence[Sequence[str]]) -> str | None:
    """The language that the words vote for, each for one or more."""
    return language_by_votes(len(found), _votes(found))


def _votes(found: Sequence[Sequence[str]]) -> list[int]:
    votes = [0] * len(LANGUAGES)
    for names in found:
        for each in names:
            votes[LANGUAGES.index(each)] += 1
    return votes


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
