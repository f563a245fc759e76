"""What distinguishes texts beside their English words: symbols, scripts, accents, quotes, capitals.

The words that the guards compare are Latin letters and digits in one case, and the default encoder reads
hardly more: two questions in Chinese, or with another emoji or another operator, have had a cosine of
1.000. So whatever is neither such a word nor plain punctuation is compared here as it is spelled. What
differs here forbids a hit, for nothing else can judge it.

Most texts have none of this: they share one value (``PLAIN``), compared by identity.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from app.cache.lexicon import words as word_list

# Anything but words, spaces and plain punctuation: a call, a sign or a flag, an emoticon, an accent...
_SPECIAL: Final = re.compile(
    r"[^A-Za-z0-9\s.,?!;:’'()\-%$/&#@_]|\(\)|(?<![\w)\]])[-'][\w-]|\w#|\$(?!\d)|&&|//|--|[:;][()]"
    r"|(?<!\S)/|/(?!\S)|(?<!\d)%"
)
_MARK: Final = re.compile(
    r"(?<![\w)\]])--?\w[\w-]*"  # a sign or a flag: -5, --hard
    r"|\\.?"  # an escape with what it escapes: \d is not \D
    r"|[:;]-?[()DP](?!\w)"
    r"|\w?(?:\+\+|--)(?!\w)"  # behind what it counts, not before it
    r"|!?[+*=<>|^~{}\[\]]+"
    r"|\(\)|&&|//+|(?<!\S)/(?!/)|(?<=\w)#|(?<=\w)\$(?![\d\w])|(?<!\d)%"
)
_QUOTED: Final = re.compile(
    r"\"([^\"]{1,200})\"|“([^”]{1,200})”|«([^»]{1,200})»|`([^`]{1,200})`|(?<!\w)'([^']{1,200})'(?!\w)"
)
_ACCENTED: Final = re.compile(r"[a-zµà-öø-ɏ]*[µà-öø-ɏ][a-zµà-öø-ɏ]*")
_LAST_LATIN: Final = 0x24F
_LONGEST_QUOTE: Final = 6  # words; longer ones are misquoted more often than they are the matter
# Words that are another word all in capitals, and names that are seldom written in small letters.
_ACRONYMS: Final = word_list("us it who aids")
_NAMES: Final = word_list(
    "polish march august lent nice reading mobile job rich bill mark will frank jack rose lily grace hope "
    "faith joy dawn mercury cancer"
)
# Units, elements and formulas of two letters that are others with other capitals.
_CASED: Final = word_list(
    "mw mb gb kb tb pa co ms mg ml mm mv ma ph ps pb hf cs si sn sc np nb os po"
)
_CASE_SENSITIVE: Final = _ACRONYMS | _NAMES | _CASED
_TITLE_SHARE: Final = 2
_UNIT: Final = re.compile(r"\d([A-Za-zµ]{1,3})(?!\w)")


@dataclass(frozen=True, slots=True)
class Orthography:
    """What is compared as it is spelled."""

    marks: frozenset[str] = frozenset()
    foreign: str = ""  # letters and digits beyond the Latin ones, in order
    accented: frozenset[str] = frozenset()  # words with an accent
    quoted: frozenset[str] = frozenset()
    capitals: frozenset[tuple[str, str]] = frozenset()  # (small letters, how it is spelled)


PLAIN: Final = Orthography()
_NONE: Final = frozenset[tuple[str, str]]()


def orthography_of(
    text: str, raw: list[str], lowered: list[str], starts: set[int], words: frozenset[str]
) -> Orthography:
    """Return what distinguishes ``text`` beside its words . Linear.

    ``raw`` and ``lowered``: its words; ``words``: the set of ``lowered``; ``starts``: where sentences start.
    """
    capitals = _NONE
    if not words.isdisjoint(_CASE_SENSITIVE) or _UNIT.search(text):
        capitals = _capitals(text, raw, lowered, starts)
    if _SPECIAL.search(text) is None:
        return Orthography(capitals=capitals) if capitals else PLAIN
    foreign, symbols, accented = "", list[str](), frozenset[str]()
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        foreign, symbols = _beyond_latin(text)
        accented = frozenset(_ACCENTED.findall(text.lower()))
    # Letters in a mark have a case where it is an escape or a flag.
    marks = [m if m[0] in "\\-" else m.lower() for m in _MARK.findall(text)]
    quoted = frozenset(
        quote for found in _QUOTED.findall(text)
        if (quote := _quote(next(filter(None, found)).split()))
    )  # fmt: skip
    return Orthography(frozenset((*marks, *symbols)), foreign, accented, quoted, capitals)


def _quote(words: list[str]) -> str:
    """A quote as it is compared: a word as it is, several without their plurals; "" if it is long."""
    if len(words) == 1:
        return words[0].strip(".,!?")
    if len(words) > _LONGEST_QUOTE:
        return ""
    return " ".join(w.strip(".,!?").removesuffix("s") for w in words)


def _beyond_latin(text: str) -> tuple[str, list[str]]:
    """Letters and digits of other scripts, and symbols that are not ASCII, each in order."""
    letters, symbols = [], []
    for c in text:
        if c <= "\x7f":
            continue
        kind = unicodedata.category(c)
        if kind[0] == "S" and kind != "Sc" and c != "°":
            symbols.append(c)
        elif kind[0] == "N" or (kind[0] in "LM" and ord(c) > _LAST_LATIN and c != "\ufe0f"):
            letters.append(c)
    return "".join(letters), symbols


def _capitals(
    text: str, raw: list[str], lowered: list[str], starts: set[int]
) -> frozenset[tuple[str, str]]:
    """The spelling of words whose case distinguishes; none in a text whose case means nothing."""
    if not text[:1].isupper() or sum(w[0].isupper() for w in raw) * _TITLE_SHARE > len(raw) + 2:
        return _NONE  # all in small letters, or written like a headline
    found = []
    for i, (word, low) in enumerate(zip(raw, lowered, strict=True)):
        if low in _ACRONYMS:
            if word in {low, low.upper()}:
                found.append((low, word))
        elif i in starts:
            continue
        elif low in _NAMES or (low in _CASED and word != low):
            found.append((low, word))
        elif word[0].isdigit() and word != low and (unit := _UNIT.search(word)):
            found.append((unit[1].lower(), unit[1]))
    return frozenset(found)


def orthography_differences(
    a: Orthography, b: Orthography, words_a: frozenset[str], words_b: frozenset[str]
) -> list[tuple[str, str]]:
    """(kind, in words) of what is spelled differently; ``words_a``, ``words_b``: all words of each text."""
    found = []
    if a.marks != b.marks:
        found.append(("marks", "symbols differ"))
    if a.foreign != b.foreign:
        found.append(("script", "another script says something else"))
    if a.quoted and b.quoted and a.quoted != b.quoted:
        found.append(("quoted", "another text is quoted"))
    if a.accented != b.accented and _accents_distinguish(
        a.accented ^ b.accented, words_a | words_b
    ):
        found.append(("accent", "an accent differs"))
    if a.capitals and b.capitals and _capitals_distinguish(a.capitals, b.capitals):
        found.append(("case", "capitals differ where they tell"))
    return found


def _accents_distinguish(only: frozenset[str], words: frozenset[str]) -> bool:
    """Whether one side's word is another's but for an accent."""
    plain = [_without_accents(word) for word in only]
    return len(set(plain)) < len(plain) or not words.isdisjoint(plain)


def _without_accents(word: str) -> str:
    apart = unicodedata.normalize("NFD", word)
    return "".join(c for c in apart if not unicodedata.combining(c))


def _capitals_distinguish(a: frozenset[tuple[str, str]], b: frozenset[tuple[str, str]]) -> bool:
    forms_a, forms_b = _forms(a), _forms(b)
    return any(forms_a[word].isdisjoint(forms_b[word]) for word in forms_a.keys() & forms_b.keys())


def _forms(capitals: frozenset[tuple[str, str]]) -> dict[str, set[str]]:
    forms: dict[str, set[str]] = {}
    for word, form in capitals:
        forms.setdefault(word, set()).add(form)
    return forms
