"""Typed near-misses: what the guards let through, by kind of pair, beside cosine alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cache.guards import compare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.cache.data import Pair

COSINE = 0.85
_ROLE_KINDS = ("srl", "order", "role", "passive", "asymmetric", "swap")


@dataclass(frozen=True, slots=True)
class Suite:
    """One file's figures. Recall over pairs with one answer, false hits over the others."""

    name: str
    pairs: int
    cosine_recall: float
    cosine_false_hits: float
    recall: float
    false_hits: float
    role_false_hits: float | None
    kinds: dict[str, dict[str, float]]
    guards: dict[str, dict[str, float]]

    @property
    def recall_kept(self) -> float:
        """Our recall as a share of cosine's."""
        return self.recall / self.cosine_recall if self.cosine_recall else 1.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def judge(name: str, pairs: Sequence[Pair]) -> Suite:
    """Serve a pair iff its cosine is at least 0.85 and no guard forbids it."""
    kinds: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    fired: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    total: dict[str, int] = defaultdict(int)
    for pair in pairs:
        near = pair.cosine >= COSINE
        seen = compare(pair.a, pair.b)
        served = near and not seen.vetoes
        side = "same" if pair.same else "other"
        role = not pair.same and any(k in pair.kind.lower() for k in _ROLE_KINDS)
        for key, value in (("n", 1), ("near", near), ("served", served)):
            total[f"{side}_{key}"] += value
            kinds[pair.kind][f"{side}_{key}"] += value
            if role:
                total[f"role_{key}"] += value
        for difference in seen.found if near else ():
            what = difference.kind + (" (veto)" if difference.veto else " (feature)")
            fired[what]["n"] += 1
            fired[what]["same"] += pair.same
    return Suite(
        name=name,
        pairs=len(pairs),
        cosine_recall=_share(total["same_near"], total["same_n"]),
        cosine_false_hits=_share(total["other_near"], total["other_n"]),
        recall=_share(total["same_served"], total["same_n"]),
        false_hits=_share(total["other_served"], total["other_n"]),
        role_false_hits=_share(total["role_served"], total["role_n"]) if total["role_n"] else None,
        kinds={
            kind: {
                "same": counts["same_n"],
                "cosine_recall": _share(counts["same_near"], counts["same_n"]),
                "recall": _share(counts["same_served"], counts["same_n"]),
                "other": counts["other_n"],
                "cosine_false_hits": _share(counts["other_near"], counts["other_n"]),
                "false_hits": _share(counts["other_served"], counts["other_n"]),
            }
            for kind, counts in sorted(kinds.items())
        },
        guards={
            what: {"n": c["n"], "same_answer": _share(c["same"], c["n"])}
            for what, c in sorted(fired.items())
        },
    )
