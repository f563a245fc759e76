"""The lexical analysis of one text that the guards and pair features compare, computed once a text.

A cached question is compared with many later ones, so everything that depends on one side alone
(words, stems, numbers, names, prepositions, polarity words) is analysed here when it is stored or
asked, and a comparison only intersects small sets. About 25 us for a text of twelve words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

from app.cache.expected_answer import ExpectedAnswer, expected_answer_of
from app.cache.lexicon import (
    DATES,
    FILLERS,
    NEGATIONS,
    PRONOUNS,
    QUESTION_GROUPS,
    STOP_WORDS,
    TIME_STATES,
    UNITS,
    opposites_of,
)
from app.cache.lexicon import words as word_list
from app.cache.number_words import NUMBER_WORDS, ROMAN_WORDS, numbers_in_words, roman_numbers
from app.cache.orthography import Orthography, orthography_of

_WORD: Final = re.compile(
    r"[$€£#]?\d[\d,]*(?:\.\d+)*(?:[:/\-]\d+)*[a-z%°]*"  # numbers, versions, dates, 30%, 5kg
    # words of any Latin alphabet, ids, e-mail, paths
    r"|[a-zµà-öø-ɏ]+(?:['’][a-zà-öø-ɏ]+)*(?:[\-_./@][a-zà-öø-ɏ0-9]+)*\d*[a-zà-öø-ɏ\d]*"
    r"|[+\-*/=<>]",
    re.IGNORECASE,
)
_DIGITS: Final = re.compile(r"\d")
_INNER: Final = re.compile(r"\w[_@.]\w")
_HYPHEN: Final = re.compile(r"y-[a-z]", re.IGNORECASE)  # of "twenty-five"
_INNER_CAPITAL: Final = re.compile(r"\w[A-ZÀ-Þ]")
_NONE: Final = frozenset[str]()
_SENTENCE_ENDS: Final = frozenset(".?!:\n")
_USED_TO: Final = re.compile(r"(?:^| )used? to(?: |$)")
_PLAIN_NUMBER: Final = re.compile(r"[$€£#]?(\d[\d,]*(?:\.\d+)?)(st|nd|rd|th|am|pm|[kmb%°])?$")
_DIRECTION: Final = word_list(
    "from to into onto before after until till since by than over under above below via through "
    "with without at in on for against toward towards between near of about around within "
    "outside inside off"
)
_BE: Final = word_list("is are was were be been being get got gets getting")
_SHORTEST: Final = 4  # letters of a stem that may still lose one
_NO_PLURAL: Final = ("ss", "us", "is")
# (ending, letters the word must have more than, what takes its place), tried in this order.
_ENDINGS: Final = (
    ("ies", 4, "y"),
    ("ing", 5, ""),
    ("ed", 4, ""),
    ("ly", 4, ""),
    ("ses", 4, "s"),
    ("xes", 4, "x"),
    ("zes", 4, "z"),
    ("ches", 4, "ch"),
    ("shes", 4, "sh"),
    ("s", 3, ""),
)
_IRREGULAR: Final = {
    "sold": "sell", "bought": "buy", "left": "leave", "told": "tell", "taken": "take",
    "took": "take", "given": "give", "gave": "give", "seen": "see", "saw": "see", "known": "know",
    "knew": "know", "written": "write", "wrote": "write", "eaten": "eat", "ate": "eat",
    "beaten": "beat", "broken": "break", "broke": "break", "chosen": "choose", "chose": "choose",
    "driven": "drive", "drove": "drive", "found": "find", "held": "hold", "kept": "keep",
    "lost": "lose", "made": "make", "met": "meet", "paid": "pay", "sent": "send", "shot": "shoot",
    "stolen": "steal", "stole": "steal", "taught": "teach", "thought": "think", "won": "win",
    "understood": "understand", "brought": "bring", "caught": "catch", "fought": "fight",
    "felt": "feel", "heard": "hear", "built": "build", "drawn": "draw", "drew": "draw",
    "forgotten": "forget", "forgot": "forget", "went": "go", "gone": "go", "done": "do",
    "said": "say", "ran": "run", "began": "begin", "begun": "begin", "led": "lead", "read": "read",
    "hidden": "hide", "thrown": "throw", "threw": "throw", "worn": "wear", "wore": "wear",
    "spent": "spend", "meant": "mean", "flew": "fly", "flown": "fly", "fed": "feed",
    "people": "person", "children": "child", "men": "man", "women": "woman", "mice": "mouse",
    "feet": "foot", "cities": "city", "countries": "country", "better": "good", "best": "good",
    "remembered": "remember", "believed": "believe", "used": "use",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextView:
    """One text, analysed. Word positions count words, not characters."""

    text: str
    words: tuple[str, ...]
    stems: tuple[str, ...]
    content: frozenset[str]  # stems that are neither stop words nor fillers
    stem_set: frozenset[str]
    word_set: frozenset[str]
    reversals: frozenset[str]  # words that would reverse one of this text's
    bigrams: frozenset[tuple[str, str]]
    trigrams: frozenset[str]  # character trigrams of the squeezed text
    numbers: frozenset[str]  # canonical: "3", "1000", "7:30", "30%"
    ids: frozenset[str]  # words mixing letters and digits, or with _ @ . inside
    codes: frozenset[str]  # words with a capital behind their first letter: no spelling mistakes
    names: frozenset[str]  # capitalised words inside a sentence, lower-cased
    dates: frozenset[str]
    units: frozenset[str]
    negations: int
    pronouns: tuple[str, ...]  # gender or person classes, in order
    states: frozenset[str]
    question: str
    governors: dict[str, str]  # content stem -> the preposition that governs it
    passive_at: int  # position of the "by" of a passive, or -1
    has_and: bool
    has_or: bool
    orthography: Orthography
    expected_answer: ExpectedAnswer


def _normalised(text: str, raw: list[str]) -> list[str]:
    if text.isascii():  # then no word's case depends on its neighbours, and one call does for all
        return " ".join(raw).lower().split(" ") if raw else []
    return [word.replace("’", "'").lower() for word in raw]


_KNOWN_PRONOUNS: Final = frozenset(PRONOUNS)
_KNOWN_STATES: Final = frozenset(TIME_STATES)


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """A light stem: plural, tense and adverb endings off, irregular forms by table."""
    known = _IRREGULAR.get(word)
    if known is not None:
        return known
    if _DIGITS.search(word):
        return word
    base = word.removesuffix("'s").removesuffix("'")
    for suffix, least, kept in _ENDINGS:
        if len(base) > least and base.endswith(suffix):
            if not base.endswith(_NO_PLURAL) or suffix != "s":
                base = base[: -len(suffix)] + kept
            break
    if len(base) > _SHORTEST and base[-1] == base[-2] and base[-1] not in "sle":
        base = base[:-1]
    return base[:-1] if len(base) > _SHORTEST and base.endswith("e") else base


def _number(word: str) -> str | None:
    """The canonical form of a word with digits; None for an id. Equal only if all digits are."""
    match = _PLAIN_NUMBER.match(word)
    if match is None:
        bare = word.lstrip("$€£#")
        return bare if bare[:1].isdigit() and not any(c.isalpha() for c in bare) else None
    suffix = match.group(2) or ""
    whole, dot, part = match.group(1).replace(",", "").partition(".")
    if word[0] in "$€£":
        part = part.rstrip("0")  # of a price 3.10 is 3.1; of a version it is not
    digits = (whole.lstrip("0") or "0") + (dot + part if part.strip("0") else "")
    return digits + (suffix if suffix in {"am", "pm", "%", "°", "k", "m", "b"} else "")


def _is_id(word: str) -> bool:
    if not _DIGITS.search(word):
        return any(c in "_@." for c in word)  # user_id, a@b.com, example.org
    return any(c.isalpha() for c in word) and _PLAIN_NUMBER.match(word) is None


def _names(raw: list[str], starts: set[int], lowered: list[str]) -> frozenset[str]:
    found = set()
    for i, word in enumerate(raw):
        if not word[0].isupper() or lowered[i] in STOP_WORDS:
            continue
        # A sentence's first word counts only when the next one is capitalised too.
        followed = i + 1 < len(raw) and raw[i + 1][0].isupper()
        if i not in starts or (followed and lowered[i] not in QUESTION_GROUPS):
            found.add(lowered[i].removesuffix("'s"))
    return frozenset(found)


def _codes(text: str, raw: list[str], words: list[str]) -> frozenset[str]:
    if _INNER_CAPITAL.search(text) is None:
        return _NONE
    return frozenset([w for r, w in zip(raw, words, strict=True) if r[1:].lower() != r[1:]])


def _dates(raw: list[str], starts: set[int], word_set: frozenset[str]) -> frozenset[str]:
    found = DATES & word_set
    # "May" inside a sentence is the month.
    if "may" in word_set and any(w == "May" and i not in starts for i, w in enumerate(raw)):
        return found | {"may"}
    return found


def _governors(words: list[str], stems: list[str]) -> dict[str, str]:
    governed: dict[str, str] = {}
    current, age = "", 0
    for word, base in zip(words, stems, strict=True):
        if word in _DIRECTION:
            current, age = word, 0
            continue
        age += 1
        if word not in STOP_WORDS and base not in governed:
            governed[base] = current if age <= 3 else ""  # noqa: PLR2004 - "to the old town"
    return governed


def _passive_at(words: list[str]) -> int:
    for i, word in enumerate(words):
        if word == "by" and i >= 2:  # noqa: PLR2004 - a be-form and a participle come before
            participle = words[i - 1]
            ends = (
                participle.endswith(("ed", "en", "wn", "ught", "t", "d"))
                or participle in _IRREGULAR
            )
            if ends and any(w in _BE for w in words[:i]):
                return i
    return -1


def _question(words: list[str]) -> str:
    for i, word in enumerate(words[:4]):
        group = QUESTION_GROUPS.get(word)
        # "Is it ..." asks; "A man is ..." does not.
        if group is not None and (group != "polar" or i == 0):
            return group
    return "none"


def _states(words: list[str]) -> frozenset[str]:
    found = {TIME_STATES[w] for w in _KNOWN_STATES.intersection(words)}
    if ("use" in words or "used" in words) and _USED_TO.search(" ".join(words)):
        found.add("formerly")
    return frozenset(found)


def _negations(words: list[str], word_set: frozenset[str], compact: str) -> int:
    if NEGATIONS.isdisjoint(word_set) and "n't" not in compact and "-free" not in compact:
        return 0
    return sum([w in NEGATIONS or w.endswith(("n't", "-free")) for w in words])


def _numbers(
    text: str, raw: list[str], words: list[str], word_set: frozenset[str], *, digits: bool
) -> frozenset[str]:
    found: set[str] = set()
    if digits:
        found = {n for n in map(_number, word_set) if n is not None}
    if not NUMBER_WORDS.isdisjoint(word_set) or _HYPHEN.search(text):
        found |= numbers_in_words(words)
    if not ROMAN_WORDS.isdisjoint(word_set):
        found |= roman_numbers(raw, words)
    return frozenset(found)


def analyse(text: str) -> TextView:
    """Analyse one text. Pure; the same text always gives an equal view."""
    raw: list[str] = []
    starts: set[int] = set()
    end = 0
    for match in _WORD.finditer(text):
        gap = text[end : match.start()]
        if not raw or (gap != " " and not _SENTENCE_ENDS.isdisjoint(gap)):
            starts.add(len(raw))
        raw.append(match.group())
        end = match.end()
    words = _normalised(text, raw)
    stems = [stem(w) for w in words]
    compact = f" {' '.join(words)} "
    word_set = frozenset(words)
    digits = _DIGITS.search(text) is not None
    pronouns = [] if _KNOWN_PRONOUNS.isdisjoint(word_set) else [w for w in words if w in PRONOUNS]
    return TextView(
        text=text,
        words=tuple(words),
        stems=tuple(stems),
        content=frozenset([stem(w) for w in word_set - STOP_WORDS - FILLERS]),
        stem_set=frozenset(stems),
        word_set=word_set,
        reversals=frozenset().union(*map(opposites_of, word_set)),
        bigrams=frozenset(pairwise(stems)),
        trigrams=frozenset([compact[i : i + 3] for i in range(max(1, len(compact) - 2))]),
        numbers=_numbers(text, raw, words, word_set, digits=digits),
        ids=frozenset([w for w in word_set if _is_id(w)])
        if digits or _INNER.search(text)
        else _NONE,
        names=_names(raw, starts, words),
        codes=_codes(text, raw, words),
        dates=_dates(raw, starts, word_set),
        units=frozenset([stem(w) for w in UNITS & word_set]),
        negations=_negations(words, word_set, compact),
        pronouns=tuple([PRONOUNS[w] for w in pronouns]),
        states=_states(words),
        question=_question(words),
        governors=_governors(words, stems),
        passive_at=_passive_at(words),
        has_and="and" in word_set or "both" in word_set or "simultaneously" in word_set,
        has_or="or" in word_set or "either" in word_set,
        orthography=orthography_of(text, raw, words, starts, word_set),
        expected_answer=expected_answer_of(words, word_set),
    )
