"""The lexical features of a pair of questions, for the verifier.

Cosine, overlaps, the IDF of what is unmatched, typed mismatches, order and length; the verifier adds
the route's word weights and the neighbours' answers. Features are symmetric in the two texts, but for
order and spelling where words repeat, so that a pair gets one score.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol

from app.cache.guards import Differences, compare
from app.cache.lexicon import FILLERS

if TYPE_CHECKING:
    from app.cache.text_view import TextView

FEATURES: Final = (
    "cosine",
    "token_jaccard",
    "content_jaccard",
    "trigram_jaccard",
    "bigram_jaccard",
    "idf_overlap",
    "unmatched_idf_max_low",
    "unmatched_idf_max_high",
    "unmatched_idf_sum",
    "unmatched_low",
    "unmatched_high",
    "unmatched_content_low",
    "unmatched_content_high",
    "inserted_only",
    "one_substitution",
    "unmatched_spelling",
    "number_two_sided",
    "number_one_sided",
    "id_two_sided",
    "name_two_sided",
    "name_one_sided",
    "date_two_sided",
    "date_one_sided",
    "unit_mismatch",
    "negation",
    "opposites",
    "polarity_odd",
    "polarity_even",
    "state",
    "conjunction",
    "pronoun",
    "role_swap",
    "symmetric_order",
    "question_differs",
    "preposition_conflicts",
    "order_agreement",
    "length_low",
    "length_gap",
)

_MAX_SPELLINGS: Final = 9
_TYPED: Final = FEATURES[
    FEATURES.index("number_two_sided") : FEATURES.index("question_differs") + 1
]
_NOTHING_SEEN: Final = (0.0,) * len(_TYPED)
_SYMMETRIC: Final = tuple(float(name == "symmetric_order") for name in _TYPED)


class IdfFunction(Protocol):
    """Inverse document frequency of stems on a route, in nats; higher is rarer."""

    def __call__(self, word: str) -> float:
        """The stem's; never negative."""
        ...


def _jaccard(x: frozenset[object], y: frozenset[object]) -> float:
    shared = len(x & y)
    total = len(x) + len(y) - shared
    return shared / total if total else 1.0


@lru_cache(maxsize=65_536)
def _letters(word: str) -> frozenset[str]:
    return frozenset(word[i : i + 2] for i in range(len(word) - 1)) or frozenset((word,))


def _spelling(left: list[str], right: list[str]) -> float:
    """Worst best share of letter bigrams between unmatched words; finds typos and inflections."""
    if not left or not right:
        return 1.0
    if len(left) * len(right) > _MAX_SPELLINGS:
        return 0.0  # too much is unmatched for spelling to explain it
    worst = 1.0
    for x in left:
        bits = _letters(x)
        best = max(len(bits & _letters(y)) / max(len(bits), len(_letters(y))) for y in right)
        worst = min(worst, best)
    return worst


def _order_agreement(a: TextView, b: TextView, shared: frozenset[str]) -> float:
    """Share of the neighbouring shared content words that keep their order; 1 if fewer than two."""
    if len(shared) < 2:  # noqa: PLR2004 - an order needs two
        return 1.0
    place = {s: i for i, s in enumerate(b.stems)}
    line = [place[s] for s in dict.fromkeys(a.stems) if s in shared]
    rising = sum([y > x for x, y in pairwise(line)])
    return rising / (len(line) - 1)


def _preposition_conflicts(a: TextView, b: TextView, shared: frozenset[str]) -> int:
    left, right = a.governors.get, b.governors.get
    return len([s for s in shared if left(s) and right(s) and left(s) != right(s)])


def _typed(differences: Differences) -> tuple[float, ...]:
    """What the guards saw, as numbers."""
    if not differences.found and not differences.polarity:
        return _SYMMETRIC if differences.symmetric else _NOTHING_SEEN
    kinds = {d.kind for d in differences.found}
    return (
        float("number" in kinds),
        float("number_one_sided" in kinds),
        float("id" in kinds),
        float("name" in kinds),
        float("name_one_sided" in kinds),
        float("date" in kinds),
        float("date_one_sided" in kinds),
        float("unit" in kinds),
        float("negation" in kinds),
        float(sum(d.kind == "opposite" for d in differences.found)),
        float(differences.polarity % 2),
        float(differences.polarity > 0 and differences.polarity % 2 == 0),
        float("state" in kinds) + 0.5 * float("tense" in kinds),
        float("conjunction" in kinds),
        float("pronoun" in kinds or "pronoun_for_name" in kinds),
        float(differences.swapped),
        float(differences.symmetric),
        float("question" in kinds),
    )


def pair_features(
    a: TextView, b: TextView, cosine: float, idf: IdfFunction, seen: Differences | None = None
) -> list[float]:
    """Return the `FEATURES` of a pair, in order. `cosine` in [-1, 1] of the sentence vectors."""
    differences = compare(a, b) if seen is None else seen
    shared = a.content & b.content
    only_a, only_b = a.stem_set - b.stem_set - FILLERS, b.stem_set - a.stem_set - FILLERS
    content_a, content_b = [*(only_a & a.content)], [*(only_b & b.content)]
    rare_a, rare_b = [idf(s) for s in content_a], [idf(s) for s in content_b]
    worst_a, worst_b = max(rare_a, default=0.0), max(rare_b, default=0.0)
    lost = sum(rare_a) + sum(rare_b)
    kept = sum(idf(s) for s in shared)
    n_a, n_b = len(content_a), len(content_b)
    low, high = sorted((len(a.words), len(b.words)))
    return [
        cosine,
        _jaccard(a.stem_set, b.stem_set),
        _jaccard(a.content, b.content),
        _jaccard(a.trigrams, b.trigrams),
        _jaccard(a.bigrams, b.bigrams),
        2 * kept / (2 * kept + lost) if kept + lost else 1.0,
        min(worst_a, worst_b),
        max(worst_a, worst_b),
        lost,
        min(len(only_a), len(only_b)),
        max(len(only_a), len(only_b)),
        min(n_a, n_b),
        max(n_a, n_b),
        float((n_a == 0) != (n_b == 0)),
        float(n_a == 1 and n_b == 1),
        _spelling(content_a, content_b),
        *_typed(differences),
        float(_preposition_conflicts(a, b, shared)),
        _order_agreement(a, b, shared),
        float(low),
        float(high - low),
    ]
