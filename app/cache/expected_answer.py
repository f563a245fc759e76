"""The kind of answer a question expects: who or when, of all or of some, first or next, as JSON, in French.

Each is a closed class of words. Two texts that use other words of one class ask for other answers, so a
difference on both sides forbids a hit; one on a single side does where it is a form or a language that is
asked for ("as JSON", "in German"). On the public pairs these hardly ever meet (questions there want prose
in English); in front of a model they do. Tense and modal verbs are left out: among near pairs that differ
in nothing else, one answer serves as many as among the others.

Negations, numbers and opposed prepositions of other languages of the Latin alphabet are here as well: the
lists that the other guards look words up in are English. Of two texts that use such words, any
difference forbids.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from app.cache.lexicon import words as word_list


def _classes(text: str) -> dict[str, str]:
    """``name: word word`` a line, as word -> name."""
    lines = (line.partition(":") for line in text.strip().splitlines())
    return {word: name.strip() for name, _, words in lines for word in words.split()}


_QUANTIFIERS: Final = _classes("""
all: all every each everyone everybody everything
some: some several any anyone anybody anything
none: none neither
most: most
few: few
only: only solely exclusively
exactly: exactly precisely
single: single
double: double
triple: triple
quadruple: quadruple
""")
_ORDERS: Final = _classes("""
1: first 1st
2: second 2nd
3: third 3rd
next: next following subsequent follows
previous: previous preceding prior precedes
this: this
last: last
before: before until till
after: after since
during: during while throughout
hourly: hourly
daily: daily
weekly: weekly
fortnightly: fortnightly biweekly
monthly: monthly
quarterly: quarterly
yearly: yearly annual annually
biannual: biannual biannually
weekdays: weekday weekdays
weekends: weekend weekends
spring: spring
summer: summer
autumn: autumn fall
winter: winter
1920s: twenties
1930s: thirties
1940s: forties
1950s: fifties
1960s: sixties
1970s: seventies
1980s: eighties
1990s: nineties
""")
_FORMS: Final = _classes("""
json: json
yaml: yaml yml
xml: xml
csv: csv
html: html
markdown: markdown
latex: latex
table: table tables
bullets: bullets bullet bulleted
list: list
prose: prose
word: word words
sentence: sentence sentences
paragraph: paragraph paragraphs
line: line lines
page: page pages
essay: essay
poem: poem
haiku: haiku
limerick: limerick
sonnet: sonnet
story: story
song: song
speech: speech
tweet: tweet
letter: letter
email: email e-mail mail
code: code
diagram: diagram
short: briefly brief short concise concisely succinctly
long: detail detailed length thoroughly
""")
_LANGUAGES: Final = _classes("""
en: english
de: german
fr: french
es: spanish
it: italian
pt: portuguese
nl: dutch
pl: polish
ru: russian
uk: ukrainian
zh: chinese mandarin cantonese
ja: japanese
ko: korean
ar: arabic
hi: hindi
tr: turkish
el: greek
la: latin
he: hebrew
sv: swedish
da: danish
no: norwegian
fi: finnish
cs: czech
hu: hungarian
vi: vietnamese
th: thai
id: indonesian
ro: romanian
""")
_ASKED_FOR: Final = re.compile(
    r"\b(?:in|as|into|to)\s+(?:(?:an?|the|one|two|three|four|five|\d+|single|short|bullet|formal)\s+){0,2}"
    r"([a-z\-]+)",
)
_FOREIGN_WORDS: Final = _classes("""
not: nicht kein keine keinen keiner keinem nie niemals niemand pas jamais aucun aucune rien nunca jamás nadie
not: ningún ninguna nessuno nessuna não niet geen nooit niemand
without: ohne sans sin senza sem zonder
with: mit avec con com met
before: vor avant antes prima voor
after: nach après después dopo depois na
0: null cero
2: zwei deux dos duas dois twee
3: drei trois tres três tre drie
4: vier quatre cuatro quattro quatro
5: fünf cinq cinco cinque vijf
6: sechs seis zes
7: sieben sept siete sette sete zeven
8: acht huit ocho otto oito
9: neun neuf nueve nove negen
10: zehn dix diez dieci dez tien
100: hundert cent cien cento cem honderd
""")
# Common words of those languages that no English question has: where there is one, the words above count.
_FOREIGN_MARKERS: Final = word_list(
    "der das ist nicht ein eine für wie viel warum welche welcher gibt wann sind soll kann le les est une "
    "dans pour que qui quelle quel quels combien pourquoi peut ne du el y es por para cuál qué cómo cuánto "
    "cuántos puede cuándo dónde il che è della qual quanto perché uma é em não quais onde quando het een "
    "wat hoe waarom zijn"
)
_WHO: Final = frozenset({"who", "whom", "whose"})
_ASKS: Final = frozenset({"when", "where", "why"})
_MEASURES: Final = word_list(
    "many much long far old tall big often deep high fast large wide heavy hot cold thick"
)
_POLAR: Final = word_list(
    "is are was were do does did can could should would will has have must may"
)
_ASKING: Final = _WHO | _ASKS | {"how", "what", "which"}
_PARTS_OF_A_FORM: Final = 2  # "one sentence"
_FIRST_WORDS: Final = 4


@dataclass(frozen=True, slots=True)
class ExpectedAnswer:
    """The classes of a text's words; ``requested_forms``: forms and languages that it asks for."""

    question: str = ""
    quantifiers: frozenset[str] = frozenset()
    orders: frozenset[str] = frozenset()
    forms: frozenset[str] = frozenset()
    languages: frozenset[str] = frozenset()
    requested_forms: frozenset[str] = frozenset()
    foreign_words: tuple[str, ...] = ()


_KNOWN: Final = frozenset({*_QUANTIFIERS, *_ORDERS, *_FORMS, *_LANGUAGES, *_FOREIGN_WORDS})
_FORMAL: Final = frozenset({*_FORMS, *_LANGUAGES})
# As an answer is when nothing is said, or nearly.
_USUAL: Final = frozenset({"en", "short", "long"})


def expected_answer_of(words: list[str], word_set: frozenset[str]) -> ExpectedAnswer:
    """Return what the text of ``words`` (lower case) expects. Linear."""
    question = _question(words, word_set)
    known = word_set & _KNOWN
    if "few" in known and ("a", "few") in pairwise(words):
        known -= {"few"}
    if not known:
        return _BY_QUESTION.get(question) or ExpectedAnswer(question)
    asked = frozenset[str]()
    if not known.isdisjoint(_FORMAL):
        asked = frozenset(
            _FORMS.get(w) or _LANGUAGES[w]
            for w in _ASKED_FOR.findall(" ".join(words)) if w in _FORMAL
        ) - _USUAL  # fmt: skip
    return ExpectedAnswer(
        question,
        _classed(known, _QUANTIFIERS),
        _classed(known, _ORDERS),
        _classed(known, _FORMS),
        _classed(known, _LANGUAGES),
        asked,
        () if word_set.isdisjoint(_FOREIGN_MARKERS) else _in_order(words),
    )


def _classed(words: frozenset[str], classes: dict[str, str]) -> frozenset[str]:
    return frozenset(classes[w] for w in words if w in classes)


def _in_order(words: list[str]) -> tuple[str, ...]:
    return tuple(_FOREIGN_WORDS[w] for w in words if w in _FOREIGN_WORDS)


def _question(words: list[str], word_set: frozenset[str]) -> str:
    """What is asked for, where the word says so alone: who, when, where, why, how many; else ""."""
    if len(_ASKING & word_set) > 1:
        return ""  # "when and why"
    for i, word in enumerate(words[:_FIRST_WORDS]):
        if word in _WHO:
            return "who"
        if word in _ASKS:
            return word
        if word == "how":
            measure = words[i + 1] if i + 1 < len(words) else ""
            return f"how {measure}" if measure in _MEASURES else "how"
        if word in {"what", "which"}:
            return "what"
    return "polar" if words and words[0] in _POLAR else ""


_BY_QUESTION: Final = {
    q: ExpectedAnswer(q) for q in ("", "who", "when", "where", "why", "how", "what", "polar")
}


def _other_question(a: str, b: str) -> bool:
    """Whether one asks for a person, place, time, reason or amount and the other for another of these.

    "What" and "how" can stand for most of them, and hardly change what is asked.
    """
    first, second = sorted((a, b))
    if not first or first == second or "what" in (first, second):
        return False
    if "how" in (first, second):
        return second in _ASKS | {"who"} and second != "why"
    return True


def expected_answer_differences(
    a: ExpectedAnswer, b: ExpectedAnswer, unshared: frozenset[str]
) -> list[tuple[str, str]]:
    """Return (kind, in words) of each difference; ``unshared``: content stems of one text alone."""
    found = []
    if a.question != b.question and not unshared and _other_question(a.question, b.question):
        found.append(("asked", f"asked for differs: {a.question} vs {b.question}"))
    rest = len(unshared - _KNOWN)
    asks = a.question and b.question
    for kind, mine, theirs, counts in (
        ("quantity", a.quantifiers, b.quantifiers, asks and not rest),
        ("order", a.orders, b.orders, True),
        ("form", a.forms, b.forms, True),
        ("language", a.languages, b.languages, True),
    ):
        if mine != theirs and counts and mine - theirs and theirs - mine:
            one, other = sorted(mine - theirs), sorted(theirs - mine)
            found.append((kind, f"{kind} differs: {', '.join(one)} vs {', '.join(other)}"))
    if a.requested_forms != b.requested_forms and rest <= _PARTS_OF_A_FORM:
        found.append(("form", "another form or language is asked for"))
    if a.foreign_words != b.foreign_words:
        found.append(("foreign", "a negation, number or preposition of another language differs"))
    return found
