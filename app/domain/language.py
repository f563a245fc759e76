"""Which language, or which script, a text is in: by its letters, or by its commonest words. Pure functions.

Scripts are told apart by their letters; languages of the Latin script by the words that are commonest in
each, and only where there are enough of them: what is not clear is None.
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
READ_CHARS = 2_000
_BYTES_OF = {word.encode(): names for word, names in _LANGUAGE_OF.items() if word.isascii()}


def language(text: str) -> str | None:
    """The language (``de``) or the script (``cyrillic``) of a text; None where that is not clear."""
    read = text[:READ_CHARS]
    script = None if read.isascii() else _script(read)
    if script is not None:
        return script
    return _most(
        [_LANGUAGE_OF[word] for word in _WORD.findall(read.lower()) if word in _LANGUAGE_OF]
    )


def language_of_words(words: Sequence[bytes]) -> str | None:
    """As ``language`` says of a text in ASCII, whose lowered words are at hand; 5 us for a hundred."""
    return _most([_BYTES_OF[word] for word in words if word in _BYTES_OF])


def _most(found: Sequence[Sequence[str]]) -> str | None:
    """The language that the words found speak for, each for one or more."""
    if len(found) < _ENOUGH_WORDS:
        return None
    votes: dict[str, int] = {}
    for names in found:
        for each in names:
            votes[each] = votes.get(each, 0) + 1
    ranked = sorted(votes.values(), reverse=True)
    if ranked[0] < _ENOUGH_WORDS or (len(ranked) > 1 and ranked[0] < _CLEARLY * ranked[1]):
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
