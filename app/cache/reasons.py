"""A decision's reasons for people, without a word of either question: they end up in traces and logs.

"same number; same names; word order the same; score 0.97; of 400 labelled questions that scored at
least 0.91, 1 had another answer: at most 0.4 % of requests and 1.2 % of hits are wrong (90 % sure)".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.cache.bound import CONFIDENCE
from app.cache.guards import compare

if TYPE_CHECKING:
    from app.cache.bound import Threshold
    from app.cache.decision import Decision
    from app.cache.guards import Differences
    from app.cache.text_view import TextView

_TYPED: Final = (
    ("number", "numbers"),
    ("id", "ids"),
    ("name", "names"),
    ("date", "dates"),
    ("unit", "units"),
)
_OTHERWISE: Final = {
    "number": "another number",
    "id": "another id",
    "name": "another name",
    "date": "another date",
    "unit": "another unit",
    "number_one_sided": "a number on one side only",
    "id_one_sided": "an id on one side only",
    "name_one_sided": "a name on one side only",
    "date_one_sided": "a date on one side only",
    "unit_one_sided": "a unit on one side only",
    "opposite": "opposite words",
    "negation": "one of the two is negated",
    "role_swap": "the same words in other roles",
    "qualifier": "one asks more narrowly",
    "state": "another state in time",
    "tense": "another tense",
    "conjunction": "'or' against 'and'",
    "pronoun": "another pronoun",
    "pronoun_for_name": "a pronoun where the other has a name",
    "question": "another question word",
    "marks": "other symbols",
    "script": "something else in another script",
    "quoted": "another text is quoted",
    "accent": "another accent",
    "case": "capitals that tell differ",
    "asked": "asks for something else (who, when, where, why, how many)",
    "quantity": "another quantity (all, some, none, only)",
    "order": "another order or time (first, next, before, weekly)",
    "form": "another form of answer",
    "language": "another language",
    "foreign": "another negation, number or preposition in another language",
}


def in_words(query: TextView, decision: Decision, threshold: Threshold | None) -> tuple[str, ...]:
    """Why ``decision`` was taken; empty where nothing was near."""
    candidate = decision.candidate
    if candidate is None:
        return ()
    seen = compare(query, candidate.view)
    said = [*_alike(query, candidate.view, seen), *_unlike(seen)]
    if seen.vetoes:
        return (*said, "that forbids a hit at any score")
    said.append(f"score {decision.score:.2f}")
    if threshold is None:
        return (*said, "no evidence yet: shadow mode")
    if decision.score < threshold.score:
        return (*said, f"below the certified {threshold.score:.2f}")
    said.append(
        f"of {threshold.hits} labelled questions that scored at least {threshold.score:.2f},"
        f" {threshold.wrong} had another answer: at most {threshold.upper_per_request:.1%} of requests"
        f" and {threshold.upper_per_hit:.1%} of hits are wrong ({CONFIDENCE:.0%} sure)"
    )
    if decision.audit:
        said.append("asked of the model all the same, to check")
    elif not decision.serve:
        said.append(decision.reasons[0])  # what speaks against this entry
    return tuple(said)


def _alike(query: TextView, stored: TextView, seen: Differences) -> list[str]:
    """What both have, and have equal; what neither has is not worth a word."""
    said = []
    for kind, plural in _TYPED:
        mine = getattr(query, plural)
        if mine and not seen.has(kind) and not seen.has(f"{kind}_one_sided"):
            said.append(f"same {kind if len(mine) == 1 else plural}")
    if query.negations and stored.negations and not seen.has("negation"):
        said.append("both negated")
    if query.content == stored.content:
        said.append("the same content words")
    if not seen.swapped:
        said.append("order of roles equal")
    return said


def _unlike(seen: Differences) -> list[str]:
    return list(dict.fromkeys(_OTHERWISE.get(d.kind, d.kind) for d in seen.found))
