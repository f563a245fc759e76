"""Typed differences between two questions, in words, and which of them forbid a hit.

A difference on *both* sides (3 against 4, Rome against Oslo, more against less) vetoes: measured
on public pairs with cosine >= 0.85 it takes the chance of an equal answer to between 0 and 0.6. A
difference on *one* side (a number only here, another question word) says much less, or nothing,
and is left to the verifier as a feature; the exceptions, each measured, are one-sided negation and
the closed patterns of time (before/after, used to, becoming).

Polarity is counted, not just noticed: "more patient" and "less impatient" differ twice and mean
the same, so only an odd number of reversals vetoes. In the same way a passive with "by" turns the
order of its two parties round, and an order turned twice is the same order.

The measured table is in the benchmark's report (`python -m bench.cache`); words come from
`app.cache.lexicon`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.cache.expected_answer import expected_answer_differences
from app.cache.lexicon import COURTESIES, NEGATIONS, SYMMETRIC_RELATIONS, opposites_of
from app.cache.number_words import NUMBER_WORDS, ROMAN_WORDS
from app.cache.orthography import orthography_differences
from app.cache.text_view import TextView, stem

if TYPE_CHECKING:
    from collections.abc import Iterable

_EXCLUSIVE_STATES: Final = ("formerly", "becoming")
_SWAPPABLE: Final = frozenset({"from", "to", "into", "before", "after", "by", "than", "on", "over",
                               "under", "since", "until", "above", "below", "for", "with", "without",
                               "about", "against", "toward", "towards"})  # fmt: skip
_SHORT_WORD: Final = 3
_PARTIES: Final = 2
_SHORTEST_ROOT: Final = 5
_ADJECTIVES: Final = ("an", "ian", "ean", "ese", "ish", "ic", "i", "ek", "ce", "ch")
_COUNTING: Final = NUMBER_WORDS | ROMAN_WORDS
_ARTICLES: Final = frozenset({"a", "an", "the"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One typed difference. `words` is shown to people: "number differs: 3 vs 4"."""

    kind: str
    words: str
    veto: bool


@dataclass(frozen=True, slots=True)
class Differences:
    """The typed differences between two texts."""

    found: tuple[Difference, ...]
    polarity: int  # reversals counted: opposite words and one-sided negations
    swapped: bool  # the same parties in other roles
    symmetric: bool  # another order, but of a relation that holds both ways

    @property
    def vetoes(self) -> tuple[Difference, ...]:
        """The differences that forbid a hit, whatever the score."""
        return tuple(d for d in self.found if d.veto)

    def has(self, kind: str) -> bool:
        """Whether a difference of this kind was seen, vetoing or not."""
        return any(d.kind == kind for d in self.found)


def _listed(items: Iterable[str]) -> str:
    return ", ".join(sorted(items)) or "none"


def _set_difference(
    kind: str, label: str, a: frozenset[str], b: frozenset[str]
) -> Difference | None:
    """A two-sided difference vetoes, a one-sided one is only noted."""
    if a == b:
        return None
    only_a, only_b = a - b, b - a
    two_sided = bool(only_a and only_b)
    suffix = "" if two_sided else " on one side only"
    return Difference(
        kind if two_sided else f"{kind}_one_sided",
        f"{label} differs{suffix}: {_listed(only_a)} vs {_listed(only_b)}",
        veto=two_sided,
    )


def opposite_pairs(a: TextView, b: TextView) -> list[tuple[str, str]]:
    """Pairs of opposites, one word from each text's unshared words; each word used once.

    A text that names both sides ("pros and cons") takes neither.
    """
    if not (a.reversals & b.word_set) and not (b.reversals & a.word_set):
        return []
    left = [w for w in dict.fromkeys(a.words) if w not in b.word_set and w not in a.reversals]
    right = [w for w in dict.fromkeys(b.words) if w not in a.word_set and w not in b.reversals]
    pairs = []
    for x in left:
        for y in right:
            if y in opposites_of(x) or x in opposites_of(y):
                pairs.append((x, y))
                right.remove(y)
                break
    return pairs


def _order_differs(a: TextView, b: TextView, shared: frozenset[str]) -> bool:
    """Whether two shared parties stand in another order."""
    return [s for s in a.stems if s in shared] != [s for s in b.stems if s in shared]


def _parties(a: TextView, b: TextView) -> frozenset[str]:
    """The shared words that can play a role: names where there are any, else content words."""
    shared = a.content & b.content
    names = shared & _stemmed(a.names & b.names, a)
    if len(names) > 1:
        shared = names
    # What stands behind the same preposition in both texts has kept its role, wherever it stands.
    ours, theirs = a.governors.get, b.governors.get
    return frozenset([
        s for s in shared
        if (not ours(s) or ours(s) != theirs(s)) and a.stems.count(s) == 1 == b.stems.count(s)
    ])  # fmt: skip


def _stemmed(names: frozenset[str], a: TextView) -> frozenset[str]:
    if not names:
        return names
    return frozenset(
        s for w, s in zip(a.words, a.stems, strict=True) if w.removesuffix("'s") in names
    )


def _symmetric(a: TextView, b: TextView) -> bool:
    shared = set(a.words) & set(b.words)
    return bool(shared & SYMMETRIC_RELATIONS) or (a.has_or and b.has_or)


def _preposition_swap(a: TextView, b: TextView) -> tuple[str, str] | None:
    """Two shared words that exchanged their prepositions (from X to Y / from Y to X)."""
    theirs = b.governors
    moved = [
        (word, ours, theirs[word])
        for word, ours in a.governors.items()
        if word in theirs
        and ours != theirs[word]
        and ours in _SWAPPABLE
        and theirs[word] in _SWAPPABLE
    ]
    for i, (first, from_a, from_b) in enumerate(moved):
        for second, other_a, other_b in moved[i + 1 :]:
            if from_a == other_b and from_b == other_a:
                return first, second
    return None


def _roles(a: TextView, b: TextView, reversals: int) -> tuple[Difference | None, bool]:
    """(difference, symmetric): who does what to whom, when the words are the same."""
    exchanged = _preposition_swap(a, b)
    if exchanged is not None:
        text = f"roles exchanged: {exchanged[0]} and {exchanged[1]}"
        return Difference("role_swap", text, veto=True), False
    if len(a.content ^ b.content) > _PARTIES:  # too much else differs
        return None, False
    parties = _parties(a, b)
    if not _roles_reversed(a, b, parties, reversals):
        return None, False
    one_passive = (a.passive_at >= 0) != (b.passive_at >= 0)
    if _symmetric(a, b) and not one_passive:
        return None, True
    names = len(_stemmed(a.names & b.names, a) & parties)
    compared = "than" in a.word_set & b.word_set
    same_words = a.content == b.content and _words_after_courtesies(a) == _words_after_courtesies(b)
    if not (one_passive or names > 1 or compared or same_words):
        return None, False
    text = f"the same words in other roles: {' … '.join(s for s in a.stems if s in parties)}"
    return Difference("role_swap", text, veto=True), False


def _words_after_courtesies(text: TextView) -> int:
    """How many words a text has after its opening courtesies ("please tell me")."""
    polite = next((i for i, w in enumerate(text.words) if w not in COURTESIES), len(text.words))
    return len(text.words) - polite


def _roles_reversed(a: TextView, b: TextView, parties: frozenset[str], reversals: int) -> bool:
    """Whether two near-equal texts have their parties in another order, allowing for one passive."""
    if len(parties) < _PARTIES:
        return False
    if (a.passive_at >= 0) != (b.passive_at >= 0):
        turned = _passive_reversed(*((a, b) if a.passive_at >= 0 else (b, a)))
    else:
        turned = _order_differs(a, b, parties)
    # "A is taller than B", "B is shorter than A": turned twice.
    twice = reversals > 0 and reversals % 2 == 0 and "than" in a.word_set & b.word_set
    return turned and not twice


def _passive_reversed(passive: TextView, active: TextView) -> bool:
    """Whether the agent of the passive is not the agent of the active; False when that is unknown."""
    at = passive.passive_at
    agents = []
    for word, base in zip(passive.words[at + 1 :], passive.stems[at + 1 :], strict=True):
        if base in passive.content:
            agents.append(base)
        elif agents or word in _SWAPPABLE:
            break
    verb = passive.stems[at - 1]
    patients = [s for s in passive.stems[: at - 1] if s in passive.content]
    doer = [active.stems.index(s) for s in agents if s in active.stems]
    if not doer:
        return False
    if verb in active.stems:
        return min(doer) > active.stems.index(verb)
    done_to = [active.stems.index(s) for s in patients if s in active.stems]
    return bool(done_to) and min(doer) > min(done_to)


def _negated(x: int, y: int) -> bool:
    """Whether one side is negated: none against some, or another parity ("not unlike")."""
    return x % 2 != y % 2 or (x != y and min(x, y) == 0)


def _polarity(a: TextView, b: TextView) -> tuple[list[Difference], int]:
    pairs = opposite_pairs(a, b)
    negated = int(_negated(a.negations, b.negations))
    # "taller than" and "shorter than" with the two sides exchanged: two reversals.
    compared = int(
        "than" in a.word_set and "than" in b.word_set and _order_differs(a, b, _parties(a, b))
    )
    # "with" and "without" are opposites, and one of them a negation: that is one reversal, not two.
    once = sum(x in NEGATIONS or y in NEGATIONS for x, y in pairs) if negated else 0
    reversals = len(pairs) + negated + compared - once
    # Two reversals cancel only where nothing else differs ("more patient", "less impatient").
    if not reversals:
        return [], 0
    reversed_words = {stem(w) for pair in pairs for w in pair}
    odd = reversals % 2 == 1 or bool((a.content ^ b.content) - reversed_words)
    found = [Difference("opposite", f"opposites: {x} vs {y}", veto=odd) for x, y in pairs]
    if negated:
        found.append(Difference("negation", "one of the two is negated", veto=odd))
    return found, reversals


def _qualifier(a: TextView, b: TextView) -> Difference | None:
    """Two equal questions but for one more qualifier in front of a shared word.

    Measured on public question pairs: one answer serves 0.54 of such pairs. In statements the
    share is 0.88, so they are left to the verifier.
    """
    if a.question == "none" or a.question != b.question:
        return None
    extra = a.content ^ b.content
    if len(extra) != 1 or not (a.stem_set ^ b.stem_set) <= extra | _ARTICLES:
        return None
    longer = a if len(a.content) > len(b.content) else b
    at = next(i for i, s in enumerate(longer.stems) if s in extra)
    word = longer.words[at]
    narrows = at + 1 < len(longer.stems) and longer.stems[at + 1] in a.content & b.content
    if not narrows or word.endswith("ly"):
        return None
    return Difference("qualifier", f"asked more narrowly on one side: {word}", veto=True)


def _time_states(a: TextView, b: TextView) -> Difference | None:
    for state in _EXCLUSIVE_STATES:
        if (state in a.states) != (state in b.states) and a.question == b.question == "polar":
            return Difference("state", f"state in time differs: {state} on one side", veto=True)
    if a.states != b.states:
        words = f"tense differs: {_listed(a.states)} vs {_listed(b.states)}"
        return Difference("tense", words, veto=False)
    return None


def _logic(a: TextView, b: TextView) -> Difference | None:
    """Refuse "x or y" against "x and y": the same words ask for something else."""
    crossed = (a.has_or and not b.has_or and b.has_and and not a.has_and) or (
        b.has_or and not a.has_or and a.has_and and not b.has_and
    )
    if not crossed:
        return None
    close = len(a.content ^ b.content) <= 1
    return Difference("conjunction", "'or' on one side, 'and' on the other", veto=close)


def _coreference(a: TextView, b: TextView) -> Difference | None:
    """A third-person pronoun stands for someone: he/she, or a pronoun where a name stands."""
    if a.pronouns == b.pronouns:
        return None
    third_a = [p for p in a.pronouns if p in "mf"]
    third_b = [p for p in b.pronouns if p in "mf"]
    if third_a == third_b:
        return None
    if third_a and third_b:
        text = "he/she or his/her refer to someone else"
        return Difference("pronoun", text, veto=len(a.content ^ b.content) <= 2)  # noqa: PLR2004
    named = len(a.names) > 0 and len(b.names) > 0
    return Difference(
        "pronoun_for_name",
        "a pronoun on one side, a name on the other",
        veto=named and a.content == b.content,
    )


def _is_typo(x: str, y: str) -> bool:
    """Whether two words differ by one edit or one transposition (both longer than three)."""
    if min(len(x), len(y)) <= _SHORT_WORD or abs(len(x) - len(y)) > 1 or x[0].isdigit():
        return False
    i = 0
    while i < min(len(x), len(y)) and x[i] == y[i]:
        i += 1
    if len(x) == len(y):
        return x[i + 1 :] == y[i + 1 :] or (
            x[i : i + 2] == y[i : i + 2][::-1] and x[i + 2 :] == y[i + 2 :]
        )
    longer, shorter = (x, y) if len(x) > len(y) else (y, x)
    return longer[i + 1 :] == shorter[i:]


def _names(a: TextView, b: TextView) -> Difference | None:
    """Names differ; one that the other side misspells, inflects or writes in small letters does not."""
    if a.names == b.names:
        return None
    known_a, known_b = _possible_names(a), _possible_names(b)
    exact = a.codes | b.codes  # "GOOGL", "XVIII" and "NaCN" are not misspelt
    only_a = {n for n in a.names - b.names if not _occurs(n, known_b, exact)}
    only_b = {n for n in b.names - a.names if not _occurs(n, known_a, exact)}
    initials = {(x, y) for x in only_a for y in only_b if 1 in (len(x), len(y)) and x[0] == y[0]}
    only_a -= {x for x, _ in initials}
    only_b -= {y for _, y in initials}
    # Two, II and 2: what they count is among the numbers.
    return _set_difference(
        "name", "name", frozenset(only_a - _COUNTING), frozenset(only_b - _COUNTING)
    )


def _possible_names(v: TextView) -> set[str]:
    """Every word that could be a name, and the parts of those with a hyphen."""
    words = {w.removesuffix("'s") for w in v.words}
    return words.union(*(w.split("-") for w in words if "-" in w))


def _occurs(name: str, words: set[str], exact: frozenset[str]) -> bool:
    """Whether the name is among the words as it is, misspelt, in the plural, or as an adjective."""
    if name in words or stem(name) in words or name + "s" in words:
        return True
    if "-" in name and words.issuperset(filter(None, name.split("-"))):
        return True
    if name in exact:
        return False
    return any((w not in exact and _is_typo(name, w)) or _is_derived(name, w) for w in words)


def _is_derived(x: str, y: str) -> bool:
    """Whether one is the adjective of the other: Malaysia and Malaysian, Greece and Greek."""
    short, long = sorted((x, y), key=len)
    if len(short) < _SHORTEST_ROOT or not long.endswith(_ADJECTIVES):
        return False
    shared = 0
    while shared < len(short) and short[shared] == long[shared]:
        shared += 1
    return shared >= len(short) - 1


def compare(a: TextView, b: TextView) -> Differences:
    """Return the typed differences between two texts; symmetric in its arguments' vetoes.

    Costs about 15 us for two questions of twelve words.
    """
    found = [
        d
        for d in (
            _set_difference("number", "number", a.numbers, b.numbers),
            _set_difference("id", "id", a.ids, b.ids),
            _names(a, b),
            _set_difference("date", "date", a.dates, b.dates),
            _set_difference("unit", "unit", a.units, b.units),
            _time_states(a, b),
            _logic(a, b),
            _coreference(a, b),
            _qualifier(a, b),
        )
        if d is not None
    ]
    if a.orthography is not b.orthography and a.orthography != b.orthography:
        seen = orthography_differences(a.orthography, b.orthography, a.word_set, b.word_set)
        found.extend(Difference(kind, words, veto=True) for kind, words in seen)
    if a.expected_answer is not b.expected_answer and a.expected_answer != b.expected_answer:
        unlike = expected_answer_differences(
            a.expected_answer, b.expected_answer, a.content ^ b.content
        )
        found.extend(Difference(kind, words, veto=True) for kind, words in unlike)
    opposites, reversals = _polarity(a, b)
    found.extend(opposites)
    role, symmetric = _roles(a, b, reversals)
    if role is not None:
        found.append(role)
    if a.question != b.question:
        found.append(
            Difference(
                "question", f"question word differs: {a.question} vs {b.question}", veto=False
            )
        )
    return Differences(tuple(found), reversals, role is not None, symmetric)
