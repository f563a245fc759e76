"""A decision explained for people, without a word of either question: it ends up in traces and logs.

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
_PHRASES: Final = {
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


def explain(query: TextView, decision: Decision, threshold: Threshold | None) -> tuple[str, ...]:
    """Return why ``decision`` was taken; empty where nothing was near."""
    candidate = decision.candidate
    if candidate is None:
        return ()
    seen = compare(query, candidate.view)
    phrases = [*_alike(query, candidate.view, seen), *_unlike(seen)]
    if seen.vetoes:
        return (*phrases, "that forbids a hit at any score")
    phrases.append(f"score {decision.score:.2f}")
    if threshold is None:
        return (*phrases, "no evidence yet: shadow mode")
    if decision.score < threshold.score:
        return (*phrases, f"below the certified {threshold.score:.2f}")
    phrases.append(
        f"of {threshold.hits} labelled questions that scored at least {threshold.score:.2f},"
        f" {threshold.wrong} had another answer: at most {threshold.upper_per_request:.1%} of requests"
        f" and {threshold.upper_per_hit:.1%} of hits are wrong ({CONFIDENCE:.0%} sure)"
    )
    if decision.audit:
        phrases.append("asked of the model all the same, to check")
    elif not decision.serve:
        phrases.append(decision.reasons[0])  # what speaks against this entry
    return tuple(phrases)


def _alike(query: TextView, stored: TextView, seen: Differences) -> list[str]:
    """What both have in common; what neither has is left out."""
    phrases = []
    for kind, plural in _TYPED:
        mine = getattr(query, plural)
        if mine and not seen.has(kind) and not seen.has(f"{kind}_one_sided"):
            phrases.append(f"same {kind if len(mine) == 1 else plural}")
    if query.negations and stored.negations and not seen.has("negation"):
        phrases.append("both negated")
    if query.content == stored.content:
        phrases.append("the same content words")
    if not seen.swapped:
        phrases.append("order of roles equal")
    return phrases


def _unlike(seen: Differences) -> list[str]:
    return list(dict.fromkeys(_PHRASES.get(d.kind, d.kind) for d in seen.found))
