"""Numbers that describe a pair of questions, for the verifier.

Three groups: the 34 lexical and typed features (cosine, overlaps, rarity of what is unmatched,
typed mismatches, order), late interaction (how well each word piece of one text finds its
counterpart in the other, from token vectors of the same forward pass), and what the verifier adds
from the neighbourhood. Features are symmetric in the two texts unless their name says otherwise,
so that a pair gets one score.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from app.cache.guards import Differences, compare
from app.cache.lexicon import FILLERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

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

LATE_FEATURES: Final = (
    "late_worst_low",
    "late_worst_high",
    "late_mean_low",
    "late_mean_high",
    "late_second_worst",
    "late_same_piece_worst",
    "late_same_piece_mean",
)

_MOST_SPELLINGS: Final = 9


class Rarity(Protocol):
    """How rare a stem is on this traffic, in nats; higher is rarer."""

    def __call__(self, word: str) -> float:
        """Inverse document frequency of a stem; never negative."""
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
    if len(left) * len(right) > _MOST_SPELLINGS:
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
    rising = sum(y > x for x, y in pairwise(line))
    return rising / (len(line) - 1)


def _preposition_conflicts(a: TextView, b: TextView, shared: frozenset[str]) -> int:
    left, right = a.governors, b.governors
    return sum(1 for s in shared if left.get(s) and right.get(s) and left[s] != right[s])


def pair_features(
    a: TextView, b: TextView, cosine: float, rarity: Rarity, seen: Differences | None = None
) -> list[float]:
    """Return the `FEATURES` of a pair, in order. `cosine` in [-1, 1] of the sentence vectors."""
    differences = compare(a, b) if seen is None else seen
    kinds = {d.kind for d in differences.found}
    shared = a.content & b.content
    only_a = [s for s in a.stem_set - b.stem_set if s not in FILLERS]
    only_b = [s for s in b.stem_set - a.stem_set if s not in FILLERS]
    content_a = [s for s in only_a if s in a.content]
    content_b = [s for s in only_b if s in b.content]
    rare_a, rare_b = [rarity(s) for s in content_a], [rarity(s) for s in content_b]
    worst_a, worst_b = max(rare_a, default=0.0), max(rare_b, default=0.0)
    lost = sum(rare_a) + sum(rare_b)
    kept = sum(rarity(s) for s in shared)
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
        float(_preposition_conflicts(a, b, shared)),
        _order_agreement(a, b, shared),
        float(low),
        float(high - low),
    ]


def late_features(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    a_pieces: NDArray[np.int64],
    b_pieces: NDArray[np.int64],
) -> list[float]:
    """Return the `LATE_FEATURES`.

    `a` float32[n, d] and `b` float32[m, d] are L2-normalised token vectors without the special
    tokens, `a_pieces` int[n] and `b_pieces` int[m] their vocabulary ids. NaNs when a side is empty.
    """
    if not len(a) or not len(b):
        return [math.nan] * len(LATE_FEATURES)
    similar = a @ b.T
    best_a, best_b = similar.max(axis=1), similar.max(axis=0)
    worst_a, worst_b = float(best_a.min()), float(best_b.min())
    mean_a, mean_b = float(best_a.mean()), float(best_b.mean())
    both = np.concatenate([best_a, best_b])
    second = float(np.partition(both, 1)[1]) if len(both) > 1 else float(both[0])
    same = similar[a_pieces[:, None] == b_pieces[None, :]]
    same_worst = float(same.min()) if len(same) else math.nan
    same_mean = float(same.mean()) if len(same) else math.nan
    return [
        min(worst_a, worst_b),
        max(worst_a, worst_b),
        min(mean_a, mean_b),
        max(mean_a, mean_b),
        second,
        same_worst,
        same_mean,
    ]
