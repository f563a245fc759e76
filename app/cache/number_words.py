"""Numbers that are not written in digits: in words ("two hundred and six", "twenty-first") and in Roman ones.

Neighbouring number words are one number, so "twenty five" is 25 and not 20 and 5. Every value is given as
its digits, so that one in words meets the same one in figures. "I" is a number only behind a word that is
counted so ("war", "type"), and "V" and "X" only there too: else they are a pronoun, a letter, a variable.
"""

from __future__ import annotations

import re
from typing import Final

from app.cache.lexicon import words as word_list

_ONES: Final = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14,
    "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS: Final = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
    "eighty": 80, "ninety": 90,
}  # fmt: skip
_ORDINALS: Final = {
    "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14,
    "fifteenth": 15, "sixteenth": 16, "seventeenth": 17, "eighteenth": 18, "nineteenth": 19,
    "twentieth": 20, "thirtieth": 30, "fortieth": 40, "fiftieth": 50, "sixtieth": 60,
    "seventieth": 70, "eightieth": 80, "ninetieth": 90, "hundredth": 100, "thousandth": 1000,
    "millionth": 10**6, "billionth": 10**9,
}  # fmt: skip
_SCALES: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ALONE: Final = {"twice": "2", "thrice": "3", "half": "0.5"}
_HUNDRED: Final = 100
_TEN: Final = 10

NUMBER_WORDS: Final = frozenset({
    *_ONES, *_TENS, *_ORDINALS, *_SCALES, *_ALONE, "hundred", "dozen",
})  # fmt: skip
"""Words that are a number or a part of one; with a hyphen between them they are one as well."""
_HYPHENATED: Final = re.compile(
    rf"(?:{'|'.join(_TENS)})-(?:{'|'.join((*_ONES, *_ORDINALS, 'first'))})"
)
_UNITS_OF_TEN: Final = ("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix")
_ROMAN: Final = {
    f"{'x' * tens}{ones}": str(10 * tens + place)
    for tens in range(4) for place, ones in enumerate(_UNITS_OF_TEN) if tens + place
}  # fmt: skip
_COUNTED: Final = word_list(
    "war type part chapter phase level class grade act volume book stage category section article title "
    "appendix schedule figure table amendment symphony sonata concerto superbowl bowl"
)
ROMAN_WORDS: Final = frozenset(_ROMAN)
"""Words that are a Roman number below 40; those of one letter only in some places."""


def numbers_in_words(words: list[str]) -> set[str]:
    """Return the numbers among ``words`` (lower case) as digits: {"25"} for "twenty five"."""
    run = _NumberParser()
    for i, word in enumerate(words):
        if word in NUMBER_WORDS:
            run.add(word)
        elif "-" in word and _HYPHENATED.fullmatch(word):
            tens, _, ones = word.partition("-")
            run.add(tens)
            run.add_value(_ONES.get(ones) or _ORDINALS.get(ones, 1))
        elif (
            word == "and"
            and run.accepts_and
            and i + 1 < len(words)
            and words[i + 1] in NUMBER_WORDS
        ):
            continue
        elif run.started:
            run.end()
    run.end()
    return run.found


class _NumberParser:
    """Parses one number: its finished part, and the part below the next scale."""

    __slots__ = ("_below", "_done", "accepts_and", "found", "started")

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._done, self._below = 0, 0
        self.started = self.accepts_and = False
        """``accepts_and``: the last word was a hundred or a scale, so "and" may follow."""

    def add(self, word: str) -> None:
        if word in _ALONE:
            self.end()
            self.found.add(_ALONE[word])
        elif word == "hundred":
            self._below = (self._below or 1) * _HUNDRED
            self.started = self.accepts_and = True
        elif word == "dozen":
            self._below = (self._below or 1) * 12
            self.started = True
        elif word in _SCALES:
            self._done += (self._below or 1) * _SCALES[word]
            self._below = 0
            self.started = self.accepts_and = True
        elif word in _ORDINALS:
            self.add_value(_ORDINALS[word])
            self.end()
        else:
            self.add_value(_ONES[word] if word in _ONES else _TENS[word])

    def add_value(self, value: int) -> None:
        """One below a hundred: a part of the number before it where there is room for it, else a new one."""
        below = self._below
        fits = (value < _TEN and below % _HUNDRED >= 2 * _TEN and below % _TEN == 0) or (
            below % _HUNDRED == 0 and (below > 0 or self._done > 0)
        )
        if self.started and not fits:
            self.end()
        self._below += value
        self.started, self.accepts_and = True, False

    def end(self) -> None:
        """Finish the number."""
        if self.started:
            self.found.add(str(self._done + self._below))
        self._done = self._below = 0
        self.started = self.accepts_and = False


def roman_numbers(raw: list[str], words: list[str]) -> set[str]:
    """The Roman numbers among the words, as digits; ``raw``: the words as they are spelled."""
    found = set()
    for i, word in enumerate(words):
        value = _ROMAN.get(word)
        if value and (len(word) > 1 or (i and (words[i - 1] in _COUNTED or _named(raw, i)))):
            found.add(value)
    return found


def _named(raw: list[str], i: int) -> bool:
    """Whether the capital letter at ``i`` follows a name: "Fantasy X", and "Elizabeth I" at the end."""
    if not raw[i].isupper() or i <= 1 or not raw[i - 1][0].isupper():
        return False
    return raw[i] != "I" or i + 1 == len(raw)
